"""Writes files and folders atomically and durably, with the permissions that the user's umask gives.

New content is written beside its target, synced to disk, and renamed over the target; then the parent folder is synced.
After any crash, readers find either the old content or the new one. Every file and folder that a command leaves is
written through this module. It also computes digests of files and holds the locks between processes.

Limits: `append` can leave a part of its content after a crash. When `new_folder` replaces a folder, it needs two
renames; between them the old one exists under another name only, and the next call restores it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import socket
import stat
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from qa_lightning.errors import InputError
from qa_lightning.paths import is_special

_BLOCK = 1 << 20  # bytes read at a time
_WRITER = re.compile(r"([0-9a-f]{8})-([0-9]+)\.")  # what `_part_prefix` adds to a name
_SKEW = 60.0  # seconds that the clock of a file system may be behind this machine's
_SILENT = 600.0  # seconds without a write after which a process of another machine counts as killed


@contextmanager
def explained_writes(what: str, fix: str) -> Iterator[None]:
    """Within, something is written; a system error then is an `InputError` that says what cannot be written.

    Args:
        what: a flag and its value.
        fix: ends the message.
    """
    try:
        yield
    except OSError as error:
        raise InputError(f"{what} cannot be written ({error.strerror or error}); {fix}") from None


def write_file(path: Path, content: str | bytes | Callable[[IO[bytes]], object]) -> None:
    """Write or replace a file, atomically and durably; its folder is created if it is missing.

    Args:
        path: the target; a link stays one, and what it leads to is written.
        content: text, bytes, or a function that writes bytes to the open file. Text is written as UTF-8; what that
            cannot hold, as of a file's name that is none, becomes an escape, which JSON reads back.

    Raises:
        OSError: the file cannot be written. Exceptions of ``content`` are not caught. In both cases ``path`` does not
            change.
    """
    if is_special(path):
        raise OSError(errno.EINVAL, "it is a pipe or a device")
    path = path.resolve() if path.is_symlink() else path
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in _left_parts(path):
        _remove(left)
    handle, part = _new_part(path)
    try:
        with os.fdopen(handle, "wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        part.chmod(new_file_mode())
        part.replace(path)
        sync_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


def share_file(source: Path, path: Path) -> bool:
    """Give a file's bytes a second name, in place of the file that has it, atomically and durably.

    As everything here is written to a new file, a later write to one of the two names leaves the other as it is.

    Returns:
        Whether it has the name now; False where the file system has no such links, and nothing has changed.
    """
    if path.is_symlink():  # it stays one; see `write_file`
        return False
    handle, part = _new_part(path)
    os.close(handle)
    try:
        part.unlink()
        os.link(source, part)
        part.replace(path)  # does nothing if both are the same file
        sync_folder(path.parent)
    except OSError:
        return False
    finally:
        part.unlink(missing_ok=True)
    return True


def _new_part(path: Path) -> tuple[int, Path]:
    """A new file beside ``path``, open."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=_part_prefix(path), suffix=".part")
    return handle, Path(name)


def _part_prefix(path: Path) -> str:
    """How the name of a part of ``path`` begins, which tells which process of which machine writes it."""
    return f".{path.name}.{_host()}-{os.getpid()}."


def _host() -> str:
    return f"{zlib.crc32(socket.gethostname().encode()):08x}"


def _left_parts(path: Path) -> list[Path]:
    """The parts of ``path`` that killed processes have left; those that living ones write are not among them."""
    parts = sorted(path.parent.glob(f".{_escaped(path.name)}.*.part"))
    return [part for part in parts if _is_left(part, part.name.removeprefix(f".{path.name}."))]


def _is_left(part: Path, rest: str) -> bool:
    """Whether the process that wrote a part was killed; one of another machine counts as killed after a while.

    A living process of its number is another one if it began later: after a restart, a container's have the same.
    """
    writer = _WRITER.match(rest)
    alive = lives(int(writer[2])) if writer is not None and writer[1] == _host() else None
    with suppress(OSError):
        if writer is None or alive is None:
            return untouched(part) > _SILENT
        return not alive or part.stat().st_mtime < _began(int(writer[2])) - _SKEW
    return False


