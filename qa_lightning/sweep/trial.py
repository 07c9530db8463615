"""What a trial's own process does: after each validation it asks the study, and stops if the trial is pruned."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from qa_lightning.errors import one_line
from qa_lightning.layout import RECORD
from qa_lightning.runs.failures import TRIAL
from qa_lightning.runs.record import complete_start, run_folder
from qa_lightning.runs.signals import Stop, StopSignals
from qa_lightning.sweep.study import Trials

log = logging.getLogger("qa_lightning")


def environment_of(folder: Path, number: int, pruner: str) -> dict[str, str]:
    """What tells a process of ``train`` that it is a trial.

    Args:
        folder: of the study.
        number: of the trial.
        pruner: one of `sweep.PRUNERS`.
    """
    return {TRIAL: json.dumps({"folder": str(folder.resolve()), "number": number, "pruner": pruner})}


class AskStudy(Callback):
    """Tells the study the score of each validation, F1; if it prunes the trial, ``run.json`` says so and the run stops.

    With questions without an answer, the score is F1 at the best threshold. After the last validation nothing is
    pruned: there is nothing to save by it. A study that cannot be asked is no reason not to train.

    Args:
        folder: of the study.
        number: of the trial.
        pruner: one of `sweep.PRUNERS`.
        signals: those that stop the run.
    """

    def __init__(self, folder: Path, number: int, pruner: str, signals: StopSignals) -> None:
        self._folder, self._number, self._pruner, self._signals = folder, number, pruner, signals
        self._trials: Trials | None = None
        self._pruned: tuple[Path, int, float] | None = None  # record, validation and score, if it is to go no further

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Stop a trial that is pruned, where it would go on, on the first process; the others stop with it."""
        if self._pruned is None:
            return
        (record, validation, score), self._pruned = self._pruned, None
        try:
            complete_start(record, {"pruned": {"validation": validation, "score": score}})
        except OSError as error:
            log.warning(f"{record} could not be written, the trial goes on ({one_line(error)})")
            return
        log.info(f"pruned by the study after validation {validation}")
        self._signals.ask(Stop.PRUNE)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ask, on the first process."""
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING or trainer.global_step == 0:
            return
        folder = run_folder(trainer)  # may communicate: every process must call it
        if not trainer.is_global_zero:
            return
        score = float(trainer.callback_metrics.get("val/best_f1", trainer.callback_metrics["val/f1"]))
        try:
            if self._trials is None:
                self._trials = Trials(self._folder, self._pruner)
            validation, prune = self._trials.prunes(self._number, trainer.global_step, score)
            if prune and folder is not None:
                self._pruned = folder / RECORD, validation, score
        except Exception as error:  # Optuna may raise anything about a file that is damaged or not there
            log.warning(f"the study in {self._folder} could not be asked, the trial goes on ({one_line(error)})")


def study_asker(signals: StopSignals) -> AskStudy | None:
    """The callback of a trial, if this process is to train one; None elsewhere."""
    if TRIAL not in os.environ:
        return None
    given: dict[str, Any] = json.loads(os.environ[TRIAL])
    return AskStudy(Path(given["folder"]), given["number"], given["pruner"], signals)
