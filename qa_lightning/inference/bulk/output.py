"""Write the answers of a file of questions so that a stopped run can resume: answers, bad rows and a record.

``OUTPUT`` holds the answers and ``OUTPUT.errors.jsonl`` the rows that cannot be asked: one JSON object per line, which
begins with the row's number. ``OUTPUT.run.json`` records the model, the input and the settings, and whether the run is
finished. Each chunk of rows is appended and made durable before the next, so a crash leaves whole chunks and at most
one partial chunk.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from heapq import merge
from pathlib import Path
from typing import Any

from qa_lightning.data.sources import also_read
from qa_lightning.errors import InputError
from qa_lightning.files import append, explained_writes, lock, write_json
from qa_lightning.models.loading import is_in_model
from qa_lightning.paths import is_special, named_path

_LINE = re.compile(rb'\{"row": ([0-9]{1,18}),')
_PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip")
_TABLES = (".csv", ".tsv", ".xls", ".xlsx", ".parquet", ".arrow", ".feather")
_FIX = "pass --overwrite to start over, or another --output"
_FLAGS = {
    "batch_size": "--batch_size",
    "dtype": "--dtype",
    "threshold_file": "--threshold_file",
    "raw_scores": "--raw_scores",
    "columns": "--columns",
    "encoding": "--encoding",
    "answer_separator": "--answer_separator",
    "rows_together": "rows per chunk",
    "documents": "--documents: fingerprint",
    "shard": "--shard",
}


class AnswerFiles:
    """The three files of a run.

    Args:
        output: the file of answers, or a link to it; `locked` creates its folder.

    Raises:
        InputError: ``output`` cannot be a file of lines to append to.
    """

    def __init__(self, output: Path) -> None:
        path = named_path("--output", output)
        if problem := _file_problem(path):
            raise InputError(f"--output {output} {problem}")
        self.output = output = path.resolve() if path.is_symlink() else path
        self.errors = output.with_name(f"{output.name}.errors.jsonl")
        self.record = output.with_name(f"{output.name}.run.json")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold a lock, so that no other run writes these files.

        Raises:
            InputError: another run holds it, the folder cannot be written to, or its file system has no locks.
        """
        with ExitStack() as held:
            with self._writing():
                try:
                    free = held.enter_context(lock(self.output))
                except NotImplementedError:
                    raise InputError(
                        f"--output {self.output}: its file system has no locks; name a file on another one"
                    ) from None
            if not free:
                raise InputError(
                    f"--output {self.output}: another run is writing it; wait until it ends, or name another --output"
                )
            yield

    def refuse_input(self, read: Mapping[str, str]) -> None:
        """Raise `InputError` if one of the three files is among those that are read, or will be once it is written.

        Args:
            read: flag -> what it names; see `also_read`.
        """
        for path, flag in also_read([self.output, self.errors, self.record], read):
            raise InputError(f"--output {self.output}: {path} is part of {flag} {read[flag]}; name another file")

    def refuse_model(self, model: str) -> None:
        """Raise `InputError` if the output is in the folder of a model, or of one of several."""
        if is_in_model(self.output, model):
            raise InputError(f"--output {self.output} is in the folder of --model; name a file outside of it")

    def check_free(self, overwrite: bool) -> None:
        """Raise `InputError` if ``output`` has content but no record, unless ``overwrite``: somebody else wrote it."""
        if not overwrite and self.has_answers() and not self.record.exists():
            raise not_ours(self.output, self.record.name)

    def begin(self, made_with: Mapping[str, Any]) -> None:
        """Write empty files and a record of an unfinished run, in place of what is there.

        Args:
            made_with: the record: model, input and settings.

        Raises:
            InputError: they cannot be written.
        """
        with self._writing():
            self.output.unlink(missing_ok=True)
            self.errors.unlink(missing_ok=True)
            write_json(self.record, {**made_with, "finished": None})
            self.output.touch()
            self.errors.touch()

    def has_answers(self) -> bool:
        """Whether the file of answers exists and is not empty."""
        return _size(self.output) > 0

    def recorded(self, made_with: Mapping[str, Any]) -> dict[str, Any]:
        """The record of the run that wrote the files.

        Raises:
            InputError: it cannot be read, or its model, input or settings differ from ``made_with``.
        """
        try:
            content = self.record.read_bytes()
        except OSError as error:
            raise no_record(self.record, error) from None
        return checked_record(content, self.record, self.output, made_with)

    def changed(self, record: Mapping[str, Any]) -> list[Path]:
        """Answers and list of bad rows, if they have not the size that a finished run recorded."""
        sizes = zip((self.output, self.errors), record["finished"]["bytes"], strict=True)
        return [path for path, size in sizes if _size(path) != size]

    def lost_its_end(self, record: Mapping[str, Any], first: int = 1) -> bool:
        """Whether the last answers of a finished run are not there, and those that are there follow each other.

        Otherwise somebody changed them: also one who took out rows, or the newline at the end.

        Args:
            record: of the run.
            first: number of the first row.
        """
        rows, gap = 0, False
        answers = ((row, True) for row, _ in self._lines(self.output))
        try:
            bad = self._lines(self.errors) if record["finished"]["bytes"][1] else ()  # an empty list is removed
            for row, is_answer in merge(answers, ((row, False) for row, _ in bad)):
                gap = gap or row != first + rows
                if gap and is_answer:
                    return False
                rows += 1
        except (OSError, InputError):  # no list of bad rows, or a line of somebody else's
            return False
        return gap or bool(rows + _lacks_newline(self.output) < record["finished"]["rows"])

    def cut_to_whole_chunks(self, rows_together: int, first: int = 1) -> tuple[int, int]:
        """Truncate both files after the last whole chunk.

        Args:
            rows_together: the rows of a chunk.
            first: number of the first row that the files may hold.

        Returns:
            The number of rows that remain, and how many of them are bad rows.
        """
        with self._writing():
            self.errors.touch()
            rows = 0
            for row, _ in merge(self._lines(self.output), self._lines(self.errors)):
                if row != first + rows:
                    break
                rows += 1
            rows -= rows % rows_together
            self._cut(self.output, first + rows)
            return rows, self._cut(self.errors, first + rows)

    def _cut(self, path: Path, before: int) -> int:
        """Truncate a file after the lines of the rows before row ``before``; returns how many lines those are."""
        count = end = 0
        for row, line_end in self._lines(path):
            if row >= before:
                break
            count, end = count + 1, line_end
        os.truncate(path, end)
        return count

    def _lines(self, path: Path) -> Iterator[tuple[int, int]]:
        """Yield the row number of each line and the byte offset of its end; stop at a line that a crash cut off."""
        end = 0
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n") or b"\0" in line:  # some file systems leave NULs where data was not written
                    return
                if not (found := _LINE.match(line)):
                    raise InputError(f"{path} line {number} was not written by this command; {_FIX}")
                end += len(line)
                yield int(found[1]), end

    def append(self, answers: bytes, errors: bytes) -> None:
        """Append the lines of a chunk and make them durable, answers first."""
        for path, lines in ((self.output, answers), (self.errors, errors)):
            if lines:
                with self._writing():
                    append(path, lines)

    def finish(self, made_with: Mapping[str, Any], counts: Mapping[str, int]) -> None:
        """Mark the run as finished in the record, with ``counts``; remove an empty file of errors."""
        with self._writing():
            sizes = [_size(self.output), _size(self.errors)]
            write_json(self.record, {**made_with, "finished": {**counts, "bytes": sizes}})
            if not sizes[1]:
                self.errors.unlink(missing_ok=True)

    def discard_if_empty(self) -> None:
        """Remove all three files if neither answers nor errors were written."""
        if not _size(self.output) and not _size(self.errors):
            for path in (self.output, self.errors, self.record):
                path.unlink(missing_ok=True)

    def _writing(self) -> AbstractContextManager[None]:
        return explained_writes(f"--output {self.output}", "free some space, or make its folder writable")


