"""Files on whatever filesystem Arrow reads, named by an address such as ``s3://bucket/questions.parquet``.

The readers of formats take them as paths: a `RemoteFile` has what they use of one.
"""

from __future__ import annotations

import fnmatch
import io
from pathlib import PurePosixPath
from types import SimpleNamespace
from typing import IO, Any
from urllib.parse import quote

import pyarrow as pa
from pyarrow import fs

from qa_lightning.errors import InputError, one_line

_MARKS = "*["  # of a pattern; a question mark begins the settings
_BUFFER = 1 << 20  # bytes that are asked for at a time
_PLAIN = "!$&'()+,;=:@~"  # in a name, beside letters and the like: what an address and a pattern take as it is


def is_address(name: str) -> bool:
    """Whether a name is the address of something on a filesystem, rather than a path here."""
    return "://" in name


def filesystem_of(address: str) -> tuple[Any, str]:
    """Arrow's filesystem and the path in it.

    Raises:
        InputError: there is no such filesystem, or its settings are wrong.
    """
    try:
        system, path = fs.FileSystem.from_uri(address)
    except (pa.ArrowException, OSError, ValueError, ImportError) as error:
        raise InputError(
            f"{address}: Arrow cannot open this address ({one_line(error)}); it knows file://, s3://, gs://, abfs://, "
            "hdfs://"
        ) from None
    return system, path


class RemoteFile:
    """A file named by an address; its text is the address.

    Args:
        address: of the file.
        system: Arrow's filesystem.
        info: Arrow's facts about the file.
    """

    def __init__(self, address: str, system: Any, info: Any) -> None:
        self._address, self._system, self._path = address, system, PurePosixPath(info.path)
        self._size, self._modified = info.size, info.mtime_ns

    def __str__(self) -> str:
        return self._address

    @property
    def name(self) -> str:
        """The last part of the address."""
        return self._path.name

    @property
    def suffix(self) -> str:
        """The ending of the name."""
        return self._path.suffix

    def with_suffix(self, suffix: str) -> PurePosixPath:
        """The path with another ending."""
        return self._path.with_suffix(suffix)

    def stat(self) -> Any:
        """Size in bytes and time of modification, as of a path."""
        return SimpleNamespace(st_size=self._size, st_mtime_ns=self._modified or 0)

    def open(self, mode: str = "rb") -> IO[bytes]:
        """Open the file to be read.

        Raises:
            OSError: it cannot be opened.
        """
        assert mode == "rb"
        return io.BufferedReader(self.native(), _BUFFER)

    def native(self) -> Any:
        """Open the file as one of Arrow's.

        Raises:
            OSError: it cannot be opened.
        """
        return self._system.open_input_file(str(self._path))


def remote_files(address: str, suffixes: tuple[str, ...]) -> list[RemoteFile]:
    """The files of an address: one, those in a folder, or those that a pattern in its last part names.

    Args:
        address: of a file, a folder, or a pattern of files; perhaps with settings of the filesystem, ``?region=...``.
        suffixes: of files in a folder; others are left out, and so are those whose names begin with ``.`` or ``_``.

    Raises:
        InputError: the address cannot be opened, or there are no such files.
    """
    where, mark, settings = address.partition("?")
    folder, _, last = where.rstrip("/").rpartition("/")
    pattern = last if any(mark in last for mark in _MARKS) else None
    base = folder if pattern else where.rstrip("/")
    system, path = filesystem_of(base + mark + settings)
    try:
        info = system.get_file_info(path)
        if info.type == fs.FileType.File and not pattern:
            return [RemoteFile(address, system, info)]
        found = system.get_file_info(fs.FileSelector(path)) if info.type == fs.FileType.Directory else []
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{address}: cannot be listed ({one_line(error)})") from None
    kept = [one for one in found if one.type == fs.FileType.File and _is_wanted(one.base_name, pattern, suffixes)]
    if not kept:
        none = no_file_in_folder(suffixes) if info.type == fs.FileType.Directory else "no such file"
        raise InputError(f"{address}: {'no file matches this pattern' if pattern else none}")
    kept.sort(key=lambda one: one.path)
    return [RemoteFile(f"{base}/{quote(one.base_name, _PLAIN)}{mark}{settings}", system, one) for one in kept]


def no_file_in_folder(suffixes: tuple[str, ...]) -> str:
    """What is wrong with a folder none of whose files ends with one of these."""
    return f"this folder has no file that ends with {', '.join(suffixes)}"


def _is_wanted(name: str, pattern: str | None, suffixes: tuple[str, ...]) -> bool:
    if pattern is not None:
        return fnmatch.fnmatchcase(name, pattern)
    return not name.startswith((".", "_")) and name.lower().removesuffix(".gz").endswith(suffixes)
