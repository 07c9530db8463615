"""Writes answers as a folder of Parquet files, on any filesystem that Arrow writes, so that a stopped run can resume.

A file holds the answers to a piece of the rows, and its name their numbers: ``rows-000000000001-000000008192.parquet``.
Files are complete or absent, and a piece that is answered twice, because a process was lost after it had written,
replaces its file with an equal one. So the names say which rows are done, and no row is lost or there twice.
``_run.json`` is the record; readers of Parquet folders leave out names that begin with ``_``.

Limit: only on this machine's filesystems does a lock keep a second run out. On others two runs write equal files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from qa_lightning.data.formats import filesystem_of, is_address
from qa_lightning.errors import InputError, one_line
from qa_lightning.files import lock, write_file
from qa_lightning.inference.bulk.output import checked_record, no_record, not_ours
from qa_lightning.paths import named_path

_NAME = re.compile(r"rows-([0-9]{12,18})-([0-9]{12,18})\.parquet")
_RECORD = "_run.json"
_WHOLE_OR_NOT = ("s3", "gcs", "abfs")  # where a file appears when its writer closes it


class AnswerFolder:
    """A folder of answers; it can be sent to other processes.

    Args:
        name: a path, or an address such as ``s3://bucket/answers``.
    """

    def __init__(self, name: str) -> None:
        self.name = name if is_address(name) else str(named_path("--output", name).absolute())

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold a lock where the filesystem has them, so that no other run writes this folder.

        A folder that this made is removed at the end if it is empty.

        Raises:
            InputError: another run holds it, there is something else than a folder, or it cannot be written.
        """
        with ExitStack() as held:
            free = True
            with self._writing():
                system, path = self._place()
                there = system.get_file_info(path).type
                if there == fs.FileType.File:
                    raise InputError(f"--output {self.name} is a file; --engine ray writes a folder, so name another")
                system.create_dir(path, recursive=True)
                if not is_address(self.name):
                    with suppress(NotImplementedError):  # a filesystem without locks: see the limit
                        free = held.enter_context(lock(Path(self.name)))
            if not free:
                raise InputError(
                    f"--output {self.name}: another run is writing it; wait until it ends, or name another --output"
                )
            try:
                yield
            finally:
                if there == fs.FileType.NotFound:
                    with suppress(OSError, pa.ArrowException):
                        if not is_address(self.name):
                            Path(self.name).rmdir()
                        elif not system.get_file_info(fs.FileSelector(path)):
                            system.delete_dir(path)  # with all that is in it

    def refuse_input(self, files: Sequence[str]) -> None:
        """Raise `InputError` if one of the input's files is in this folder."""
        own = self.name.partition("?")[0].rstrip("/")
        if inside := [file for file in files if file.partition("?")[0].rpartition("/")[0] == own]:
            raise InputError(f"--output {self.name} holds {inside[0]}, a file of --input; name another folder")

    def begin(self, made_with: Mapping[str, Any], overwrite: bool) -> None:
        """Remove answers that are there, and write the record of an unfinished run.

        Raises:
            InputError: there are files but no record and ``overwrite`` is False, or the folder cannot be written.
        """
        with self._writing():
            system, path = self._place()
            there = [one for one in system.get_file_info(fs.FileSelector(path)) if not one.base_name.startswith(".")]
            if there and not overwrite and _RECORD not in [one.base_name for one in there]:
                raise not_ours(self.name, _RECORD)
            for one in there:
                if _NAME.fullmatch(one.base_name):
                    system.delete_file(one.path)
        self.write_record(made_with, None)

    def has_answers(self) -> bool:
        """Whether there are answers, of any run."""
        with self._writing():
            system, path = self._place()
            return any(_NAME.fullmatch(one.base_name) for one in system.get_file_info(fs.FileSelector(path)))

    def recorded(self, made_with: Mapping[str, Any]) -> dict[str, Any] | None:
        """The record of the run that wrote the folder; None if there is none.

        Raises:
            InputError: it cannot be read, or its model, input or settings differ from ``made_with``.
        """
        system, path = self._place()
        try:
            with system.open_input_stream(f"{path}/{_RECORD}") as file:
                content = file.read()
        except FileNotFoundError:
            return None
        except (OSError, pa.ArrowException) as error:
            raise no_record(f"{self.name}/{_RECORD}", error) from None
        return checked_record(content, f"{self.name}/{_RECORD}", self.name, made_with)

    def write_record(self, made_with: Mapping[str, Any], finished: Mapping[str, int] | None) -> None:
        """Write the record; ``finished`` are the counts of a finished run."""
        values = json.dumps({**made_with, "finished": finished}, indent=1, ensure_ascii=False) + "\n"
        self._write(_RECORD, values.encode())

    def discard_if_empty(self) -> None:
        """Remove the record, unless there are answers."""
        with self._writing():
            system, path = self._place()
            there = system.get_file_info(fs.FileSelector(path))
            if any(_NAME.fullmatch(one.base_name) for one in there):
                return
            if _RECORD in [one.base_name for one in there]:
                system.delete_file(f"{path}/{_RECORD}")

    def done(self, pieces: Mapping[int, int]) -> dict[int, int]:
        """The pieces that are written: first row -> number of bad rows.

        Args:
            pieces: first row -> last row, of all pieces of the input.

        Raises:
            InputError: there is a file of other pieces, or the folder cannot be read.
        """
        found = {}
        with self._writing():
            system, path = self._place()
            names = {one.base_name: one.path for one in system.get_file_info(fs.FileSelector(path))}
            for name in sorted(names):
                if not (match := _NAME.fullmatch(name)):
                    continue
                first, last = int(match[1]), int(match[2])
                if pieces.get(first) != last:
                    raise InputError(f"--output {self.name}: {name} is not a part of this run; remove it")
                bad = _bad_rows(system, names[name], last - first + 1)
                if bad is not None:
                    found[first] = bad
        return found

    def write(self, first: int, last: int, answers: Any) -> None:
        """Write the answers to a piece, a pyarrow Table.

        Raises:
            InputError: the folder cannot be written.
        """
        sink = pa.BufferOutputStream()
        pq.write_table(answers, sink)
        self._write(f"rows-{first:012d}-{last:012d}.parquet", sink.getvalue().to_pybytes())

    def _write(self, name: str, content: bytes) -> None:
        with self._writing():
            if not is_address(self.name):
                write_file(Path(self.name) / name, content)
                return
            system, path = self._place()
            beside = name if system.type_name in _WHOLE_OR_NOT else f".{name}.part"
            with system.open_output_stream(f"{path}/{beside}") as file:
                file.write(content)
            if beside != name:
                system.move(f"{path}/{beside}", f"{path}/{name}")

    def _place(self) -> tuple[Any, str]:
        return filesystem_of(self.name) if is_address(self.name) else (fs.LocalFileSystem(), self.name)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            reason = one_line(getattr(error, "strerror", None) or error)
            raise InputError(
                f"--output {self.name} cannot be written ({reason}); free some space, or make it writable"
            ) from None


def _bad_rows(system: Any, path: str, rows: int) -> int | None:
    """The number of bad rows of a file of answers; None if the file is not whole."""
    try:
        with system.open_input_file(path) as file:
            metadata = pq.read_metadata(file)
    except (OSError, pa.ArrowException):
        return None
    if metadata.num_rows != rows:
        return None
    column = metadata.schema.names.index("error")
    groups = (metadata.row_group(number).column(column) for number in range(metadata.num_row_groups))
    return sum(int(group.num_values - group.statistics.null_count) for group in groups)
