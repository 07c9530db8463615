"""A file of questions -> a file of answers: streamed, gone on with after a crash, the same bytes in every case.

Rows are answered in chunks of a fixed number of rows, counted from the first, so that a question meets the same batch
whether the run was stopped or not, and on however many devices. Memory holds some chunks, whatever the size of the
file. A row that cannot be asked is listed beside the answers and ends nothing.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from qa_lightning.data.columns import ReadSettings
from qa_lightning.data.sources import count_rows, source_fingerprint
from qa_lightning.errors import InputError
from qa_lightning.files import digest
from qa_lightning.inference.bulk.output import AnswerFiles
from qa_lightning.inference.bulk.questions import BadRow, Question, read_questions
from qa_lightning.inference.bulk.workers import PredictSettings, answering, choose_devices
from qa_lightning.models.load_errors import loading, quiet_transformers
from qa_lightning.models.loading import resolve
from qa_lightning.models.threshold_file import read_threshold_file
from qa_lightning.progress import loop_progress
from qa_lightning.runs.record import package_versions

log = logging.getLogger("qa_lightning")

_BATCHES_TOGETHER = 16  # make a chunk: windows are sorted by length within it, which leaves 5% of padding


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


@dataclass
class _Counts:
    """Rows that are done, and those of them that cannot be asked; those of earlier runs, too."""

    rows: int
    bad: int

    def add(self, chunk: Chunk) -> None:
        """Count a chunk that is written."""
        self.rows += chunk.rows
        self.bad += len(chunk.bad)

    @property
    def answered(self) -> int:
        """The rows that have an answer."""
        return self.rows - self.bad

    def as_json(self) -> dict[str, int]:
        """For the record."""
        return {"rows": self.rows, "answered": self.answered, "bad_rows": self.bad}


def answer_file(
    asked: PredictSettings,
    source: str,
    output: Path,
    reading: ReadSettings = ReadSettings(),  # noqa: B008 - frozen
    devices: int = 1,
    overwrite: bool = False,
) -> int:
    """Answer every question of a file, or go on with what an earlier run left.

    Args:
        asked: the model, and how it is asked.
        source: what `sources.read_rows` takes; rows need a question and a context.
        output: JSON lines of ``row`` (number in the source, from 1), ``id``, ``answer``, ``start``, ``end``, ``score``
            and, where the model may say that there is no answer, ``null_odds``; for the rest see `predictions.Answer`.
        reading: names of the data's columns, where they are not to be guessed; encoding of files.
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
        made_with = _made_with(asked, source, reading, chosen[0])
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
        counts, earlier = _Counts(done, bad), _Counts(done, bad)
        try:
            files.refuse_input(source)  # again: a pattern may take in what is there only now
            seconds = _answer_rest(asked, source, reading, chosen, files, counts)
            if counts.bad < counts.rows:
                files.finish(made_with, counts.as_json())
        except (InputError, KeyboardInterrupt) as error:
            files.discard_if_empty()
            there = f"{counts.rows:,} rows of {output} are done and stay; the same command goes on after them"
            there = there if counts.rows else "nothing is written yet"
            if isinstance(error, KeyboardInterrupt):
                log.info(f"\nstopped by Ctrl-C: {there}")
                raise
            raise InputError([*error.problems, there] if counts.rows else error.problems) from None
    if counts.bad == counts.rows:
        raise InputError(f"--input {source}: none of its {counts.rows:,} rows can be asked; see {files.errors}")
    log.info(_summary(counts, earlier, seconds))
    log.info(f"written to {output}")
    if counts.bad:
        log.info(f"{counts.bad:,} of the rows could not be asked; they are listed in {files.errors}")
    return 0


def _answer_rest(
    asked: PredictSettings,
    source: str,
    reading: ReadSettings,
    devices: Sequence[str],
    files: AnswerFiles,
    counts: _Counts,
) -> float:
    """Answer the rows that are left and write them, chunk by chunk; the seconds that took, once a model was loaded."""
    rows = read_questions(source, reading, log.info, counts.rows + 1)
    first = list(islice(rows, 1))  # columns that are not to be told are an error before a model is loaded
    if not first and not counts.rows:
        raise InputError(f"--input {source}: has no rows")
    started = time.perf_counter()
    if first:
        with answering(asked, devices) as answers:
            where = ", ".join(devices) if len(set(devices)) == len(devices) else f"{len(devices)} x {devices[0]}"
            log.info(f"answering {source} on {where}, {rows_together(asked):,} rows at a time")
            with loop_progress(count_rows(source, "validation"), done=counts.rows) as progress:
                started = time.perf_counter()
                for chunk, lines in answers(_chunks(chain(first, rows), rows_together(asked))):
                    files.append(lines, chunk.errors)
                    counts.add(chunk)
                    progress.update(chunk.rows)
    return time.perf_counter() - started


def _chunks(rows: Iterator[Question | BadRow], size: int) -> Iterator[tuple[Chunk, list[Question]]]:
    while some := list(islice(rows, size)):
        bad = [row for row in some if isinstance(row, BadRow)]
        yield Chunk(len(some), bad), [row for row in some if isinstance(row, Question)]


def rows_together(asked: PredictSettings) -> int:
    """How many rows a chunk has."""
    return _BATCHES_TOGETHER * asked.batch_size


def _summary(counts: _Counts, earlier: _Counts, seconds: float) -> str:
    """What was done, and how fast."""
    now = counts.answered - earlier.answered
    part = f", {now:,} of them now," if earlier.rows else ""
    return f"{_counted(counts.as_json())}{part} in {seconds:,.1f} s, {now / max(seconds, 1e-9):,.1f} questions/s"


def _counted(counts: Mapping[str, int]) -> str:
    return f"{counts['answered']:,} questions of {counts['rows']:,} rows answered"


def _made_with(asked: PredictSettings, source: str, reading: ReadSettings, device: str) -> dict[str, Any]:
    """All that decides the answers, for the record."""
    fitted = read_threshold_file(asked.threshold_file, asked.model) if asked.threshold_file else None
    return {
        "model": asked.model,
        "model_fingerprint": model_fingerprint(asked.model),
        "input": source,
        "input_fingerprint": source_fingerprint(source, "validation", reading),
        "settings": {
            "batch_size": asked.batch_size,
            "dtype": asked.dtype,
            "threshold_file": fitted and fitted.as_json(),
            "columns": {name: column for name, column in asdict(reading.columns).items() if column is not None},
            "encoding": reading.encoding,
            "answer_separator": reading.answer_separator,
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
