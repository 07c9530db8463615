"""TensorBoard curves that a full disk does not end a run for, and that a resumed run goes on with exactly."""

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
    """A TensorBoardLogger that says what it could not write, drops it, and tries again some time later.

    TensorBoard's own writer ends the whole run then, some points after the one that failed.
    """

    retry_seconds = 60.0

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._silent_until = 0.0
        _keep_writer_threads_quiet()

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add a point to each curve."""
        self._attempt(lambda: super(CurveLogger, self).log_metrics(metrics, step))

    def log_text(self, tag: str, text: str, step: int) -> None:
        """Add a text, in Markdown."""
        self._attempt(lambda: self.experiment.add_text(tag, text, step))

    def log_hyperparams(self, *arguments: Any, **options: Any) -> None:
        """Write the hyper-parameters table."""
        self._attempt(lambda: super(CurveLogger, self).log_hyperparams(*arguments, **options))

    def save(self) -> None:
        """Write what is still in memory."""
        self._attempt(super().save)

    def finalize(self, status: str) -> None:
        """Write what is still in memory, and close."""
        self._attempt(lambda: super(CurveLogger, self).finalize(status))

    def _attempt(self, write: Callable[[], None]) -> None:
        if time.monotonic() < self._silent_until:
            return
        try:
            write()
        except (OSError, ValueError) as error:  # Lightning turns whatever fails into a ValueError
            cause = error if isinstance(error, OSError) else error.__cause__ or error.__context__
            if not isinstance(cause, OSError):
                raise
            self._silent_until = time.monotonic() + self.retry_seconds
            self._experiment = None  # its writer is gone; the next one opens a file of its own
            log.warning(
                f"curves could not be written to {self.log_dir} ({cause.strerror or cause}), training goes on without "
                f"them; free some space: the next try is in {self.retry_seconds:.0f} s"
            )


def curve_files(run: Path) -> list[Path]:
    """The files of curves in a run's folder."""
    return sorted(run.glob("events.out.tfevents.*"))


def curve_lengths(logger: TensorBoardLogger) -> dict[str, int]:
    """Bytes of each file of curves, as far as they are written."""
    return {file.name: file.stat().st_size for file in curve_files(Path(logger.log_dir))}


def _keep_writer_threads_quiet() -> None:
    """A writer's thread that fails hands its error to the next write, which reports it; no traceback beside that."""
    before = threading.excepthook
    if getattr(before, "keeps_writers_quiet", False):
        return

    def quiet(failure: threading.ExceptHookArgs) -> None:
        if not (isinstance(failure.exc_value, OSError) and "Writer" in type(failure.thread).__name__):
            before(failure)

    quiet.keeps_writers_quiet = True  # type: ignore[attr-defined]
    threading.excepthook = quiet


def last_step(trainer: Trainer) -> int:
    """The number, from 0, of the optimizer's last step, by which Lightning logs what comes of it."""
    return max(trainer.global_step - 1, 0)