def checked_record(content: bytes, record: object, output: object, made_with: Mapping[str, Any]) -> dict[str, Any]:
    """The record of the run that began an output.

    Args:
        content: of the record.
        record, output: what record and output are called.
        made_with: what this run is made with.

    Raises:
        InputError: it cannot be read, or its model, input or settings differ from ``made_with``.
    """
    try:
        found: dict[str, Any] = json.loads(content)
        differences = _differences(found, made_with)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise no_record(record, error) from None
    if differences:
        lines = [f"--output {output} was started with other values; resume with those, {_FIX}:", *differences]
        raise InputError(lines)
    return found


def not_ours(output: object, record: str) -> InputError:
    """The error for an output that no run of this command wrote."""
    return InputError(
        f"--output {output} already exists, and no run of this command wrote it ({record} is missing); {_FIX}"
    )


def no_record(record: object, error: Exception) -> InputError:
    """The error for a record that cannot be read."""
    return InputError(f"{record} cannot be read as the record of a run ({error!r}); {_FIX}")


def _file_problem(path: Path) -> str | None:
    """Why answers cannot be written to a path; None if they can."""
    if path.name in ("", "-"):
        return "is no name of a file: the answers go to a file, from which a stopped run goes on"
    if path.suffix.lower() in _PACKED:
        return (
            f"would be packed, and a stopped run goes on from plain lines; name it without {path.suffix}, and pack it "
            "at the end"
        )
    if path.suffix.lower() in _TABLES:
        return "is named as a table, and answers are JSON lines; name it .jsonl (pandas.read_json(..., lines=True))"
    if path.is_dir():
        return f"is not a file; name a file, such as {path / 'answers.jsonl'}"
    if is_special(path):
        return "is a pipe or a device, and not a file, from which a stopped run goes on; name a file"
    with suppress(OSError):  # nothing is there, or a stream is closed
        if any(os.path.samestat(path.stat(), os.fstat(stream)) for stream in (1, 2)):
            return "is where messages are printed to; name another file"
    return None


def _lacks_newline(path: Path) -> bool:
    """Whether a file's last line is whole, but for its newline."""
    last = b"\n"
    with path.open("rb") as file:
        for line in file:
            last = line
    try:
        return not last.endswith(b"\n") and isinstance(json.loads(last), dict)
    except ValueError:
        return False


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """One line for each difference between two records that changes the answers: model, input, settings."""
    found = []
    for name in ("model", "input"):
        if then[f"{name}_fingerprint"] != now[f"{name}_fingerprint"]:
            difference = (
                " has changed since then" if then[name] == now[name] else f" differs from {then[name]}, used before"
            )
            found.append(f"--{name} {now[name]}{difference}")
    for name, value in now["settings"].items():
        if (before := then["settings"].get(name)) != value:
            found.append(f"{_FLAGS[name]} {value}, was {before}")
    return found
