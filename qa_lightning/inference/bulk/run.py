"""Answers a file of questions: streamed, resumable after a crash, and with the same bytes in every case.

Rows are answered in chunks of a fixed number of rows, counted from the first row. So a question is always in the same
batch: after a stop, and on any number of devices. Memory holds a few chunks, whatever the size of the file. A row that
cannot be asked is listed in a file beside the answers; the run continues.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from qa_lightning.inference.bulk.questions import BadRow, Question, count_questions, read_questions
from qa_lightning.inference.bulk.several import document_fingerprint, read_document_file
from qa_lightning.inference.bulk.shards import RowSpan, Shard
from qa_lightning.inference.bulk.workers import PredictSettings, answering, choose_devices, threads_each
from qa_lightning.models.load_errors import loading, quiet_transformers
from qa_lightning.models.loading import model_names, resolve
from qa_lightning.models.threshold_file import read_threshold_file
from qa_lightning.progress import loop_progress
from qa_lightning.runs.record import package_versions, processor
from qa_lightning.wording import counted

log = logging.getLogger("qa_lightning")


@dataclass(frozen=True)
class AskedRows:
    """The rows that are asked.

    Attributes:
        source: what `sources.read_rows` takes.
        reading: names of the data's columns, those that are None are guessed; encoding, separator of answers.
        documents: file with the documents that rows name in ``document_ids``; see `several.read_document_file`.
        shard: which part of the rows; None for all of them.
    """

    source: str
    reading: ReadSettings = ReadSettings()  # noqa: RUF009 - frozen
    documents: str | None = None
    shard: Shard | None = None

    def span(self, rows_together: int) -> RowSpan:
        """Their numbers; for a shard, the rows of the source are counted.

        Raises:
            InputError: the source cannot be read, or has no rows.
        """
        if self.shard is None:
            return RowSpan(last=count_rows(self.source, "validation"))
        if rows := count_questions(self.source, self.reading):
            return self.shard.span(rows, rows_together)
        raise self.no_rows()

    def read(self, span: RowSpan, done: int) -> Iterator[Question | BadRow]:
        """Stream the rows of a span, without its first ``done`` ones."""
        documents = None if self.documents is None else read_document_file(self.documents, self.reading.encoding)
        first = span.first + done
        rows = read_questions(self.source, self.reading, log.info, first, documents)
        return rows if span.to_the_end or span.last is None else islice(rows, max(span.last + 1 - first, 0))

    def no_rows(self) -> InputError:
        """The error for a source without rows."""
        return InputError(f"--input {self.source}: has no rows")


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows that are answered and written together.

    Attributes:
        rows: number of rows.
        bad: the rows among them that cannot be asked.
    """

    rows: int
    bad: list[BadRow]

    @property
    def errors(self) -> bytes:
        """The bad rows, as JSON lines."""
        return "".join(json.dumps(row.as_json(), ensure_ascii=False) + "\n" for row in self.bad).encode(
            errors="replace"
        )


