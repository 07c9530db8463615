"""Writes curves, tables, figures and results to TensorBoard and other loggers, and says how to view them.

TensorBoard's curves survive a full disk, and a resumed run continues them exactly. The price: points that cannot be
written are dropped.

TensorBoard sorts tags by name, capitals first, groups them by the part before the slash, and opens the first two
groups. So EM, F1 and the losses are logged twice: in the group ``Overview`` for people, and as ``val/...`` and
``train/...`` for tools.
"""

from __future__ import annotations

import csv
import errno
import logging
import os
import shlex
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from numpy.typing import NDArray

from qa_lightning.files import write_file
from qa_lightning.layout import CURVE_FILES, CURVE_TABLE
from qa_lightning.wording import program_words

log = logging.getLogger("qa_lightning")

_SILENT = "_warned_until"  # attribute of a logger: when it may warn of a full disk again

OVERVIEW = {
    "val/exact_match": "Overview/EM",
    "val/f1": "Overview/F1",
    "val/best_f1": "Overview/F1_at_best_threshold",
    "val/loss": "Overview/loss_val",
    "train/loss": "Overview/loss_train",
}


class CurveLogger(TensorBoardLogger):
    """A TensorBoardLogger that warns when it cannot write, drops the points and tries again after ``retry_seconds``.

    TensorBoard's own writer ends the whole run, some points after the one that failed.
    """

    retry_seconds = 60.0

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._silent_until = 0.0
        _keep_writer_threads_quiet()

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add a point at ``step`` to the curve of each metric, except the epoch's number, which Lightning adds."""
        points = {name: value for name, value in metrics.items() if name != "epoch"}
        points |= {OVERVIEW[name]: value for name, value in points.items() if name in OVERVIEW}
        self._attempt(lambda: super(CurveLogger, self).log_metrics(points, step))

    def log_text(self, tag: str, text: str, step: int) -> None:
        """Add a Markdown text at ``step``."""
        self._attempt(lambda: self.experiment.add_text(tag, text, step))

    def log_picture(self, tag: str, picture: NDArray[np.uint8], step: int) -> None:
        """Add a picture, [height, width, channels], at ``step``."""
        self._attempt(lambda: self.experiment.add_image(tag, picture, step, dataformats="HWC"))

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
        except (OSError, ValueError) as error:
            cause = _cause(error)
            if cause is None:
                raise
            self._silent_until = time.monotonic() + self.retry_seconds
            self._experiment = None  # its writer has failed for good; the next try opens a new file
            log.warning(
                f"curves could not be written to {self.log_dir} ({cause.strerror or cause}), training continues "
                f"without them; free some space: the next try is in {self.retry_seconds:.0f} s"
            )


class _MoreRows(ExperimentWriter):
    """Adds rows to the table of a run that is resumed; Lightning's own writer deletes it."""

    def __init__(self, run: Path) -> None:
        super().__init__(str(run))
        with (run / CURVE_TABLE).open(encoding="utf-8", newline="") as file:
            self.metrics_keys = next(csv.reader(file), [])

    def _check_log_dir_exists(self) -> None:
        """Delete nothing."""


def use_run_folder(logger: Logger, run: Path, resumed_at: int | None = None, is_first: bool = True) -> None:
    """Make a logger that would create a numbered folder beside a run's folder write into the run's folder.

    Args:
        logger: of the run.
        run: the run's folder.
        resumed_at: the optimizer step that the run goes on from, after `cut_curves`: a table gets more rows, and a
            TensorBoard that is open drops the points from there on. None for a new run.
        is_first: whether this is the first process, which writes.
    """
    if not isinstance(logger, (CSVLogger, TensorBoardLogger)) or logger._version is not None:
        return
    if Path(logger.root_dir).resolve() != run.parent.resolve():
        return
    logger._version = run.name
    if resumed_at is None:
        return
    if isinstance(logger, TensorBoardLogger):
        logger._kwargs["purge_step"] = resumed_at
    elif is_first and (run / CURVE_TABLE).is_file():
        logger._experiment = _MoreRows(run)


