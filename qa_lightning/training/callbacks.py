"""Callbacks of every run: a line per epoch, ``run.json``, the best checkpoint, and the list of all callbacks."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from qa_lightning.files import share_file, write_file
from qa_lightning.layout import BEST, MEAN, RECORD
from qa_lightning.models.tiny import TINY
from qa_lightning.progress import duration
from qa_lightning.runs.checkpoints import AtomicCheckpointIO, epochs_trained, reached_limit
from qa_lightning.runs.curves import last_step
from qa_lightning.runs.record import complete_start, describe_run, run_folder
from qa_lightning.runs.resume import Beginning, read_beginning
from qa_lightning.runs.throughput import StepCounter, Throughput, peak_flops, training_flops
from qa_lightning.runs.watching import RunBar, RunPlan, StepLines, ValidationProgress, learning_rate, say, step_losses
from qa_lightning.training.sample_table import SamplePredictions

log = logging.getLogger("qa_lightning")


class EpochLines(Callback):
    """Prints a line after each validation: losses, EM, F1 and throughput.

    Throughput counts only training steps, over all processes. It is logged, with the learning rate of the last step,
    every ``log_every_n_steps`` optimizer steps, and before each validation for the steps since then.

    Args:
        only_if_verbose: print nothing for ``trainer.validate(..., verbose=False)``, or ``trainer.test``.
    """

    def __init__(self, only_if_verbose: bool = False) -> None:
        self._only_if_verbose = only_if_verbose
        self._so_far = Throughput.total([])
        self._read = (0.0, 0)  # sum and number of all losses when the epoch began
        self._clear()
        self._started = time.perf_counter()

    def _clear(self) -> None:
        self._resumed = (0.0, 0)  # sum and number of the epoch's losses before the run was resumed
        self._learning_rate = 0.0
        self._parts: list[Throughput] = []
        self._counter = StepCounter()
        self._running_since: float | None = None
        self._before = torch.zeros(4, dtype=torch.int64)  # counted before the run was resumed

    @property
    def windows_per_second(self) -> float:
        """The speed of all training steps of this start, over all processes; 0 before the first."""
        return self._so_far.metrics["train/features_per_second"] if self._so_far.seconds else 0.0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the run's clock."""
        self._started = time.perf_counter()
        losses = step_losses(pl_module)
        self._read = (losses.total, losses.count)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Start the clock of the training steps, if it is stopped."""
        self._learning_rate = learning_rate(trainer)
        if self._running_since is None:
            self._running_since = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count a batch; log the throughput if that is due."""
        self._counter.add(batch["attention_mask"])
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if every and stepped and trainer.global_step % every == 0:
            self._measure(trainer, pl_module)
            self._running_since = time.perf_counter()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the throughput of the last steps, and stop their clock."""
        if self._running_since is not None and self._counter.sums is not None:
            self._measure(trainer, pl_module)
        self._running_since = None

    def _measure(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the throughput since the last call, summed over all processes."""
        assert self._running_since is not None
        sums = trainer.strategy.reduce(self._counter.take(pl_module.device), reduce_op="sum")
        features, tokens, padded, squared = (float(value) for value in sums)  # waits for the device to finish
        peak = peak_flops(pl_module.device, str(trainer.precision))
        module: Any = pl_module
        part = Throughput(
            features,
            tokens,
            padded,
            time.perf_counter() - self._running_since,
            training_flops(module.model.config, module.computing_weights, tokens, squared),
            peak and peak * trainer.world_size,
        )
        self._parts.append(part)
        self._so_far = Throughput.total([self._so_far, part])
        _, tokens_before, padded_before, _ = (float(value) for value in self._before)
        share = 1 - (tokens + tokens_before) / max(padded + padded_before, 1)
        points = part.metrics | {"train/padding_share": share, "train/learning_rate": self._learning_rate}
        for logger in trainer.loggers:
            logger.log_metrics(points, step=last_step(trainer))
        self._before = torch.zeros_like(self._before)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the epoch's losses and the token counts since the last logged point; measured speed is not kept."""
        loss, batches = self._epoch_losses(pl_module)
        tokens = trainer.strategy.reduce(self._counter.peek(pl_module.device).clone(), reduce_op="sum").cpu()
        checkpoint["epoch_so_far"] = {
            "loss": loss,
            "batches": batches,
            "counted": (tokens + self._before).tolist(),
        }

    def _epoch_losses(self, pl_module: LightningModule) -> tuple[float, int]:
        """Sum and number of the epoch's losses so far."""
        losses = step_losses(pl_module)
        losses.read()
        (total, count), (before, batches) = self._read, self._resumed
        return before + losses.total - total, batches + losses.count - count

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Restore the epoch's losses and token counts, if training resumes."""
        so_far = checkpoint.get("epoch_so_far")
        if so_far is not None and trainer.state.fn == TrainerFn.FITTING:
            self._resumed = (float(so_far["loss"]), so_far["batches"])
            self._before = torch.tensor(so_far["counted"], dtype=torch.int64)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the line of this validation."""
        if trainer.sanity_checking:
            return
        if trainer.state.fn != TrainerFn.FITTING:
            if self._only_if_verbose and not trainer.validate_loop.verbose:
                return
            last = "before training" if trainer.global_step == 0 else "last weights"
            loaded = "mean of best" if Path(trainer.ckpt_path or "").name == MEAN else "best checkpoint"
            say_scores(trainer, loaded if trainer.ckpt_path else last)
            return
        loss, batches = self._epoch_losses(pl_module)
        done = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        elapsed = duration(time.perf_counter() - self._started)
        speed = f"{Throughput.total(self._parts)}  " if self._parts else ""  # none if resumed at this validation
        say(
            trainer,
            f"{done:<15} {_scores(trainer, 'val')}  train loss {loss / max(batches, 1):.2f}  {speed}{elapsed}",
        )
        losses = step_losses(pl_module)
        self._read = (losses.total, losses.count)
        self._clear()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the line of a test."""
        if trainer.test_loop.verbose or not self._only_if_verbose:
            say(trainer, f"{'test':<15} {_scores(trainer, 'test')}")


