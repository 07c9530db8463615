"""Means of weights: a running one (``--ema_decay``), and that of the best checkpoints (``--average_best``).

`RunningMean` stands in for the weights in validations and checkpoints. `BestWeights` keeps the weights of the best
validations, alone, without the optimizer's state; `write_mean` averages them when the run ends.

Limits: both take whole weights, of one device or of several with the strategy ``ddp``. The best checkpoints are those
by the score on the validation data, and so is the choice between their mean and the best one: that score is a little
too good for both.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from qa_lightning.layout import KEPT_WEIGHTS, MEAN
from qa_lightning.runs.record import own_folder
from qa_lightning.training.callbacks import BestCheckpoint

log = logging.getLogger("qa_lightning")

_SCORES = {"val/f1": "F1", "val/best_f1": "best F1"}  # what `BestCheckpoint` monitors, for people


class RunningMean(WeightAveraging):
    """Validates and saves an exponential mean of the weights: ``mean += (1 - decay) * (weights - mean)`` at each step.

    The first step's weights are the first mean. Weights that do not change, such as frozen ones, are their own mean to
    the bit. Buffers are those of the weights: a mean of position ids, made an integer again, is sometimes one too low.

    Lightning's `EMAWeightAveraging` makes its mean before the model is on its device. On a GPU it would copy all
    weights to the host at every step; and it swaps weights in validations after the fit, too.

    Args:
        decay: the part of itself that the mean keeps at each step.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(use_buffers=False)
        self.decay = decay

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Make the mean, on the device that the model is going to be on."""
        if stage == "fit":
            self._average_model = _Mean(pl_module, self.decay, trainer.strategy.root_device)
            self._latest_update_step = 0  # of an earlier fit; a resumed run's is restored afterwards

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Swap mean and weights, in a fit."""
        if trainer.state.fn == TrainerFn.FITTING:
            super().on_validation_epoch_start(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Swap them back."""
        if trainer.state.fn == TrainerFn.FITTING:
            super().on_validation_epoch_end(trainer, pl_module)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Restore mean and weights, in a fit; elsewhere the mean is what was loaded."""
        if trainer.state.fn != TrainerFn.FITTING:
            return
        if "current_model_state" in checkpoint:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)
            return
        assert self._average_model is not None
        self._average_model.module.load_state_dict(pl_module.state_dict(), strict=False)  # for a validation before it
        if trainer.is_global_zero:
            log.info("mean:      the checkpoint holds no running mean of the weights; one begins at the next step")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Free the mean's memory: the model has taken its values."""
        if stage == "fit":
            self._average_model = None


class _Mean(AveragedModel):
    """The mean of the weights in the children of a module, by the same names; it reads nothing from a device.

    Only children are copied, because a module may hold much else, such as the answers of a validation.
    """

    def __init__(self, module: LightningModule, decay: float, device: torch.device) -> None:
        children = torch.nn.Module()
        for name, child in module.named_children():
            children.add_module(name, child)
        super().__init__(children, device)
        self.decay = decay
        self._begun: bool | None = None
        self._saved = {f"module.{name}" for name in module.state_dict()}

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Of the weights, those that the module saves: with adapters, they and the head alone."""
        state = super().state_dict(*args, **kwargs)
        return {name: value for name, value in state.items() if name in self._saved or not name.startswith("module.")}

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Load what was saved; the weights that were not stay."""
        return super().load_state_dict({**super().state_dict(), **state_dict}, *args, **kwargs)

    @torch.no_grad()
    def update_parameters(self, model: torch.nn.Module) -> None:
        """Take in the weights of a step."""
        if self._begun is None:
            self._begun = bool(self.n_averaged > 0)  # waits for the device, once
        both = zip(self.module.parameters(), model.parameters(), strict=True)
        pairs = [(kept, weight) for kept, weight in both if weight.requires_grad]  # the others are their own mean
        own: list[Tensor] = [kept for kept, _ in pairs]
        given: list[Tensor] = [weight for _, weight in pairs]
        if self._begun:
            torch._foreach_lerp_(own, given, 1 - self.decay)
        else:
            torch._foreach_copy_(own, given)
        for kept, buffer in zip(self.module.buffers(), model.buffers(), strict=True):
            kept.copy_(buffer)
        self.n_averaged += 1
        self._begun = True


@dataclass(frozen=True)
class KeptWeights:
    """A file with the weights of a validation.

    Attributes:
        path: the file.
        step: optimizer steps that were done.
        score: of the validation.
    """

    path: Path
    step: int
    score: float


