"""A file of questions -> a file of answers: streamed, gone on with after a crash, the same bytes in every case.

Rows are answered in chunks of a fixed number of rows, counted from the first, so that a question meets the same batch
whether the run was stopped or not, and on however many devices. Memory holds some chunks, whatever the size of the
file. A row that cannot be asked is listed beside the answers and ends nothing.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from qa_lightning.data.columns import Columns
from qa_lightning.data.sources import source_fingerprint
from qa_lightning.errors import InputError
from qa_lightning.files import digest
from qa_lightning.inference.bulk.output import AnswerFiles
from qa_lightning.inference.bulk.questions import BadRow, Question, count_rows, read_questions
from qa_lightning.inference.bulk.workers import PredictSettings, answering, choose_devices
from qa_lightning.models.load_errors import loading, quiet_transformers
from qa_lightning.models.loading import resolve
from qa_lightning.models.threshold_file import read_threshold_file
from qa_lightning.runs.record import package_versions

log = logging.getLogger("qa_lightning")

_BATCHES_TOGETHER = 16  # make a chunk: windows are sorted by length within it, which leaves 5% of padding
_SECONDS = 10.0  # between two lines of progress


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows that are answered, and written, together.

    Attributes:
        rows: how many.
        bad: those among them that cannot be asked.
    """

    rows: int
    bad: list[BadRow]

    @property
    def errors(self) -> bytes:
        """The bad rows, as JSON lines."""
        return "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in self.bad).encode(errors="replace")


def answer_file(
    asked: PredictSettings,
    source: str,
    output: Path,
    columns: Columns = Columns(),  # noqa: B008 - frozen
    devices: int = 1,
    overwrite: bool = False,
) -> int:
    """Answer every question of a file, or go on with what an earlier run left.

    Args:
        asked: the model, and how it is asked.
        source: what `sources.read_rows` takes; rows need a question and a context.
        output: JSON lines of ``row`` (number in the source, from 1), ``id``, ``answer``, ``start``, ``end``, ``score``
            and, where the model may say that there is no answer, ``null_odds``; for the rest see `predictions.Answer`.
        columns: names of the data's columns, where they are not to be guessed.
        devices: GPUs, or processes on a CPU.
        overwrite: begin anew, whatever there is.

    Returns:
        The exit status: 0, also with bad rows as long as one row is none.

    Raises:
        InputError: something that was given cannot be used, or the answers cannot be computed or written.
    """
    chosen = choose_devices(devices)
    files = AnswerFiles(output)
    files.refuse_input(source)
    with files.locked():
        made_with = _made_with(asked, source, columns, chosen[0])
        done = bad = 0
        if overwrite or not files.has_answers() or not files.record.exists():
            files.begin(made_with, overwrite)
        else:
            record = files.recorded(made_with)
            if files.is_finished(record):
                log.info(f"{output} is finished, {_counted(record['finished'])}; --overwrite begins anew")
                return 0
            done, bad = files.cut_to_whole_chunks(made_with["settings"]["rows_together"])
            log.info(f"going on with {output} after row {done:,}" + _note(record, made_with))
        progress = _Progress(done, bad, count_rows(source))
        try:
            files.refuse_input(source)  # again: a pattern may take in what is there only now
            _answer_rest(asked, source, columns, chosen, files, progress)
            if progress.bad < progress.rows:
                files.finish(made_with, progress.counts)
        except (InputError, KeyboardInterrupt) as error:
            files.discard_if_empty()
            there = f"{progress.rows:,} rows of {output} are done and stay; the same command goes on after them"
            there = there if progress.rows else "nothing is written yet"
            if isinstance(error, KeyboardInterrupt):
                log.info(f"\nstopped by Ctrl-C: {there}")
                raise
            raise InputError([*error.problems, there] if progress.rows else error.problems) from None
    if progress.bad == progress.rows:
        raise InputError(f"--input {source}: none of its {progress.rows:,} rows can be asked; see {files.errors}")
    log.info(f"{progress.summary()}\nwritten to {output}")
    if progress.bad:
        log.info(f"{progress.bad:,} of the rows could not be asked; they are listed in {files.errors}")
    return 0