def survive_full_disks(logger: Logger) -> None:
    """Make a logger of another kind than `CurveLogger` warn, too, when a disk is full, and train on."""
    if isinstance(logger, CurveLogger):
        return

    def surviving(write: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(write)
        def attempt(*arguments: Any, **options: Any) -> Any:
            with _surviving(logger):
                return write(*arguments, **options)

        return attempt

    for name in ("log_metrics", "log_hyperparams", "save", "finalize"):
        setattr(logger, name, surviving(getattr(logger, name)))


@contextmanager
def _surviving(logger: Logger) -> Iterator[None]:
    """Inside this context, a full disk is a warning, at most one in `CurveLogger.retry_seconds`."""
    try:
        yield
    except (OSError, ValueError) as error:
        cause = _cause(error)
        if cause is None or cause.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        if time.monotonic() >= vars(logger).get(_SILENT, 0.0):
            vars(logger)[_SILENT] = time.monotonic() + CurveLogger.retry_seconds
            what = f"{type(logger).__name__} could not write ({cause.strerror})"
            log.warning(f"{what}, training continues and some of what it writes may be missing; free some space")


def _cause(error: Exception) -> OSError | None:
    """The error of the system that a logger's error comes from: Lightning turns any into a ValueError."""
    cause = error if isinstance(error, OSError) else error.__cause__ or error.__context__
    return cause if isinstance(cause, OSError) else None


def log_table(
    logger: Logger, tag: str, header: Sequence[str], rows: Sequence[Sequence[str]], markdown: str, step: int
) -> None:
    """Add a table at ``step``, if the logger can show one: TensorBoard, MLflow and W&B can, CSV files cannot.

    Args:
        logger: of the run.
        tag: names the table.
        header: names of the columns.
        rows: cells as plain text.
        markdown: the whole table in Markdown.
        step: index of the optimizer step.
    """
    with _surviving(logger):
        if isinstance(logger, CurveLogger):
            logger.log_text(tag, markdown, step)
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_text(tag, markdown, step)
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_text(logger.run_id, markdown, f"{tag}/step_{step}.md")
        elif isinstance(logger, WandbLogger):
            logger.log_table(tag, list(header), [list(row) for row in rows], step=step)


def log_figures(logger: Logger, group: str, figures: Mapping[str, NDArray[np.uint8]], step: int) -> None:
    """Add figures, as `plots.draw` has drawn them, at ``step``, if the logger can show them; see `log_table`."""
    for name, picture in figures.items():
        tag = f"{group}/{name}"
        with _surviving(logger):
            if isinstance(logger, CurveLogger):
                logger.log_picture(tag, picture, step)
            elif isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(tag, picture, step, dataformats="HWC")
            elif isinstance(logger, MLFlowLogger):
                logger.experiment.log_image(logger.run_id, picture, f"{tag}.png")
            elif isinstance(logger, WandbLogger):
                logger.log_image(tag, [picture], step=step)


def log_result(
    logger: Logger,
    run: str,
    settings: Mapping[str, float | str],
    scores: Mapping[str, float],
    step: int,
    is_last: bool = False,
) -> None:
    """Log the result of a run: to TensorBoard as a row of its HParams tab, to other loggers as last points.

    The tab reads a score from the last point of a curve. So if the best checkpoint is not the last one, the curves of
    the overview get one more point with the scores of the best checkpoint.

    Args:
        logger: of the run.
        run: its name.
        settings: the columns of the table, the same for every run. TensorBoard sorts them by name, and shows five.
        scores: name, as in ``val/...``, -> score of the best checkpoint.
        step: index of the last optimizer step.
        is_last: whether the best checkpoint is the last one; then the curves already end with its scores.
    """
    if not isinstance(logger, TensorBoardLogger):
        logger.log_metrics({f"best/{name}": value for name, value in scores.items()}, step)
        logger.save()
        return
    from tensorboard.plugins.hparams import summary_v2  # imported late: --help does not wait for it

    tags = {OVERVIEW[f"val/{name}"]: value for name, value in scores.items()}
    if not is_last:
        logger.log_metrics(tags, step + 1)
    columns = [summary_v2.HParam(name) for name in settings]
    metrics = [summary_v2.Metric(tag, display_name=tag.partition("/")[2]) for tag in tags]
    writer = logger.experiment._get_file_writer()
    writer.add_summary(summary_v2.hparams_config_pb(columns, metrics))
    writer.add_summary(summary_v2.hparams_pb(dict(settings), trial_id=run))
    logger.experiment.flush()  # a finished run's files change no more


def how_to_see(loggers: Iterable[Logger], shown_as: Callable[[Path], Path]) -> list[str]:
    """The command, file or address that shows the curves of each logger; commands are quoted for a shell.

    Args:
        loggers: of the run.
        shown_as: how a path is written.
    """
    shown = []
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            command = program_words("tensorboard", "tensorboard.main")
            shown.append(shlex.join([*command, "--logdir", str(shown_as(Path(logger.root_dir)))]))
        elif isinstance(logger, CSVLogger):
            shown.append(str(shown_as(Path(logger.log_dir) / CURVE_TABLE)))
        elif isinstance(logger, MLFlowLogger):
            address = str(logger._tracking_uri)
            is_server = address.startswith("http")
            command = [*program_words("mlflow", "mlflow"), "ui", "--backend-store-uri", address]
            shown.append(address if is_server else shlex.join(command))
        elif isinstance(logger, WandbLogger):
            run = logger.experiment
            command = [*program_words("wandb", "wandb"), "sync", str(shown_as(Path(run.dir).parent))]
            shown.append(shlex.join(command) if logger._offline else str(run.url))
    return shown


def curve_lengths(run: Path) -> dict[str, int]:
    """How far the curves in a run's folder have come: file name -> bytes, or lines of a table, whose names may change.

    Args:
        run: the folder.
    """
    lengths = {file.name: file.stat().st_size for file in sorted(run.glob(CURVE_FILES))}
    return lengths | {CURVE_TABLE: len(_lines(run / CURVE_TABLE)) if (run / CURVE_TABLE).is_file() else 0}


def cut_curves(run: Path, lengths: Mapping[str, int]) -> None:
    """Cut the curves in a run's folder back to where they were at a checkpoint: later points are logged again.

    Args:
        run: the folder.
        lengths: what `curve_lengths` was then; a file that is not among them is deleted. Checkpoints of older versions
            name no table: it stays.
    """
    for name, now in curve_lengths(run).items():
        file, then = run / name, lengths.get(name, now if name == CURVE_TABLE else 0)
        if then == 0:
            file.unlink(missing_ok=True)
        elif then < now and name == CURVE_TABLE:
            write_file(file, "".join(_lines(file)[:then]))
        elif then < now:
            os.truncate(file, then)


def _lines(table: Path) -> list[str]:
    with table.open(encoding="utf-8", newline="") as file:
        return file.readlines()


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
