"""TensorBoard curves: a full disk does not end the run, and a resumed run continues them exactly.

The price: points that cannot be written are dropped.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger

log = logging.getLogger("qa_lightning")


class CurveLogger(TensorBoardLogger):
    """A TensorBoardLogger that warns when it cannot write, drops the points and tries again after ``retry_seconds``.

    TensorBoard's own writer ends the whole run, some points after the one that failed.
    """

    retry_seconds = 60.0

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._silent_until = 0.0
        _keep_writer_threads_quiet()

    def write_to(self, run: Path, purge_step: int | None = None) -> None:
        """Write into a run's folder; where that run is resumed, an open TensorBoard forgets from a step on."""
        self._version = run.name
        if purge_step is not None:
            self._kwargs["purge_step"] = purge_step

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add a point at ``step`` to the curve of each metric."""
        self._attempt(lambda: super(CurveLogger, self).log_metrics(metrics, step))

    def log_text(self, tag: str, text: str, step: int) -> None:
        """Add a Markdown text at ``step``."""
        self._attempt(lambda: self.experiment.add_text(tag, text, step))

    def log_hyperparams(self, *arguments: Any, **options: Any) -> None:
        """Write the hyper-parameters table."""
        self._attempt(lambda: super(CurveLogger, self).log_hyperparams(*arguments, **options))

    def save(self) -> None:
        """Write the points that are still in memory."""
        self._attempt(super().save)

    def finalize(self, status: str) -> None:
        """Write the points that are still in memory, and close the file."""
        self._attempt(lambda: super(CurveLogger, self).finalize(status))

    def _attempt(self, write: Callable[[], None]) -> None:
        if time.monotonic() < self._silent_until:
            return
        try:
            write()
        except (OSError, ValueError) as error:  # Lightning turns any error into a ValueError
            cause = error if isinstance(error, OSError) else error.__cause__ or error.__context__
            if not isinstance(cause, OSError):
                raise
            self._silent_until = time.monotonic() + self.retry_seconds
            self._experiment = None  # its writer has failed for good; the next try opens a new file
            log.warning(
                f"curves could not be written to {self.log_dir} ({cause.strerror or cause}), training continues "
                f"without them; free some space: the next try is in {self.retry_seconds:.0f} s"
            )


def curve_files(run: Path) -> list[Path]:
    """The curves files in a run's folder, sorted by name."""
    return sorted(run.glob("events.out.tfevents.*"))


def curve_lengths(logger: TensorBoardLogger) -> dict[str, int]:
    """File name -> size in bytes of each curves file on disk."""
    return {file.name: file.stat().st_size for file in curve_files(Path(logger.log_dir))}


def _keep_writer_threads_quiet() -> None:
    """Print no traceback for a writer thread that fails: it hands its error to the next write, which reports it."""
    before = threading.excepthook
    if getattr(before, "keeps_writers_quiet", False):
        return

    def quiet(failure: threading.ExceptHookArgs) -> None:
        if not (isinstance(failure.exc_value, OSError) and "Writer" in type(failure.thread).__name__):
            before(failure)

    quiet.keeps_writers_quiet = True  # type: ignore[attr-defined]
    threading.excepthook = quiet


def last_step(trainer: Trainer) -> int:
    """Index of the last optimizer step, from 0: Lightning logs that step's results under it."""
    return max(trainer.global_step - 1, 0)