def say_scores(trainer: Trainer, whose: str) -> None:
    """Print the line with the last validation's scores, on the first process."""
    say(trainer, f"{whose:<15} {_scores(trainer, 'val')}")


def _scores(trainer: Trainer, stage: str) -> str:
    values = {name.removeprefix(f"{stage}/"): float(value) for name, value in trainer.callback_metrics.items()}
    f1 = f"{values['f1']:.2f}" + (f" ({values['best_f1']:.2f} at the best threshold)" if "best_f1" in values else "")
    return f"EM {values['exact_match']:>6.2f}  F1 {f1:>6}  {stage} loss {values['loss']:.2f}"


class RunRecord(Callback):
    """Completes the start in ``run.json`` when a fit starts; see `record.describe_run`."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what is known by now."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        kind = type(trainer.accelerator).__name__.removesuffix("Accelerator")
        given, devices = pl_module.hparams, f"{trainer.world_size} x {kind}"
        base, teacher = _origin(given["model_name"]), None
        if given["teacher"] is not None:
            numbers = {"temperature": given["teacher_temperature"], "weight": given["teacher_weight"]}
            teacher = _origin(given["teacher"]) | numbers
        self._add(trainer, lambda: describe_run(devices, str(trainer.precision), data.describe(), base, teacher))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the batch size, if memory has decided it."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if data.finds_batch_size:
            self._add(trainer, lambda: {"batch_size": data.batch_size, "accumulate_grad_batches": data.accumulated})

    def _add(self, trainer: Trainer, describe: Callable[[], Mapping[str, Any]]) -> None:
        """Add to the record on the first process; a full disk is no reason not to train."""
        folder = run_folder(trainer)  # may communicate: every process must call it
        if folder is None or not trainer.is_global_zero:
            return
        try:
            complete_start(folder / RECORD, describe())
        except OSError as error:
            log.warning(f"{folder / RECORD} could not be written, training continues ({error.strerror})")


def _origin(name: str) -> dict[str, Any]:
    """A model's name, and whether it comes from the Hub."""
    return {"name": name, "hub": name != TINY and not Path(name).expanduser().exists()}


_QUESTIONS = "questions"  # in the state of the best checkpoint
_BEST_SO_FAR = ("best_model_path", "best_model_score", "kth_best_model_path", "kth_value")  # and the best_k_models
_CHECKPOINT_PATHS = ("best_model_path", "kth_best_model_path", "last_model_path")  # in the state of a ModelCheckpoint


