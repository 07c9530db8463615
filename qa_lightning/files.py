"""How this package writes: whole or not at all, durable, with the permissions that the user's umask gives.

What is written grows beside its target and is renamed over it once its bytes, and the folder's entry, are on the disk:
whoever looks, after whatever crash, finds the old content or the new one. Every file and folder that a command leaves
goes through this module; so do digests of files, and the locks by which processes agree.

What is made once and found again (`build_once`) carries a manifest, by which damage is noticed before it is used.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
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
_OTHER_CACHE = "or let QA_LIGHTNING_CACHE name another folder (train also takes --data.cache_dir)"
_found_right: set[tuple[object, ...]] = set()  # files that this process compared with their checksum, as they were


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
            f"{given}: its folder cannot be told ({error}); let QA_LIGHTNING_CACHE, or HOME, name a folder"
        ) from None


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
    """Give a new file or folder the umask's permissions; a folder keeps the mark by which it hands on its group."""
    if path.is_file():
        path.chmod(new_file_mode())
    else:
        path.chmod(new_folder_mode() | (path.stat().st_mode & stat.S_ISGID))


def _remove(path: Path) -> None:
    """Remove a file or a folder; what cannot be removed stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def build_once(folder: Path, build: Callable[[Path], None], thorough: bool = True) -> bool:
    """Have ``build`` fill an empty folder that then becomes ``folder``, unless that is there, and as it was made.

    The first process builds, others wait for it. A killed build leaves no ``folder``. One that is damaged is told, and
    made anew. A folder that is whole is only read: neither its cache nor its lock need be writable.

    Args:
        folder: of a cache; nothing else writes into it.
        build: fills it.
        thorough: compare every byte with the checksums, about 2 GB/s, once a process; otherwise names and sizes alone.

    Returns:
        Whether it was built now.

    Raises:
        InputError: it cannot be written, or not be read; nothing half made is left. What ``build`` raises comes
            through, other than an `OSError`.
    """
    wrong: str | None = ""
    try:
        wrong = damage(folder, thorough)
        if wrong is None:
            return False
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _lock_file(folder.parent / f"{folder.name}.lock"):
            wrong = damage(folder, thorough)
            if wrong is None:
                return False
            if wrong:
                log.warning(f"{folder} is damaged and made anew: {wrong}")
            with new_folder(folder) as part:
                build(part)
                _write_manifest(part)
    except OSError as error:
        named = Path(str(error.filename)).resolve() if error.filename else folder.resolve()
        elsewhere = not named.is_relative_to(folder.parent.resolve())
        reason = f"{error.strerror or error}{f': {error.filename}' if elsewhere else ''}"
        what = f"is damaged ({wrong}) and cannot be made anew" if wrong else "cannot be made"
        raise InputError(
            f"{folder} {what} ({reason}); free some space there, make its folder writable, {_OTHER_CACHE}"
        ) from None
    return True


def damage(folder: Path, thorough: bool = True) -> str | None:
    """What is wrong with a folder that `build_once` made, for a message; empty if there is none, None if it is whole.

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
    """How a file is not what the manifest says."""
    try:
        state = path.stat()
        if not stat.S_ISREG(state.st_mode):
            return "is not a file"
        if state.st_size != size:
            return f"has {state.st_size:,} bytes in place of {size:,}"
        seen = (path, checksum, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
        if thorough and seen not in _found_right:
            if _checksum(path) != checksum:
                return "holds other bytes than were written"
            _found_right.add(seen)
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
    """CRC-32: of what is fast without a further library, what finds every run of up to 32 wrong bits."""
    found = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            found = zlib.crc32(block, found)
    return found


def _lock_file(path: Path, timeout: float = -1) -> FileLock:
    """A lock that whoever may write into its folder can take: its file has the permissions that new files have."""
    return FileLock(path, timeout=timeout, mode=new_file_mode())


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
    own = _lock_file(path.with_name(f".{path.name}.lock"), timeout=0)
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
