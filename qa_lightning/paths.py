"""What the paths that people name can be: none at all, a file, a folder to write into, or a pipe or a device."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from qa_lightning.errors import InputError


def usable_path(name: str | os.PathLike[str]) -> Path:
    """The path that a name means, with ``~`` expanded; nothing need be there.

    Raises:
        ValueError: there can be nothing: no such user, too long a name, a link to itself, a closed folder.
    """
    try:
        path = Path(name).expanduser()
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise ValueError(f"{error.strerror or error}") from None
    except RuntimeError:
        raise ValueError("there is no home folder of this user") from None
    return path


def named_path(flag: str, name: str | os.PathLike[str]) -> Path:
    """`usable_path` of a flag's value.

    Raises:
        InputError: there can be nothing.
    """
    try:
        return usable_path(name)
    except ValueError as error:
        raise InputError(f"{flag} {name}: cannot be a path ({error}); name another one") from None


def is_special(path: Path) -> bool:
    """Whether a path is a pipe, a socket or a device, which cannot be replaced as a file is, nor read twice."""
    return path.exists() and not path.is_file() and not path.is_dir()


def folder_problem(folder: Path, files: Iterable[str] = ()) -> str | None:
    """Why no files can be written into a folder, which they are written to at the end and may make; None if they can.

    Args:
        folder: it is not made here.
        files: names of what is to be written.
    """
    there = _nearest(folder)
    if not there.is_dir():
        what = "a file" if there.exists() else "a link to nothing"
        return f"is {what}" if there == folder else f"is below {there}, which is {what}"
    if there != folder:
        problem = write_problem(there)
        return problem and f"is in a folder {problem}"
    if blocked := sorted(name for name in files if (folder / name).is_dir()):
        return f"holds a folder named {blocked[0]}, where a file is to be written"
    problem = write_problem(there)
    return problem and f"is a folder {problem}"


def write_problem(folder: Path) -> str | None:
    """A message if ``folder`` cannot be written to, else None; it is not made if it is missing."""
    try:
        with tempfile.NamedTemporaryFile(dir=_nearest(folder)):
            return None
    except OSError as error:
        return f"where nothing can be written ({error.strerror})"


def _nearest(folder: Path) -> Path:
    """The folder itself, or the first above it that is there; also a file or a link in its place."""
    return next(one for one in (folder, *folder.absolute().parents) if os.path.lexists(one))
