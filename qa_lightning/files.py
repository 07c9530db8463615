"""Writes files and folders atomically and durably, with the permissions that the user's umask gives.

New content is written beside its target, synced to disk, and renamed over the target; then the parent folder is synced.
After any crash, readers find either the old content or the new one. Every file and folder that a command leaves is
written through this module. It also computes digests of files and holds the locks between processes.

Limits: `append` can leave a part of its content after a crash. When `new_folder` replaces a folder, it needs two
renames; between them the old one exists under another name only, and the next call restores it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

_BLOCK = 1 << 20  # bytes read at a time


def default_cache_dir() -> Path:
    """``$QA_LIGHTNING_CACHE``, or ``qa_lightning`` in the user's cache folder."""
    if folder := os.environ.get("QA_LIGHTNING_CACHE"):
        return Path(folder).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "qa_lightning"


def write_file(path: Path, content: str | bytes | Callable[[IO[bytes]], object]) -> None:
    """Write or replace a file, atomically and durably; its folder is created if it is missing.

    Args:
        path: the target.
        content: text (written as UTF-8), bytes, or a function that writes bytes to the open file.

    Raises:
        OSError: the file cannot be written. Exceptions of ``content`` are not caught. In both cases ``path`` does not
            change.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for part in path.parent.glob(f".{_escaped(path.name)}.*.part"):  # left by a killed process
        part.unlink(missing_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        part.chmod(new_file_mode())
        part.replace(path)
        sync_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


def write_json(path: Path, values: Any) -> None:
    """`write_file` with values as indented JSON."""
    write_file(path, json.dumps(values, indent=1, ensure_ascii=False) + "\n")


def append(path: Path, content: bytes) -> None:
    """Append to a file, durably; after a crash, only a part of ``content`` may be there."""
    with path.open("ab") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Create or replace ``folder`` with the files that the caller writes; on an exception, ``folder`` does not change.

    Yields:
        An empty folder beside ``folder``, to write into. It is renamed to ``folder`` at the end.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    for remains in sorted(folder.parent.glob(f".{_escaped(folder.name)}.*.part")):  # left by a killed process
        if remains.name.endswith(".old.part") and not folder.exists():  # killed between the two renames below
            remains.replace(folder)
        shutil.rmtree(remains, ignore_errors=True)
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".part"))
    old = part.with_name(f"{part.name[: -len('.part')]}.old.part")
    try:
        yield part
        for path in sorted(part.rglob("*"), reverse=True):
            path.chmod(new_file_mode() if path.is_file() else new_folder_mode())
            _sync(path)
        part.chmod(new_folder_mode())
        sync_folder(part)
        if folder.exists():
            folder.replace(old)  # a folder can only be renamed over an empty one
        part.replace(folder)
        sync_folder(folder.parent)
    finally:
        if old.exists() and not folder.exists():
            old.replace(folder)
        for remains in (part, old):
            shutil.rmtree(remains, ignore_errors=True)


def build_once(folder: Path, build: Callable[[Path], None]) -> bool:
    """Build ``folder`` if it does not exist; a killed build leaves no ``folder``.

    The first process builds, and other processes wait for it.

    Args:
        folder: the folder to build.
        build: fills the empty folder that it is given, which then becomes ``folder``.

    Returns:
        Whether this call built it; False if it existed.
    """
    if folder.is_dir():
        return False
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f"{folder.name}.lock"):
        if folder.is_dir():
            return False
        with new_folder(folder) as part:
            build(part)
    return True


@contextmanager
def lock(path: Path) -> Iterator[bool]:
    """Lock a file that only one process at a time may write.

    Args:
        path: the file to be written; its folder is created if it is missing.

    Yields:
        Whether this process now holds the lock; False if another process does.

    Raises:
        NotImplementedError: the file system does not support locks.
        OSError: the lock file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    own = FileLock(path.with_name(f".{path.name}.lock"), timeout=0)
    try:
        own.acquire()
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        own.release()


def digest(paths: Iterable[Path], names: bool = False) -> str:
    """SHA-256 of the concatenated contents of files, in hexadecimal.

    Args:
        paths: the files; their order matters.
        names: also include their names and sizes.
    """
    found = hashlib.sha256()
    for path in paths:
        if names:
            found.update(f"{path.name}\n{path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                found.update(block)
    return found.hexdigest()


def write_problem(folder: Path) -> str | None:
    """A message if ``folder`` cannot be written to, else None; the folder is created if it is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            return None
    except OSError as error:
        return f"where nothing can be written ({error.strerror})"


def new_file_mode() -> int:
    """The permissions of new files under the umask; temporary files are created with stricter ones."""
    return 0o666 & ~_mask()


def new_folder_mode() -> int:
    """The permissions of new folders under the umask."""
    return 0o777 & ~_mask()


def _mask() -> int:
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return int(status.split("\nUmask:")[1].split()[0], 8)
    except (OSError, LookupError, ValueError):  # not Linux: reading the umask sets it, briefly, for all threads
        mask = os.umask(0)
        os.umask(mask)
        return mask


def sync_folder(folder: Path) -> None:
    """Make new and renamed entries of a folder durable, if the system supports it."""
    _sync(folder)


def _sync(path: Path) -> None:
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:  # Windows cannot open folders
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _escaped(name: str) -> str:
    """A pattern for `Path.glob` that matches only this file name."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)
