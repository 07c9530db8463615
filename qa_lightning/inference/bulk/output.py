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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from heapq import merge
from pathlib import Path
from typing import Any

from qa_lightning.data.sources import names_file
from qa_lightning.errors import InputError
from qa_lightning.files import append, explained_writes, lock, write_json

_LINE = re.compile(rb'\{"row": ([0-9]{1,18}),')
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
        output: the file of answers; `locked` creates its folder.

    Raises:
        InputError: ``output`` is a folder, or something else that is not a file.
    """

    def __init__(self, output: Path) -> None:
        if output.exists() and not output.is_file():
            raise InputError(f"--output {output} is not a file; name a file, such as {output / 'answers.jsonl'}")
        self.output = output
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
            read: flag -> files, as `sources.source_files` takes them.
        """
        for flag, source in read.items():
            for path in (self.output, self.errors, self.record):
                if names_file(source, path):
                    raise InputError(f"--output {self.output}: {path} is part of {flag} {source}; name another file")

    def refuse_model(self, folders: Sequence[Path]) -> None:
        """Raise `InputError` if the output is in the folder of a model, whose fingerprint it would change."""
        for folder in folders:
            if self.output.resolve().parent == folder.resolve():
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
            raise _no_record(self.record, error) from None
        return checked_record(content, self.record, self.output, made_with)

    def is_finished(self, record: Mapping[str, Any]) -> bool:
        """Whether the record says that the run finished, and the answers still have the size recorded then."""
        finished = record["finished"]
        return bool(finished) and finished["bytes"][0] == _size(self.output)

    def lacks_errors(self, record: Mapping[str, Any]) -> bool:
        """Whether the list of bad rows is not what a finished run wrote: somebody removed or changed it."""
        return bool(record["finished"]["bytes"][1] != _size(self.errors))

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
        raise _no_record(record, error) from None
    if differences:
        lines = [f"--output {output} was started with other values; resume with those, {_FIX}:", *differences]
        raise InputError(lines)
    return found


def not_ours(output: object, record: str) -> InputError:
    """The error for an output that no run of this command wrote."""
    return InputError(
        f"--output {output} already exists, and no run of this command wrote it ({record} is missing); {_FIX}"
    )


def _no_record(record: object, error: Exception) -> InputError:
    return InputError(f"{record} cannot be read as the record of a run ({error!r}); {_FIX}")


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