@dataclass
class Counts:
    """Number of rows that are done, and of bad rows among them; rows of earlier runs count too."""

    rows: int
    bad: int

    def add(self, rows: int, bad: int) -> None:
        """Count rows that are written, and the bad ones among them."""
        self.rows += rows
        self.bad += bad

    @property
    def answered(self) -> int:
        """Number of rows that have an answer."""
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
    documents: str | None = None,
    shard: Shard | None = None,
) -> int:
    """Answer every question of a file, or resume an unfinished earlier run.

    Args:
        asked: the model and its settings.
        source, reading, documents, shard: see `AskedRows`; rows need a question and a context.
        output: JSON lines of ``row`` (number in the source, from 1), ``id``, ``answer``, ``start``, ``end``, ``score``
            and, if the model may answer "no answer", ``null_odds``; see `predictions.Answer`. For a row with several
            contexts also ``document``: number of the context, from 0, or id of the document that the offsets belong to.
        devices: GPUs, or processes on a CPU.
        overwrite: start over, whatever the output files contain.

    Returns:
        The exit status: 0, also if some rows are bad.

    Raises:
        InputError: an argument cannot be used, every row is bad, or the answers cannot be computed or written.
    """
    chosen = choose_devices(devices)
    rows = AskedRows(source, reading, documents, shard)
    files = AnswerFiles(output)
    read = {"--input": source}
    read |= {"--documents": documents} if documents else {}
    read |= {"--threshold_file": str(asked.threshold_file)} if asked.threshold_file else {}
    files.refuse_model(asked.model)
    with files.locked():
        files.refuse_input(read)  # now that its folder is there, which a pattern may name
        made_with = record_of(asked, rows, source_fingerprint(source, "validation", reading), device_name(chosen))
        done = bad = 0
        begins = overwrite or not files.has_answers() or not files.record.exists()
        if begins:
            files.check_free(overwrite)
            span = rows.span(asked.rows_together)
        else:
            record = files.recorded(made_with)
            if record["finished"] and not (
                files.output in files.changed(record)
                and files.lost_its_end(record, rows.span(asked.rows_together).first)
            ):
                log.info(f"{output} is finished, {answered(record['finished'])}; --overwrite starts over")
                for path in files.changed(record):
                    log.info(f"note: {path} is not what that run wrote; the answers stay as they are")
                return 0
            span = rows.span(asked.rows_together)
            done, bad = files.cut_to_whole_chunks(asked.rows_together, span.first)
            log.info(f"resuming {output} after row {span.first - 1 + done:,}" + note(record, made_with))
        counts, earlier = Counts(done, bad), Counts(done, bad)

        def begin() -> None:
            if begins:
                files.begin(made_with)

        try:
            seconds = _answer_rest(asked, rows, span, chosen, files, counts, begin)
            if counts.bad < counts.rows or not counts.rows:
                files.finish(made_with, counts.as_json())
        except (InputError, KeyboardInterrupt) as error:
            files.discard_if_empty()
            there = what_is_kept(counts.rows, output)
            if isinstance(error, KeyboardInterrupt):
                log.info(f"\nstopped by Ctrl-C: {there}")
                raise
            raise InputError([*error.problems, there] if counts.rows else error.problems) from None
    part = f"shard {shard} of {source}" if shard else f"--input {source}"
    if not counts.rows:
        log.info(f"{part} is empty: there are fewer chunks of {counted(asked.rows_together, 'row')} than shards")
    elif counts.bad == counts.rows:
        none = "its only row cannot" if counts.rows == 1 else f"none of its {counts.rows:,} rows can"
        raise InputError(f"{part}: {none} be asked; see {files.errors}")
    else:
        log.info(summary(counts, earlier, seconds))
    log.info(f"written to {output}")
    if output.suffix.lower() == ".json":
        log.info(f"note: {output} holds JSON lines, an object on each; pandas.read_json(..., lines=True) reads them")
    if counts.bad:
        log.info(f"{counts.bad:,} of the rows could not be asked; they are listed in {files.errors}")
    return 0


def what_is_kept(rows: int, output: Path | str) -> str:
    """The end of a message about a run that was stopped after some rows."""
    kept = "is done and kept" if rows == 1 else "are done and kept"
    there = f"{counted(rows, 'row')} of {output} {kept}; the same command resumes after them"
    return there if rows else "nothing is written yet"


