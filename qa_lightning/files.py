"""Where prepared data is kept, and how several processes agree on who prepares it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock


def default_cache_dir() -> Path:
    """``$QA_LIGHTNING_CACHE``, or ``qa_lightning`` in the user's cache folder."""
    if folder := os.environ.get("QA_LIGHTNING_CACHE"):
        return Path(folder).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "qa_lightning"


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
        for remains in folder.parent.glob(f"{folder.name}.part-*"):
            shutil.rmtree(remains, ignore_errors=True)
        part = Path(tempfile.mkdtemp(prefix=f"{folder.name}.part-", dir=folder.parent))
        try:
            build(part)
            part.replace(folder)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    return True
