"""`--data.batch_size auto`: as many windows in a training batch as memory has room for, in steps that stay as they are.

A pass is the forward and backward pass over one batch; a step of the optimizer has as many passes as its windows need.
Lightning's `BatchSizeFinder` doubles the batch, and with it the step, up to what some random batches leave room for. It
needs one device, trains real steps through the loops and writes a checkpoint for the way back, and on a CPU nothing
stops it. Here the step stays as it is, the longest windows are tried, and nothing changes but memory.

Limits: the trial is of training. A validation whose `eval_batch_size` is too large still runs out of memory.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BaseFinetuning, BatchSizeFinder, GradientAccumulationScheduler
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

from qa_lightning.errors import InputError
from qa_lightning.features.batching import FeatureDataset, PaddingCollator, longest_first
from qa_lightning.features.defaults import BATCH_SIZE
from qa_lightning.runs.memory import Pass, checkpoints_gradients, memory_size
from qa_lightning.wording import counted

log = logging.getLogger("qa_lightning")

# What decides the batches of a run, as a data module's checkpoint names it.
_SIZE, _ACCUMULATED, _TOKENS = "--data.batch_size", "--trainer.accumulate_grad_batches", "--data.tokens_per_batch"


class AutoBatchSize:
    """How many windows a training batch has on each device, and how many passes a step, where memory decides it.

    Args:
        windows_per_step: windows per optimizer step, on all devices together. None: those of the usual batch size on
            each device.

    Attributes:
        size: windows per batch and device; 0 until it is found.
        passes: of a step; None until the Trainer counts in them.
    """

    def __init__(self, windows_per_step: int | None) -> None:
        self.windows_per_step = windows_per_step
        self.size = 0
        self.passes: int | None = None
        self._before: dict[str, Any] = {}  # what the Trainer's flags were

    def step_size(self, devices: int) -> int:
        """Windows per optimizer step on so many devices together."""
        return self.windows_per_step or BATCH_SIZE * devices

    def problems(self, trainer: Trainer, module: LightningModule | None) -> list[str]:
        """A line for each reason why memory cannot decide the batch size of a Trainer that fits ``module``."""
        problems, devices = _trainer_problems(trainer), trainer.world_size
        if trainer.strategy.root_device.type == "cpu" and module is not None and checkpoints_gradients(module):
            problems.append(
                "--data.batch_size auto: on a CPU it cannot count the memory of a model with gradient checkpointing; "
                "pass a number, or do without checkpointing"
            )
        if (step := self.step_size(devices)) % devices:
            fewer, more = step // devices * devices, -(-step // devices) * devices
            problems.append(
                f"--data.windows_per_step {step} cannot be divided evenly among {devices} devices; pass "
                + (f"{fewer} or {more}" if fewer else str(more))
            )
        return problems

    def forget(self) -> None:
        """Find the size anew: another fit begins."""
        self.size, self.passes = 0, None

    def resume(self, order: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Go on with the batch size of a checkpoint, if its steps are those of now.

        Args:
            order: what decided the batches of the checkpoint's run, by name.
            now: what decides those of this run.

        Returns:
            Both, to be compared: with the windows of a step in place of batch size and accumulation.
        """
        processes = now["processes"]
        step, step_now = None, self.step_size(processes)  # None: the checkpoint's steps are filled by tokens
        if order.get(_TOKENS) is None:
            size = int(order[_SIZE])
            step = size * int(order[_ACCUMULATED]) * int(order["processes"])
            if size >= 1 and (step, order["processes"]) == (step_now, processes):
                self.size = size
        return _in_steps(order, step), _in_steps(now, step_now)

    def settle(
        self, trainer: Trainer | None, windows: FeatureDataset, collate: PaddingCollator, per_epoch: int
    ) -> None:
        """Find the size when a fit begins, unless a checkpoint has told it; from then on the Trainer counts in passes.

        Args:
            trainer: the one that begins to fit.
            windows: what it trains on.
            collate: makes batches of them.
            per_epoch: how many of them an epoch takes.

        Raises:
            InputError: there is no Trainer, it or its model stands in the way, or not even one window fits.
        """
        if self.passes is not None:
            return
        if trainer is None:
            raise InputError("--data.batch_size auto: the size is found when a Trainer begins to fit; pass a number")
        step, devices = self.step_size(trainer.world_size), trainer.world_size
        steps = -(-per_epoch // step)
        problems = self.problems(trainer, trainer.lightning_module)  # again: hooks have had their turn since `setup`
        if problems := problems + _interval_problems(trainer, steps):
            raise InputError(problems)
        why = "as in the checkpoint" if self.size else self._find(trainer, windows, collate)
        self.passes = step // devices // self.size
        self._before = _count_in_passes(trainer, self.passes, steps)
        if trainer.is_global_zero:
            where = f" on each of {devices} devices" if devices > 1 else ""
            passes = "1 pass" if self.passes == 1 else f"{self.passes} passes"
            log.info(
                f"batches:   {counted(self.size, 'window')} in one pass{where}, {passes} per step of "
                f"{counted(step, 'window')}; {why}"
            )

    def give_back(self, trainer: Trainer) -> None:
        """Give a Trainer its own flags back, when the fit is over."""
        for name, value in self._before.items():
            setattr(trainer, name, value)
        self._before = {}

    def _find(self, trainer: Trainer, windows: FeatureDataset, collate: PaddingCollator) -> str:
        """Find the largest size that fits on every device and divides the step; returns the reason, for people."""
        strategy, devices = trainer.strategy, trainer.world_size
        device = strategy.root_device

        def smallest(value: int) -> int:
            return int(strategy.reduce(torch.tensor(value, device=device), reduce_op="min"))

        sizes = divisors(self.step_size(devices) // devices)
        self.size = _trial(trainer, windows, collate, sizes[-1]).most_windows(sizes, smallest)
        if not self.size:
            longest = int(windows.store.windows["length"].max())
            raise InputError(
                f"--data.batch_size auto: not even one window of {longest} tokens fits into {memory_size(device)}; use "
                "another device, a smaller model, or a shorter --data.max_length"
            )
        memory = memory_size(device) if devices == 1 else "the memory of each device"
        more = next((size for size in sizes if size > self.size), None)
        if more is not None:
            return f"{more} do not fit into {memory}"
        larger = "" if self.windows_per_step else ", and --data.windows_per_step N makes it larger"
        return f"the whole step fits into {memory}{larger}"


def divisors(count: int) -> list[int]:
    """The numbers of windows into which a step of ``count`` can be divided evenly, rising."""
    low = [size for size in range(1, math.isqrt(count) + 1) if count % size == 0]
    return sorted({*low, *(count // size for size in low)})


def _in_steps(order: Mapping[str, Any], step: int | None) -> dict[str, Any]:
    others = {name: value for name, value in order.items() if name not in (_SIZE, _ACCUMULATED)}
    return {**others, "windows per step": step}


def _trial(trainer: Trainer, windows: FeatureDataset, collate: PaddingCollator, most: int) -> Pass:
    """A pass of the training that begins, with up to ``most`` of its longest windows."""
    module, device = trainer.lightning_module, trainer.strategy.root_device
    losses_of = getattr(module, "feature_losses", None)
    if losses_of is None:
        raise InputError(
            f"--data.batch_size auto: it tries passes of QALightningModule, and {type(module).__name__} is none; "
            "pass a number"
        )
    longest = longest_first(windows.store.windows["length"])[: max(2, most)].tolist()

    def losses(count: int) -> torch.Tensor:
        batch = collate([windows[index] for index in longest[:count]])
        with trainer.precision_plugin.train_step_context():
            found: torch.Tensor = losses_of({name: one.to(device) for name, one in batch.items()})
        return found

    return Pass(module, losses, device, trainer.num_devices)


def _trainer_problems(trainer: Trainer) -> list[str]:
    """A line for each thing in a Trainer that does not go together with a search."""
    problems = []
    strategy, accumulated = trainer.strategy, trainer.accumulate_grad_batches
    if (kind := strategy.root_device.type) not in ("cpu", "cuda"):
        problems.append(f"it needs a CPU or a CUDA GPU, and this run is on the device {kind!r}; pass a number")
    if not isinstance(strategy, (SingleDeviceStrategy, DDPStrategy)):
        problems.append(f"it cannot try a pass under {type(strategy).__name__}, which divides the model; pass a number")
    if accumulated != 1:
        problems.append(
            f"it accumulates as memory needs it; in place of --trainer.accumulate_grad_batches {accumulated}, pass "
            "--data.windows_per_step N, the windows of a step on all devices together"
        )
    if isinstance(every := _validation_interval(trainer), int) and trainer.check_val_every_n_epoch is None:
        problems.append(
            f"it counts --trainer.val_check_interval {every} in steps of each epoch, not of all together; pass "
            "--trainer.check_val_every_n_epoch 1 too, or a number in place of auto"
        )
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        name = type(callback).__name__
        if isinstance(callback, (BatchSizeFinder, GradientAccumulationScheduler)):
            problems.append(f"it does what --trainer.callbacks {name} does too; leave one out")
        if isinstance(callback, BaseFinetuning):
            problems.append(
                f"it cannot foresee the memory of weights that --trainer.callbacks {name} thaws; pass a number"
            )
    return [f"--data.batch_size auto: {problem}" for problem in problems]


def _interval_problems(trainer: Trainer, steps: int) -> list[str]:
    """A line if validations are to come later than an epoch ends, told with the interval as it was given.

    Args:
        trainer: before its loops read the limits.
        steps: in an epoch, without limits.
    """
    every, (_, steps) = _validation_interval(trainer), _limited(trainer, steps)
    if not isinstance(every, int) or every <= steps:
        return []
    return [
        f"--data.batch_size auto: --trainer.val_check_interval {every} is more than the {counted(steps, 'step')} of an "
        f"epoch; pass at most {steps}, or leave it out"
    ]


def _count_in_passes(trainer: Trainer, passes: int, steps: int) -> dict[str, Any]:
    """Let a Trainer accumulate ``passes`` batches, and take its limits, which were meant in steps, in such batches.

    Args:
        trainer: before its loops read the limits.
        passes: of an optimizer step.
        steps: in an epoch, without limits.

    Returns:
        Name -> value before, of the Trainer's attributes that were changed, for the way back.
    """
    limit, steps = _limited(trainer, steps)
    changed: dict[str, Any] = {"accumulate_grad_batches": passes}
    if isinstance(limit, int):
        changed["limit_train_batches"] = limit * passes
    every = _validation_interval(trainer)
    if isinstance(every, float) and every < 1.0:
        every = max(1, int(steps * every))
    if isinstance(every, int):
        # The last step may have fewer passes than the others, so its end is that of the epoch.
        changed["val_check_interval"] = 1.0 if every == steps else every * passes
    before = {name: getattr(trainer, name) for name in changed}
    for name, value in changed.items():
        setattr(trainer, name, value)
    return before


def _limited(trainer: Trainer, steps: int) -> tuple[int | float, int]:
    """The limit of training batches, meant in steps, where a part becomes a number; and an epoch's steps within it."""
    limit = trainer.limit_train_batches
    if isinstance(limit, float) and limit < 1.0:
        limit = int(steps * limit) or limit  # the Trainer refuses a part that is no step
    return limit, min(limit, steps) if isinstance(limit, int) else steps


def _validation_interval(trainer: Trainer) -> int | float | None:
    """Steps, or the part of an epoch, after which a Trainer validates; None: after a time, or never."""
    every: int | float | None = getattr(trainer, "val_check_interval", None)
    return every if trainer.limit_val_batches else None