def _began(process: int) -> float:
    """When a living process began, in seconds since 1970; 0 where the system does not tell."""
    try:
        ticks = int(Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
        boot = re.search(r"^btime (\d+)$", Path("/proc/stat").read_text(encoding="utf-8"), re.MULTILINE)
    except (OSError, ValueError, LookupError):  # not Linux, or it has just ended
        return 0.0
    return int(boot[1]) + ticks / os.sysconf("SC_CLK_TCK") if boot is not None else 0.0


def untouched(path: Path) -> float:
    """Seconds since a file or folder was last written or touched, by the clock of its file system.

    Raises:
        OSError: it is gone, or nothing can be written beside it.
    """
    with tempfile.NamedTemporaryFile(dir=path.parent) as now:
        return os.fstat(now.fileno()).st_mtime - path.stat().st_mtime


def lives(process: int) -> bool | None:
    """Whether there is a process of this number on this machine; None on Windows, where to ask would interrupt it."""
    if os.name == "nt":
        return None
    try:
        os.kill(process, 0)
    except PermissionError:  # somebody else's
        return True
    except (OSError, OverflowError):
        return False
    return True


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

    A link stays one: what it leads to is replaced.

    Yields:
        An empty folder beside ``folder``, to write into. It is renamed to ``folder`` at the end.

    Raises:
        OSError: the folder cannot be written.
    """
    folder = folder.resolve() if folder.is_symlink() else folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    for remains in _left_parts(folder):
        if remains.name.endswith(".old.part") and not folder.exists():  # killed between the two renames below
            remains.replace(folder)
        _remove(remains)
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=_part_prefix(folder), suffix=".part"))
    old = part.with_name(f"{part.name[: -len('.part')]}.old.part")
    try:
        yield part
        for path in (*sorted(part.rglob("*"), reverse=True), part):
            _share(path)
            _sync(path)
        if os.path.lexists(folder):
            folder.replace(old)  # a folder can only be renamed over an empty one
        part.replace(folder)
        sync_folder(folder.parent)
    finally:
        if old.exists() and not folder.exists():
            old.replace(folder)
        for remains in (part, old):
            _remove(remains)


def _share(path: Path) -> None:
    """Give a new file or folder the umask's permissions; a folder keeps its setgid bit, which passes on its group."""
    if path.is_file():
        path.chmod(new_file_mode())
    else:
        path.chmod(new_folder_mode() | (path.stat().st_mode & stat.S_ISGID))


def _remove(path: Path) -> None:
    """Remove a file or a folder, as far as that is possible."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def lock_file(path: Path, timeout: float = -1) -> FileLock:
    """A lock for all who may write into its folder: the lock file has the permissions of new files."""
    return FileLock(path, timeout=timeout, mode=new_file_mode())


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that is removed at the end.

    Raises:
        InputError: it cannot be written; also for an OSError in the body of the ``with`` statement.
    """
    try:
        with tempfile.TemporaryDirectory() as name:
            yield Path(name)
    except OSError as error:
        raise no_temporary_room(error) from None


def no_temporary_room(error: Exception) -> InputError:
    """The error for a temporary file that cannot be written."""
    where = f" in {tempfile.tempdir}" if tempfile.tempdir else ""
    return InputError(
        f"temporary files cannot be written{where} ({failure_reason(error)}); free some space there, or let "
        "TMPDIR name another folder"
    )


def failure_reason(error: Exception) -> str:
    """The reason of a failed write, without the error number that Arrow puts before it."""
    reason = str(getattr(error, "strerror", None) or error)
    return re.sub(r".*\[errno \d+\] ", "", reason)


@contextmanager
def lock(path: Path) -> Iterator[bool]:
    """Lock a file that only one process at a time may write, by a hidden one beside it, which is removed at the end.

    On Windows, which removes no open file, it stays.

    Args:
        path: the file to be written; its folder is created if it is missing.

    Yields:
        Whether this process now holds the lock; False if another process does.

    Raises:
        NotImplementedError: the file system does not support locks.
        OSError: the lock file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.lock")
    if os.name == "nt":
        own = lock_file(beside, timeout=0)
        try:
            own.acquire()
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            own.release()
        return
    handle = _hold_file(beside)
    try:
        yield handle is not None
    finally:
        if handle is not None:
            beside.unlink(missing_ok=True)  # while it is held: see `_hold_file`
            os.close(handle)


def _hold_file(path: Path) -> int | None:
    """Make and hold a file whose holder removes it; its open handle, or None where another process holds it."""
    import fcntl

    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, new_file_mode())
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(handle), path.stat()):
                return handle
        except FileNotFoundError:
            pass  # who held it has removed it since it was opened: that file no longer locks anything
        except OSError as error:
            os.close(handle)
            if isinstance(error, BlockingIOError):
                return None
            if error.errno in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
                raise NotImplementedError("the file system has no locks") from None
            raise
        os.close(handle)


def hold_folder(folder: Path) -> int | None:
    """Lock a folder for this process, until it ends or closes the returned handle.

    Returns:
        The open handle; None if the system has no such locks.

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


def file_mark(path: Path, seconds: float = 1.0) -> list[int] | None:
    """Size and CRC-32 of the last MiB of a file, by which two hosts find out whether they see the same one.

    An archive's table of checksums is at its end, so any change to a checkpoint changes its mark.

    Args:
        path: the file.
        seconds: wait so long for it to appear: on some network file systems others see a new file a little later.

    Returns:
        None if it is not there.
    """
    deadline = time.monotonic() + seconds
    while not path.is_file():
        if time.monotonic() > deadline:
            return None
        time.sleep(0.1)
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _BLOCK))
        return [size, zlib.crc32(file.read())]


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