def _answer_rest(
    asked: PredictSettings,
    source: str,
    columns: Columns,
    devices: Sequence[str],
    files: AnswerFiles,
    progress: _Progress,
) -> None:
    """Answer the rows that are left and write them, chunk by chunk."""
    rows = read_questions(source, columns, log.info, progress.rows + 1)
    first = list(islice(rows, 1))  # columns that are not to be told are an error before a model is loaded
    if not first and not progress.rows:
        raise InputError(f"--input {source}: has no rows")
    if first:
        with answering(asked, devices) as answers:
            where = ", ".join(devices) if len(set(devices)) == len(devices) else f"{len(devices)} x {devices[0]}"
            log.info(f"answering {source} on {where}, {rows_together(asked):,} rows at a time")
            progress.start()
            for chunk, lines in answers(_chunks(chain(first, rows), rows_together(asked))):
                files.append(lines, chunk.errors)
                progress.add(chunk)


def _chunks(rows: Iterator[Question | BadRow], size: int) -> Iterator[tuple[Chunk, list[Question]]]:
    while some := list(islice(rows, size)):
        bad = [row for row in some if isinstance(row, BadRow)]
        yield Chunk(len(some), bad), [row for row in some if isinstance(row, Question)]


def rows_together(asked: PredictSettings) -> int:
    """How many rows a chunk has."""
    return _BATCHES_TOGETHER * asked.batch_size


class _Progress:
    """Counts rows, and says now and then how many there are.

    Args:
        rows, bad: done by earlier runs, and those of them that could not be asked.
        total: rows that there are, where that is known.
    """

    def __init__(self, rows: int, bad: int, total: int | None) -> None:
        self.rows = rows
        self.bad = bad
        self._before = (rows, bad)
        self._total = total
        self.start()

    def start(self) -> None:
        """Let the clock run."""
        self._started = self._said = time.perf_counter()

    def add(self, chunk: Chunk) -> None:
        """Count a chunk that is written."""
        self.rows += chunk.rows
        self.bad += len(chunk.bad)
        now = time.perf_counter()
        if now - self._said >= _SECONDS:
            self._said = now
            of = f" of {self._total:,}  {self.rows / max(self._total, 1):6.1%}" if self._total else ""
            seconds = now - self._started
            speed = (self.rows - self._before[0]) / seconds
            log.info(f"row {self.rows:>9,}{of}  {speed:,.1f} rows/s  {int(seconds) // 60}:{int(seconds) % 60:02}")

    @property
    def counts(self) -> dict[str, int]:
        """Of the whole file."""
        return {"rows": self.rows, "answered": self.rows - self.bad, "bad_rows": self.bad}

    def summary(self) -> str:
        """What was done, and how fast."""
        seconds = time.perf_counter() - self._started
        rows, bad = self._before
        here = self.rows - self.bad - (rows - bad)
        before = f", {here:,} of them now," if rows else ""
        return f"{_counted(self.counts)}{before} in {seconds:,.1f} s, {here / max(seconds, 1e-9):,.1f} questions/s"


def _counted(counts: dict[str, int]) -> str:
    return f"{counts['answered']:,} questions of {counts['rows']:,} rows answered"


def _made_with(asked: PredictSettings, source: str, columns: Columns, device: str) -> dict[str, Any]:
    """All that decides the answers, for the record."""
    fitted = read_threshold_file(asked.threshold_file, asked.model) if asked.threshold_file else None
    return {
        "model": asked.model,
        "model_fingerprint": model_fingerprint(asked.model),
        "input": source,
        "input_fingerprint": source_fingerprint(source, "validation"),
        "settings": {
            "batch_size": asked.batch_size,
            "dtype": asked.dtype,
            "threshold_file": fitted and fitted.as_json(),
            "columns": {name: column for name, column in asdict(columns).items() if column is not None},
            "rows_together": rows_together(asked),
        },
        "device": "CPU" if device == "cpu" else torch.cuda.get_device_name(device),
        "versions": package_versions(),
    }


def _note(then: dict[str, Any], now: dict[str, Any]) -> str:
    """That the rest may differ in its last digits, where it is computed elsewhere."""
    changed = [name for name in ("device", "versions") if then.get(name) != now[name]]
    return f" (with other {' and '.join(changed)}: scores may differ in their last digits)" if changed else ""


def model_fingerprint(name: str) -> str:
    """A key of a model's content: of its files, or, for a name on the Hub, of the revision.

    Raises:
        InputError: there is no such model.
    """
    folder = Path(resolve(name))
    if not folder.is_dir():
        with loading(name), quiet_transformers():
            config = AutoConfig.from_pretrained(resolve(name), trust_remote_code=False)
        return f"hub-{config._commit_hash}"
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(".")]
    return digest((path for path in files if path.suffix != ".md"), names=True)