class BestWeights(Callback):
    """Keeps the weights of the best validations by the score of `BestCheckpoint`; the first process does.

    Where scores are equal, the earlier weights are kept, as by `BestCheckpoint`. A resumed run goes on with the files
    that are there; those of later steps than its checkpoint's come again.

    Args:
        count: of validations.

    Attributes:
        kept: files, best first.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.kept: list[KeptWeights] = []
        self._begun = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin at the first step, unless a checkpoint says otherwise."""
        if stage == "fit":
            self._begun = 0

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Note the step that the run resumes from."""
        if trainer.state.fn == TrainerFn.FITTING:
            self._begun = checkpoint["global_step"]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find what an earlier start of this run has kept."""
        folder = _folder(trainer)
        if folder is None or not trainer.is_global_zero:
            return
        found = [_read(path) for path in folder.glob("*.ckpt")] if folder.is_dir() else []
        self._keep([one for one in found if one is not None and one.step <= self._begun], folder)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the weights, if they are among the best."""
        folder = _folder(trainer)
        if folder is None or not trainer.is_global_zero:
            return
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        step, score = trainer.global_step, score_of(trainer)
        new = KeptWeights(folder / f"step-{step}.ckpt", step, score)
        others = [one for one in self.kept if one.step != step]
        if new not in _best([*others, new])[: self.count]:
            return
        content = {"step": step, "score": score, "state_dict": pl_module.state_dict()}
        trainer.strategy.checkpoint_io.save_checkpoint(content, new.path)  # a failure is a warning
        self._keep([*others, *([new] if new.path.is_file() else [])], folder)

    def _keep(self, files: Sequence[KeptWeights], folder: Path) -> None:
        """Keep the best of some files, and remove all others in the folder."""
        self.kept = _best(files)[: self.count]
        for path in set(folder.glob("*.ckpt")) - {one.path for one in self.kept}:
            path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the files."""
        for one in self.kept:
            one.path.unlink(missing_ok=True)
        if self.kept:
            folder = self.kept[0].path.parent
            (folder / MEAN).unlink(missing_ok=True)  # there where its validation has failed
            if not any(folder.iterdir()):
                folder.rmdir()
        self.kept = []


@dataclass(frozen=True)
class MeanOfBest:
    """The mean of the best weights, beside the best checkpoint.

    Attributes:
        path: a checkpoint of the mean.
        steps: of the weights, rising.
        wanted: how many there were to be.
        best: the best checkpoint's score, of what `BestCheckpoint` monitors.
        score: the mean's own; None until it is validated.
    """

    path: Path
    steps: tuple[int, ...]
    wanted: int
    best: float
    score: float | None = None

    @property
    def taken(self) -> bool:
        """Whether the mean is the model: it scores at least as the best checkpoint does."""
        return self.score is not None and self.score >= self.best

    def line(self, trainer: Trainer) -> str:
        """What came of it, for people."""
        assert self.score is not None
        name, steps = _SCORES[_best_checkpoint(trainer).monitor or ""], ", ".join(map(str, self.steps))
        fewer = "" if len(self.steps) == self.wanted else f" of {self.wanted} wanted"
        what = "the mean is the model" if self.taken else "the best checkpoint stays the model"
        return (
            f"mean of the {len(self.steps)} best{fewer} (steps {steps}): {name} {self.score:.2f}; best checkpoint "
            f"{self.best:.2f}: {what}"
        )

    def as_json(self) -> dict[str, Any]:
        """For the run's record."""
        return {"steps": list(self.steps), "score": self.score, "best": self.best, "taken": self.taken}


def write_mean(trainer: Trainer, module: LightningModule, best: Path) -> MeanOfBest | str | None:
    """Write a checkpoint with the mean of the weights that `BestWeights` kept, on the first process.

    Args:
        trainer, module: of the run.
        best: the best checkpoint: the mean's has all that it has but what only training needs.

    Returns:
        The mean; why there is none; or None where none was asked for.
    """
    found: list[Any] = [one for one in trainer.callbacks if isinstance(one, BestWeights)]  # type: ignore[attr-defined]
    if not found:
        return None
    kept, wanted = sorted(found[0].kept, key=lambda one: one.step), found[0].count
    if len(kept) < 2:
        there = "the weights of one validation are" if kept else "no weights are"
        return f"{there} there, and --average_best {wanted} needs at least two; the best checkpoint stays the model"
    names = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    first = kept.index(_best(kept)[0])
    states = [load_weights(one.path) for one in kept]
    training = ("optimizer_states", "lr_schedulers", "callbacks", "loops")
    content = {name: value for name, value in _load(best).items() if name not in training}
    content["state_dict"] = mean_weights(states, names, first)
    path = kept[0].path.with_name(MEAN)
    path.unlink(missing_ok=True)
    trainer.strategy.checkpoint_io.save_checkpoint(content, path)
    if not path.is_file():
        return "their mean could not be written; the best checkpoint stays the model"
    score = _best_checkpoint(trainer).best_model_score
    return MeanOfBest(path, tuple(one.step for one in kept), wanted, float(score if score is not None else "nan"))


