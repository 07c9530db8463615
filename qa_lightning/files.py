"""How this package writes: whole or not at all, durable, with the permissions that the user's umask gives.

What is written grows beside its target and is renamed over it once its bytes, and the folder's entry, are on the disk:
whoever looks, after whatever crash, finds the old content or the new one. Every file and folder that a command leaves
goes through this module; so do digests of files, and the locks by which processes agree.
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
    """Put a file in the place of ``path``, whole and durable; its folder is made if need be.

    Args:
        path: the target.
        content: a text (written as UTF-8), bytes, or a function that writes them to the open file.

    Raises:
        OSError: it cannot be written; ``path`` is as it was. What ``content`` raises comes through.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for part in path.parent.glob(f".{_escaped(path.name)}.*.part"):  # of a process that was killed while it wrote
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
    """`write_file` with values as JSON, in lines that people can read."""
    write_file(path, json.dumps(values, indent=1, ensure_ascii=False) + "\n")


def append(path: Path, content: bytes) -> None:
    """Add to the end of a file, durably; a crash leaves a part of ``content`` at most."""
    with path.open("ab") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, which then takes the place of ``folder``; what fails leaves ``folder`` as it was.

    Yields:
        The empty folder beside it.

    Raises:
        OSError: it cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    for remains in sorted(folder.parent.glob(f".{_escaped(folder.name)}.*.part")):  # of a process that was killed
        if remains.name.endswith(".old.part") and not folder.exists():  # between the two renames below
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
    """Have ``build`` fill an empty folder that then becomes ``folder``; a killed build leaves no ``folder``.

    The first process builds, others wait for it. Returns False where the folder was there already.
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
    """Hold the lock of a file that one process at a time may write.

    Args:
        path: the file that is to be written; its folder is made if need be.

    Yields:
        Whether the lock was free, and now is this process's.

    Raises:
        NotImplementedError: the file system has no locks.
        OSError: nothing can be written there.
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


def hold_folder(folder: Path) -> int | None:
    """Hold a folder for this process, until it ends or closes the handle that it gets: who else asks is refused.

    Returns:
        The open handle; None where the system has no such locks.

    Raises:
        BlockingIOError: another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise
    except OSError:  # some network file systems
        os.close(handle)
        return None
    return handle


def digest(paths: Iterable[Path], names: bool = False) -> str:
    """SHA-256 of the content of some files, one after the other.

    Args:
        paths: of the files.
        names: take in their names and sizes, too.
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
    """Why nothing can be written in ``folder``, which is made if need be; None where that is possible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            return None
    except OSError as error:
        return f"where nothing can be written ({error.strerror})"


def new_file_mode() -> int:
    """The permissions that new files have here, which temporary files do not follow."""
    return 0o666 & ~_mask()


def new_folder_mode() -> int:
    """Likewise of new folders."""
    return 0o777 & ~_mask()


def _mask() -> int:
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return int(status.split("\nUmask:")[1].split()[0], 8)
    except (OSError, LookupError, ValueError):  # other systems: to be read it must be set, for a moment and all threads
        mask = os.umask(0)
        os.umask(mask)
        return mask


def sync_folder(folder: Path) -> None:
    """Make what was made or renamed in a folder durable, where the system can."""
    _sync(folder)


def _sync(path: Path) -> None:
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _escaped(name: str) -> str:
    """A file's name as a pattern for `Path.glob` that fits it alone."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)
