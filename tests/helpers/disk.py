"""A record of the disk calls of a test: which files were synced, and which paths were replaced, in order."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path


class DiskCalls(list):
    """The calls in order: ``("synced", file)`` and ``("replaced", path)``.

    A file is identified by its inode and its size at that moment, so bytes that were not flushed yet do not count.
    """

    @staticmethod
    def identity(file: int | Path) -> tuple[int, int | None]:
        found = os.stat(file)  # noqa: PTH116 - also takes a file descriptor
        return found.st_ino, None if stat.S_ISDIR(found.st_mode) else found.st_size

    def synced(self, path: Path) -> tuple[str, tuple[int, int | None]]:
        """The event of syncing ``path`` with its present size."""
        return "synced", self.identity(path)

    def sizes_synced(self, path: Path) -> list[int | None]:
        """The size of a file, in bytes, at each time that it was synced."""
        return [file[1] for kind, file in self if kind == "synced" and file[0] == path.stat().st_ino]

    def hold_in_order(self, wanted: Iterable[object]) -> bool:
        """Whether these events occurred in this order; other events may lie between them."""
        events = iter(self)
        return all(event in events for event in wanted)
