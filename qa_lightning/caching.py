"""Builds folders once, for all processes that use them, and notices damage to them.

Prepared data, reports of checks and the folder of ``tiny`` are such folders. Each has a manifest with the size and the
checksum of its files.
"""

from __future__ import annotations

import logging
import os
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import Timeout

from qa_lightning.errors import InputError
from qa_lightning.files import failure_reason, lock_file, new_folder

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
            for path, checksum, _ in _manifest(folder):
                _verified.add(_state(path, checksum, path.stat()))  # they were read for the manifest
    except (OSError, NotImplementedError) as error:  # the latter: a file system without locks
        filename = getattr(error, "filename", None)
        named = Path(str(filename)).resolve() if filename else folder.resolve()
        elsewhere = not named.is_relative_to(folder.parent.resolve())
        reason = f"{failure_reason(error)}{f': {filename}' if elsewhere else ''}"
        what = f"is damaged ({wrong}) and cannot be built again" if wrong else "cannot be made"
        raise InputError(
            f"{folder} {what} ({reason}); free some space there, make its folder writable, {_OTHER_CACHE}"
        ) from None
    return True


@contextmanager
def _waiting_for(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder; if another process builds it, log a line and wait."""
    own = lock_file(folder.parent / f"{folder.name}.lock")
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
        for path, checksum, size in _manifest(folder):
            if wrong := _file_damage(path, checksum, size, thorough):
                return f"{path.relative_to(folder).as_posix()} {wrong}"
    except ValueError:
        return f"{MANIFEST} is not as it was written"
    except OSError as error:
        return f"{MANIFEST} cannot be read ({error.strerror or error})"
    return None


def files_of(folder: Path) -> list[tuple[str, int, int]]:
    """Name, CRC-32 and size of each file of a folder that `build_once` built, as they were written.

    Raises:
        OSError: the list cannot be read.
        ValueError: the list is damaged.
    """
    return [(path.relative_to(folder).as_posix(), checksum, size) for path, checksum, size in _manifest(folder)]


def _manifest(folder: Path) -> list[tuple[Path, int, int]]:
    """Path, CRC-32 and size of each file; see `files_of`."""
    *entries, own = (folder / MANIFEST).read_bytes().splitlines(keepends=True)
    if own != b"%08x\n" % zlib.crc32(b"".join(entries)):
        raise ValueError
    parts = (line.decode().rstrip("\n").split(" ", 2) for line in entries)
    return [(folder / name, int(checksum, 16), int(size)) for checksum, size, name in parts]


def _state(path: Path, checksum: int, state: os.stat_result) -> tuple[object, ...]:
    """What changes when a file does."""
    return path, checksum, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns


def _file_damage(path: Path, checksum: int, size: int, thorough: bool) -> str | None:
    """How a file differs from its entry in the manifest; None if it does not."""
    try:
        state = path.stat()
        if not stat.S_ISREG(state.st_mode):
            return "is not a file"
        if state.st_size != size:
            return f"has {state.st_size:,} bytes in place of {size:,}"
        seen = _state(path, checksum, state)
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