def _answer_rest(
    asked: PredictSettings,
    rows: AskedRows,
    span: RowSpan,
    devices: Sequence[str],
    files: AnswerFiles,
    counts: Counts,
    begin: Callable[[], None],
) -> float:
    """Answer the remaining rows and write them, chunk by chunk; returns the seconds without loading the model.

    ``begin`` is called before the first chunk is written, when rows and model are known to be usable.
    """
    rest = rows.read(span, counts.rows)
    first = list(islice(rest, 1))  # so that unknown columns are an error before a model is loaded
    if not first and not counts.rows and rows.shard is None:
        raise rows.no_rows()
    started = time.perf_counter()
    if not first:
        begin()
    else:
        with answering(asked, devices) as answers:
            where = ", ".join(devices) if len(set(devices)) == len(devices) else f"{len(devices)} x {devices[0]}"
            which = f"shard {rows.shard} of {rows.source}" if rows.shard else rows.source
            log.info(f"answering {which} on {where}, {counted(asked.rows_together, 'row')} at a time")
            with loop_progress(span.rows, done=counts.rows) as progress:
                started = time.perf_counter()
                answered_chunks = answers(_chunks(chain(first, rest), asked.rows_together))
                for number, (chunk, lines) in enumerate(answered_chunks):
                    if number == 0:
                        begin()
                    files.append(lines, chunk.errors)
                    counts.add(chunk.rows, len(chunk.bad))
                    progress.update(chunk.rows)
    return time.perf_counter() - started


def _chunks(rows: Iterator[Question | BadRow], size: int) -> Iterator[tuple[Chunk, list[Question]]]:
    while some := list(islice(rows, size)):
        bad = [row for row in some if isinstance(row, BadRow)]
        yield Chunk(len(some), bad), [row for row in some if isinstance(row, Question)]


def summary(counts: Counts, earlier: Counts, seconds: float) -> str:
    """The line about the number of answers and the speed."""
    now = counts.answered - earlier.answered
    part = f", {now:,} of them now," if earlier.rows else ""
    return f"{answered(counts.as_json())}{part} in {seconds:,.1f} s, {now / max(seconds, 1e-9):,.1f} questions/s"


def answered(counts: Mapping[str, int]) -> str:
    """How many questions of how many rows are answered."""
    return f"{counted(counts['answered'], 'question')} of {counted(counts['rows'], 'row')} answered"


def record_of(asked: PredictSettings, rows: AskedRows, fingerprint: str, device: str) -> dict[str, Any]:
    """The record: everything that the answers depend on.

    Args:
        asked: the model and its settings.
        rows: what is asked.
        fingerprint: of the content of their source.
        device: what computes.
    """
    fitted = read_threshold_file(asked.threshold_file, asked.model) if asked.threshold_file else None
    columns = asdict(rows.reading.columns)
    return {
        "model": asked.model,
        "model_fingerprint": model_fingerprint(asked.model),
        "input": rows.source,
        "input_fingerprint": fingerprint,
        "settings": {
            "batch_size": asked.batch_size,
            "dtype": asked.dtype,
            "threshold_file": fitted and fitted.as_json(),
            "raw_scores": asked.raw_scores or None,
            "columns": {name: column for name, column in columns.items() if column is not None},
            "encoding": rows.reading.encoding,
            "answer_separator": rows.reading.answer_separator,
            "rows_together": asked.rows_together,
            "documents": rows.documents and document_fingerprint(rows.documents),
            "shard": rows.shard and str(rows.shard),
        },
        "device": device,
        "versions": package_versions(),
    }


def device_name(devices: Sequence[str]) -> str:
    """What computes, for the record: the GPU's name, or that of the CPU and the threads of each process."""
    if devices[0] != "cpu":
        return torch.cuda.get_device_name(devices[0])
    return f"{processor()}, {counted(threads_each(len(devices)), 'thread')} a process"


def note(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """A warning if device or library versions have changed; empty if not."""
    changed = [name for name in ("device", "versions") if then.get(name) != now[name]]
    return f" (with other {' and '.join(changed)}: scores may differ in their last digits)" if changed else ""


def model_fingerprint(name: str) -> str:
    """A fingerprint of a model: the digest of its files or, for a name on the Hub, its revision; those of several.

    Raises:
        InputError: the model does not exist.
    """
    if len(names := model_names(name)) > 1:
        return " ".join(sorted(map(model_fingerprint, names)))  # their order changes no answer
    folder = Path(resolve(name))
    if not folder.is_dir():
        with loading(name), quiet_transformers():
            config = AutoConfig.from_pretrained(resolve(name), trust_remote_code=False)
        return f"hub-{config._commit_hash}"
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(".")]
    return digest((path for path in files if path.suffix != ".md"), names=True)
