"""What a test sees of the disk: what was made durable, and what took another file's name, in order."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path


class DiskCalls(list):
    """What was made durable and what was put into place, in order: ``("synced", file)``, ``("replaced", path)``.

    A file is told by its inode and its size, as they are at that moment: what was not flushed yet does not count.
    """

    @staticmethod
    def identity(file: int | Path) -> tuple[int, int | None]:
        found = os.stat(file)  # noqa: PTH116 - of a handle, too
        return found.st_ino, None if stat.S_ISDIR(found.st_mode) else found.st_size

    def synced(self, path: Path) -> tuple[str, tuple[int, int | None]]:
        """The event that makes ``path`` durable, whole as it is now."""
        return "synced", self.identity(path)

    def sizes_synced(self, path: Path) -> list[int | None]:
        """How long a file was each time that it was made durable."""
        return [about[1] for kind, about in self if kind == "synced" and about[0] == path.stat().st_ino]

    def hold_in_order(self, wanted: Iterable[object]) -> bool:
        """Whether these events came in this order, with whatever between them."""
        events = iter(self)
        return all(event in events for event in wanted)