def mean_weights(states: Sequence[Mapping[str, Tensor]], parameters: Collection[str], best: int) -> dict[str, Tensor]:
    """The mean of the floating-point parameters of some state dictionaries, in float64; the rest as in one of them.

    Args:
        states: alike in names and shapes.
        parameters: names of those that are averaged.
        best: index of the state that the rest, such as buffers, is taken from.

    Returns:
        By name, in the types of the best. Weights that are one there under several names are one here, too.
    """
    found: dict[str, Tensor] = {}
    seen: dict[tuple[Any, ...], Tensor] = {}
    for name, value in states[best].items():
        if name not in parameters or not value.is_floating_point():
            found[name] = value
            continue
        own = (value.data_ptr(), value.shape, value.stride())
        if own not in seen:
            total = torch.zeros(value.shape, dtype=torch.float64)
            for state in states:
                total += state[name]
            seen[own] = (total / len(states)).to(value.dtype)
        found[name] = seen[own]
    return found


def score_of(trainer: Trainer) -> float:
    """The last validation's score, of what `BestCheckpoint` monitors."""
    return float(trainer.callback_metrics[_best_checkpoint(trainer).monitor or ""])


def averaging_problems(trainer: Trainer, ema_decay: float | None, average_best: int | None) -> list[str]:
    """A line for each reason why a Trainer cannot average weights as the flags ask.

    Args:
        trainer: with its callbacks, `RunningMean` among them if there is to be one.
        ema_decay, average_best: the flags.
    """
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    means = [one for one in callbacks if isinstance(one, WeightAveraging)]
    # The last mean is that of the flag, if there is one.
    own = [type(one).__name__ for one in (means if ema_decay is None else means[1:])]
    # It takes its mean for the weights after the last validation and checkpoint, so that no model is written of it.
    problems = [
        f"--trainer.callbacks {type(one).__name__} averages weights when the last checkpoint is written, so the run's "
        "model/ would be without it; pass --ema_decay or --average_best in its place"
        for one in callbacks
        if isinstance(one, StochasticWeightAveraging)
    ]
    flags = [f"--ema_decay {ema_decay}"] if ema_decay is not None else []
    flags += [f"--trainer.callbacks {name}" for name in own]
    if average_best is not None:
        if flags:
            problems.append(f"--average_best {average_best} averages weights, as {flags[0]} does; leave one out")
        if not any(isinstance(one, BestCheckpoint) for one in callbacks):
            problems.append(
                f"--average_best {average_best} averages the best checkpoints, and there are none with "
                "--trainer.enable_checkpointing false; leave one out"
            )
        if not trainer.limit_val_batches:
            problems.append(
                f"--average_best {average_best} needs the scores of validations, and there are none with "
                "--trainer.limit_val_batches 0; leave one out"
            )
        flags.append(f"--average_best {average_best}")
    if len(means) > 1:
        problems.append(f"{flags[0]} and {flags[1]} both keep a mean of the weights; leave one out")
    if flags and not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
        problems.append(
            f"{flags[0]} averages whole weights, and {type(trainer.strategy).__name__} divides them among devices; "
            "pass --trainer.strategy ddp, or leave it out"
        )
    if means and str(trainer.precision) in ("bf16-true", "16-true"):
        problems.append(
            f"{flags[0]}: --trainer.precision {trainer.precision} keeps weights in 16 bits, in which a mean does not "
            f"move by small parts; pass {str(trainer.precision).replace('true', 'mixed')}"
        )
    return problems


def _folder(trainer: Trainer) -> Path | None:
    """Where weights are kept; None for runs that write nothing."""
    run = own_folder(trainer)
    return None if run is None or trainer.fast_dev_run else run / KEPT_WEIGHTS  # type: ignore[attr-defined]


def _best(files: Sequence[KeptWeights]) -> list[KeptWeights]:
    return sorted(files, key=lambda one: (-one.score, one.step))


def _best_checkpoint(trainer: Trainer) -> BestCheckpoint:
    return next(one for one in trainer.checkpoint_callbacks if isinstance(one, BestCheckpoint))


def load_weights(path: Path) -> dict[str, Tensor]:
    """The weights in a checkpoint, by name; they are read from the file when they are used."""
    return dict(_load(path)["state_dict"])


def _load(path: Path) -> dict[str, Any]:
    return dict(torch.load(path, map_location="cpu", weights_only=True, mmap=True))


def _read(path: Path) -> KeptWeights | None:
    """What a file holds; None for a mean that was to be validated, and for one that cannot be read."""
    if path.name == MEAN:
        return None
    try:
        content = _load(path)
        return KeptWeights(path, int(content["step"]), float(content["score"]))
    except Exception as error:  # a damaged file can raise anything in the zip and pickle readers
        log.warning(f"{path} cannot be read, and is not averaged ({type(error).__name__})")
        return None
