"""Writes files and folders atomically and durably, with the permissions that the user's umask gives.

New content is written beside its target, synced to disk, and renamed over the target; then the parent folder is synced.
After any crash, readers find either the old content or the new one. Every file and folder that a command leaves is
written through this module. It also computes digests of files and holds the locks between processes.

Limits: `append` can leave a part of its content after a crash. When `new_folder` replaces a folder, it needs two
renames; between them the old one exists under another name only, and the next call restores it.

A folder that is built once and used again (`build_once`) has a manifest, so that damage is noticed before its use.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import shutil
import stat
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from qa_lightning.errors import InputError

log = logging.getLogger("qa_lightning")

MANIFEST = "manifest.txt"
_BLOCK = 1 << 20  # bytes read at a time
_OTHER_CACHE = "or let QA_LIGHTNING_CACHE name another folder (`qa-lightning train --data.cache_dir` does, too)"
_verified: set[tuple[object, ...]] = set()  # states of files whose checksum this process has found right


def default_cache_dir() -> Path:
    """``$QA_LIGHTNING_CACHE``, or ``qa_lightning`` in the user's cache folder.

    Raises:
        InputError: neither is known.
    """
    folder, base = os.environ.get("QA_LIGHTNING_CACHE"), os.environ.get("XDG_CACHE_HOME")
    try:
        if folder:
            return Path(folder).expanduser()
        return (Path(base) if base else Path.home() / ".cache") / "qa_lightning"
    except RuntimeError as error:  # an unknown ~user, or no home folder at all
        given = f"QA_LIGHTNING_CACHE {folder}" if folder else "the cache of prepared data"
        raise InputError(
            f"{given}: its folder is not known ({error}); let QA_LIGHTNING_CACHE, or HOME, name a folder"
        ) from None


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
        _remove(remains)
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".part"))
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


def build_once(folder: Path, build: Callable[[Path], None], thorough: bool = True) -> bool:
    """Create ``folder`` with ``build``, unless it exists and is undamaged.

    The first process builds, the others wait for it. A killed build leaves no ``folder``. A damaged folder gives a
    warning and is built again. An undamaged folder is only read: its parent and its lock need not be writable.

    Args:
        folder: a folder of a cache; nothing else writes into it.
        build: fills the empty folder that it gets, which is then renamed to ``folder``.
        thorough: compare every byte with the checksums, about 2 GB/s, once a process; otherwise names and sizes alone.

    Returns:
        Whether it was built now.

    Raises:
        InputError: it cannot be written or read; no incomplete folder is left. Exceptions of ``build`` other than
            `OSError` are not caught.
    """
    wrong: str | None = ""
    try:
        wrong = damage(folder, thorough)
        if wrong is None:
            return False
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _waiting_for(folder):
            wrong = damage(folder, thorough)
            if wrong is None:
                return False
            if wrong:
                log.warning(f"{folder} is damaged and is built again: {wrong}")
            with new_folder(folder) as part:
                build(part)
                _write_manifest(part)
    except (OSError, NotImplementedError) as error:  # the latter: a file system without locks
        filename = getattr(error, "filename", None)
        named = Path(str(filename)).resolve() if filename else folder.resolve()
        elsewhere = not named.is_relative_to(folder.parent.resolve())
        reason = f"{_reason(error)}{f': {filename}' if elsewhere else ''}"
        what = f"is damaged ({wrong}) and cannot be built again" if wrong else "cannot be made"
        raise InputError(
            f"{folder} {what} ({reason}); free some space there, make its folder writable, {_OTHER_CACHE}"
        ) from None
    return True


@contextmanager
def _waiting_for(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder; if another process builds it, log a line and wait."""
    own = _lock_file(folder.parent / f"{folder.name}.lock")
    try:
        own.acquire(timeout=0)
    except Timeout:
        log.info(f"waiting for another process, which makes {folder}")
        own.acquire()
    try:
        yield
    finally:
        own.release()


def damage(folder: Path, thorough: bool = True) -> str | None:
    """The damage of a folder that `build_once` built, for a message; empty if it does not exist, None if undamaged.

    Args:
        folder: to look at.
        thorough: as in `build_once`.
    """
    if not folder.is_dir():
        return "it is not a folder" if os.path.lexists(folder) else ""
    try:
        *entries, own = (folder / MANIFEST).read_bytes().splitlines(keepends=True)
        if own != b"%08x\n" % zlib.crc32(b"".join(entries)):
            return f"{MANIFEST} is not as it was written"
        for checksum, size, name in (line.decode().rstrip("\n").split(" ", 2) for line in entries):
            if wrong := _file_damage(folder / name, int(checksum, 16), int(size), thorough):
                return f"{name} {wrong}"
    except ValueError:
        return f"{MANIFEST} is not as it was written"
    except OSError as error:
        return f"{MANIFEST} cannot be read ({error.strerror or error})"
    return None


def _file_damage(path: Path, checksum: int, size: int, thorough: bool) -> str | None:
    """How a file differs from its entry in the manifest; None if it does not."""
    try:
        state = path.stat()
        if not stat.S_ISREG(state.st_mode):
            return "is not a file"
        if state.st_size != size:
            return f"has {state.st_size:,} bytes in place of {size:,}"
        seen = (path, checksum, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
        if thorough and seen not in _verified:
            if _checksum(path) != checksum:
                return "holds other bytes than were written"
            _verified.add(seen)
        elif not os.access(path, os.R_OK):
            return "may not be read"
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    return None


def _write_manifest(folder: Path) -> None:
    """List the files of a folder, each with CRC-32 and size in bytes; the last line is the CRC-32 of those before."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = "".join(
        f"{_checksum(path):08x} {path.stat().st_size} {path.relative_to(folder).as_posix()}\n" for path in files
    ).encode()
    (folder / MANIFEST).write_bytes(lines + b"%08x\n" % zlib.crc32(lines))


def _checksum(path: Path) -> int:
    """CRC-32: fast without another library, and sure to find any run of up to 32 wrong bits."""
    found = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            found = zlib.crc32(block, found)
    return found


def _lock_file(path: Path, timeout: float = -1) -> FileLock:
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
        f"temporary files cannot be written{where} ({_reason(error)}); free some space there, or let TMPDIR name "
        "another folder"
    )


def _reason(error: Exception) -> str:
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
        own = _lock_file(beside, timeout=0)
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
            pass  # who held it has removed it since it was opened: that file is nobody's lock any more
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