class BestCheckpoint(ModelCheckpoint):
    """Keeps ``best.ckpt`` by ``val/f1``, or by ``val/best_f1`` if some questions have no answer.

    ``val/best_f1`` is F1 under the best threshold, which the model is to be used with. Without it, F1 in the first
    epochs is that of always answering "no answer". `checkpoints.LastCheckpoint` keeps ``last.ckpt``.
    """

    def __init__(self) -> None:
        super().__init__(
            filename=Path(BEST).stem,
            monitor="val/f1",
            mode="max",
            save_top_k=1,
            auto_insert_metric_name=False,
            enable_version_counter=False,
        )
        self._strategy: Strategy | None = None
        self._fits = True
        self._resumed: Path | None = None  # the checkpoint that a fit begins at
        self._step = 0  # its step
        self._brought: Path | None = None  # the best checkpoint of a run that goes on in another folder
        self._questions: str | None = None  # tells those that it scores
        self._changed: dict[tuple[Any, str], Any] = {}  # what belongs to the Trainer, and which value -> its own
        self._before: dict[str, Any] | None = None  # what was known before the file that is being written

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Choose the score from the data: they are set up by now, and a checkpoint's state is not restored yet."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        validation_set = getattr(data, "validation_set", None)
        self._questions = None
        if validation_set is not None and trainer.limit_val_batches != 0:  # without a validation there is no other best
            self._questions = data.fingerprint("validation")
            if (most := data.most_batches()) is not None:  # which questions they hold depends on their windows
                windows = data.prepared("validation").features_folder.name
                self._questions += f", {most} batches of {data.eval_batch_size} windows of {windows}"
        if validation_set is not None and validation_set.version_2:
            self.monitor = "val/best_f1"
        self._strategy, self._fits = trainer.strategy, stage == "fit"
        super().setup(trainer, pl_module, stage)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Note where the checkpoint is, beside which the best one may be."""
        super().on_load_checkpoint(trainer, pl_module, checkpoint)
        self._resumed = Path(trainer.ckpt_path) if trainer.ckpt_path else None
        self._step = checkpoint["global_step"]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See `_bring`; a fit that has nothing left to train goes no further than here."""
        super().on_fit_start(trainer, pl_module)
        self._bring(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See `_bring`; some strategies read the checkpoint only now."""
        super().on_train_start(trainer, pl_module)
        self._bring(trainer)

    def _bring(self, trainer: Trainer) -> None:
        """Give the best checkpoint so far a place in this run's folder, too, on the first process."""
        source, self._brought = self._brought, None
        if source is None or not trainer.is_global_zero:
            return
        path = Path(self.best_model_path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not share_file(source, path):
                with source.open("rb") as given:
                    write_file(path, lambda file: shutil.copyfileobj(given, file))
        except OSError as error:
            log.warning(f"{source}, the best checkpoint so far, cannot be copied to {path} ({error.strerror})")

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Have the weights validated that a run ends with, wherever that is; else they would not count."""
        super().on_train_batch_end(trainer, *args, **kwargs)
        loop: Any = trainer.fit_loop
        is_least = (loop.min_epochs or 0) <= epochs_trained(trainer) and (loop.min_steps or 0) <= trainer.global_step
        if reached_limit(trainer):
            trainer.should_stop = is_least = True  # it ends, however long it was to be at least
        if trainer.should_stop and is_least:  # Lightning counts this epoch later
            self._change(loop, "min_epochs", None)
            self._change(loop.epoch_loop, "min_steps", None)
        every = trainer.check_val_every_n_epoch
        if trainer.should_stop and loop._can_stop_early and every and (trainer.current_epoch + 1) % every:
            self._change(trainer, "check_val_every_n_epoch", 1)

    def _change(self, owner: Any, name: str, value: Any) -> None:
        """Change a value of the Trainer or its loop until the fit ends."""
        self._changed.setdefault((owner, name), getattr(owner, name))
        setattr(owner, name, value)

    def _give_back(self) -> None:
        for (owner, name), value in self._changed.items():
            setattr(owner, name, value)
        self._changed.clear()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give back what was changed."""
        super().on_exception(trainer, pl_module, exception)
        self._give_back()

    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        """Whether a score is the best one of those whose checkpoint could be written."""
        self._forget_unwritten(trainer)
        return super().check_monitor_top_k(trainer, current)

    def _update_best_and_save(self, current: Tensor, trainer: Trainer, monitor_candidates: dict[str, Tensor]) -> None:
        self._before = {name: getattr(self, name) for name in _BEST_SO_FAR} | {"best_k_models": {**self.best_k_models}}
        super()._update_best_and_save(current, trainer, monitor_candidates)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The best score is that of a file from now on."""
        super().on_train_end(trainer, pl_module)
        self._forget_unwritten(trainer)
        self._give_back()

    def _forget_unwritten(self, trainer: Trainer) -> None:
        """Know the best checkpoint before again, if the last one could not be written. All processes must call it."""
        before, self._before = self._before, None
        if before is None or not isinstance(io := trainer.strategy.checkpoint_io, AtomicCheckpointIO):
            return
        io.wait()
        if trainer.strategy.broadcast(Path(self.best_model_path) in io.failed):  # the first process writes
            for name, value in before.items():
                setattr(self, name, value)

    def state_dict(self) -> dict[str, Any]:
        """Lightning's, and which questions the score is of."""
        return {**super().state_dict(), _QUESTIONS: self._questions}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Know the best score again where the run goes on in another folder, or in one that is called otherwise.

        Lightning would forget it. The first process decides for all: machines that share no folder lack the file.
        """
        here, best = Path(self.dirpath or "."), str(state_dict["best_model_path"])
        known = state_dict.get(_QUESTIONS)
        if not best or not self._fits:
            return
        if known is not None and self._questions is not None and known != self._questions:
            self._tell("best so far: was scored on other questions; the best checkpoint is chosen anew")
            return
        found, score = self._folder_of(Path(best).name, here)
        if self._strategy is not None:
            found, score = self._strategy.broadcast((found, score))
        if found is None:
            self._tell(f"best so far: its {Path(best).name} is not beside the checkpoint; the best one is chosen anew")
            return

        def moved(path: str) -> str:
            return str(here / Path(path).name) if path else path

        state_dict = {**state_dict, **{name: moved(state_dict.get(name, "")) for name in _CHECKPOINT_PATHS}}
        state_dict["best_k_models"] = {moved(path): known for path, known in state_dict["best_k_models"].items()}
        if score is not None:
            state_dict |= {"best_model_score": score, "kth_value": score}
            state_dict["best_k_models"] = dict.fromkeys(state_dict["best_k_models"], score)
        super().load_state_dict({**state_dict, "dirpath": self.dirpath})
        self._brought = found / Path(best).name if found != here else None

    def _tell(self, line: str) -> None:
        if self._strategy is None or self._strategy.is_global_zero:
            log.info(line)

    def _folder_of(self, name: str, here: Path) -> tuple[Path | None, Tensor | None]:
        """The folder that has the best checkpoint so far, and its score, which is lower where no better was written.

        It is this run's folder, or that of the checkpoint that it begins at. None for a score that is not to be known:
        a file of a later step is the best of what came after that checkpoint.
        """
        beside = self._resumed.parent if self._resumed is not None else here
        folder = here if (here / name).is_file() else beside
        begun = read_beginning(folder / name) if (folder / name).is_file() else None
        if isinstance(begun, Beginning) and begun.step <= self._step:
            return folder, begun.scores.get(self.state_key)
        return (here if begun is not None and folder == here else None), None


class StopAfter(Callback):
    """Ends training after some epochs, with the schedule of all of them: the learning rate falls as if it went on.

    Args:
        epochs: number of epochs to train.
    """

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Train no further if the run resumes after the last one."""
        self._check(trainer)

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Stop after the last batch of the last one, and not later: a validation follows."""
        self._check(trainer)

    def _check(self, trainer: Trainer) -> None:
        if epochs_trained(trainer) >= self.epochs:
            trainer.should_stop = True


def default_callbacks(interactive: bool) -> list[Callback]:
    """The callbacks of every run.

    Args:
        interactive: whether a person watches a terminal, where a bar is shown; otherwise lines are printed.
    """
    return [
        EpochLines(),
        SamplePredictions(),
        RunPlan(),
        RunBar() if interactive else StepLines(),
        ValidationProgress(),
        BestCheckpoint(),
    ]
