"""The files of a run that answers questions: what is written, what of it is whole, and what it was made with.

``OUTPUT`` holds answers and ``OUTPUT.errors.jsonl`` rows that have none, a JSON object a line that begins with the
row's number; ``OUTPUT.run.json`` says what they were made with, and whether the run came to its end. A chunk of rows
is appended and made durable before the next one, so a crash leaves whole chunks and a part of one at most.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from heapq import merge
from pathlib import Path
from typing import Any

from qa_lightning.data.sources import source_files
from qa_lightning.errors import InputError
from qa_lightning.files import append, lock, write_json

_LINE = re.compile(rb'\{"row": ([0-9]{1,18}),')
_FIX = "pass --overwrite to begin anew, or another --output"
_FLAGS = {
    "batch_size": "--batch-size",
    "dtype": "--dtype",
    "threshold_file": "--threshold-file",
    "columns": "--columns",
    "rows_together": "rows a chunk",
}


class AnswerFiles:
    """The three files of a run.

    Args:
        output: the file of answers; its folder is made.

    Raises:
        InputError: it is no file.
    """

    def __init__(self, output: Path) -> None:
        if output.exists() and not output.is_file():
            raise InputError(f"--output {output}: is no file; name one to write, such as {output / 'answers.jsonl'}")
        self.output = output
        self.errors = output.with_name(f"{output.name}.errors.jsonl")
        self.record = output.with_name(f"{output.name}.run.json")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep others from writing the same files.

        Raises:
            InputError: somebody does already, or nothing can be written there.
        """
        with ExitStack() as held:
            with self._writing():
                try:
                    free = held.enter_context(lock(self.output))
                except NotImplementedError:
                    raise InputError(
                        f"--output {self.output}: its file system has no locks; choose another one"
                    ) from None
            if not free:
                raise InputError(
                    f"--output {self.output}: another run writes it; wait for its end, or name another --output"
                )
            yield

    def refuse_input(self, source: str) -> None:
        """Raise `InputError` where one of the files is a part of what is read."""
        read = {path.resolve() for path in source_files(source)}
        for path in (self.output, self.errors, self.record):
            if path.resolve() in read:
                raise InputError(f"--output {self.output}: {path} is a part of --input {source}; name another file")

    def begin(self, made_with: Mapping[str, Any], overwrite: bool) -> None:
        """Begin anew."""
        if not overwrite and self.has_answers() and not self.record.exists():
            raise InputError(
                f"--output {self.output}: is there already and no unfinished run of this command ({self.record.name} "
                f"is missing); {_FIX}"
            )
        with self._writing():
            self.output.unlink(missing_ok=True)
            self.errors.unlink(missing_ok=True)
            write_json(self.record, {**made_with, "finished": None})
            self.output.touch()
            self.errors.touch()

    def has_answers(self) -> bool:
        """Whether there is something that could be gone on with."""
        return _size(self.output) > 0

    def recorded(self, made_with: Mapping[str, Any]) -> dict[str, Any]:
        """What the files were made with.

        Raises:
            InputError: it cannot be read, or is not what they would be gone on with.
        """
        try:
            record: dict[str, Any] = json.loads(self.record.read_text(encoding="utf-8"))
            differences = _differences(record, made_with)
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise InputError(f"{self.record}: cannot be read as what a run left ({error!r}); {_FIX}") from None
        if differences:
            raise InputError(
                [f"--output {self.output} was begun with something else; go on with that, {_FIX}:", *differences]
            )
        return record

    def is_finished(self, record: Mapping[str, Any]) -> bool:
        """Whether the run came to its end, and its files are as long as they were then."""
        finished = record["finished"]
        return bool(finished) and finished["bytes"] == [_size(self.output), _size(self.errors)]

    def cut_to_whole_chunks(self, rows_together: int) -> tuple[int, int]:
        """Take away what belongs to no whole chunk.

        Returns:
            How many rows are left, and how many of them are bad ones.
        """
        with self._writing():
            self.errors.touch()
            rows = 0
            for row, _ in merge(self._lines(self.output), self._lines(self.errors)):
                if row != rows + 1:
                    break
                rows = row
            rows -= rows % rows_together
            self._cut(self.output, rows)
            return rows, self._cut(self.errors, rows)

    def _cut(self, path: Path, rows: int) -> int:
        """Keep the lines of the first so many rows; how many lines that are."""
        count = end = 0
        for row, line_end in self._lines(path):
            if row > rows:
                break
            count, end = count + 1, line_end
        os.truncate(path, end)
        return count

    def _lines(self, path: Path) -> Iterator[tuple[int, int]]:
        """Row and end, in bytes, of each line, until one that a crash left torn."""
        end = 0
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n") or b"\0" in line:  # some file systems leave NULs for what was not written
                    return
                if not (found := _LINE.match(line)):
                    raise InputError(f"{path} line {number}: was not written by this command; {_FIX}")
                end += len(line)
                yield int(found[1]), end

    def append(self, answers: bytes, errors: bytes) -> None:
        """Write what came of a chunk, durably, the answers first."""
        for path, lines in ((self.output, answers), (self.errors, errors)):
            if lines:
                with self._writing():
                    append(path, lines)

    def finish(self, made_with: Mapping[str, Any], counts: Mapping[str, int]) -> None:
        """Say in the record that the run came to its end."""
        with self._writing():
            sizes = [_size(self.output), _size(self.errors)]
            write_json(self.record, {**made_with, "finished": {**counts, "bytes": sizes}})
            if not sizes[1]:
                self.errors.unlink(missing_ok=True)

    def discard_if_empty(self) -> None:
        """Leave nothing behind where nothing was written."""
        if not _size(self.output) and not _size(self.errors):
            for path in (self.output, self.errors, self.record):
                path.unlink(missing_ok=True)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(
                f"--output {self.output}: cannot be written ({error.strerror or error}); free some space or make the "
                "folder writable"
            ) from None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What is not as it was, of that which decides the answers."""
    found = []
    for name in ("model", "input"):
        if then[f"{name}_fingerprint"] != now[f"{name}_fingerprint"]:
            same = (
                " has changed since" if then[name] == now[name] else f", then {then[name]}, which holds something else"
            )
            found.append(f"--{name} {now[name]}{same}")
    for name, value in now["settings"].items():
        if (before := then["settings"].get(name)) != value:
            found.append(f"{_FLAGS[name]} {value}, then {before}")
    return found
