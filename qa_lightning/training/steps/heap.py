"""The heap of a training on a CPU: what a step frees is kept for the next one, as long as the process stays small.

glibc gives large blocks back to the system as soon as they are free, and each step of a training then spends a tenth of
its time or more on fetching the same pages again. Kept, they fall to pieces instead: steps have many lengths, and small
blocks that live on lie between the large ones, so that free memory cannot be used again and the process grows from step
to step. `LimitedHeap` therefore gives all free pages back whenever a process is `_MOST` times as large as its steps
need, and not a small one.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from qa_lightning.runs.throughput import resident_bytes

# Parameters of mallopt, from glibc's malloc.h, and their values in bytes.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_MALLOC = {_MMAP_THRESHOLD: 1 << 30, _TRIM_THRESHOLD: -1, _TOP_PAD: 128 << 20}  # -1: nothing is trimmed
_ALLOCATORS = ("tcmalloc", "jemalloc", "mimalloc")
_SMALL = 2 << 30  # bytes: a process that is smaller gives nothing back, as fetching pages again costs time
_MOST = 1.5  # how many times as large as what is in use at most, within a step, a process may be between two steps


def keep_freed_memory() -> bool:
    """Make glibc keep the memory that a training step frees for the next step, instead of returning it to the system.

    Returns:
        Whether it was done: only with glibc on Linux, and not if a ``MALLOC_*`` environment variable is set or another
        `allocator` was loaded.
    """
    if not sys.platform.startswith("linux") or any(name.startswith("MALLOC_") for name in os.environ) or allocator():
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    return mallopt is not None and all(mallopt(name, value) for name, value in _MALLOC.items())


def allocator() -> str | None:
    """The allocator that this process was started with in place of the system's (``LD_PRELOAD``); None if none was."""
    maps = Path("/proc/self/maps")
    loaded = maps.read_text(errors="replace") if maps.exists() else ""
    return next((name for name in _ALLOCATORS if f"/lib{name}" in loaded), None)


class _Figures(ctypes.Structure):
    """``struct mallinfo2`` of glibc's malloc.h; sizes in bytes."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


class LimitedHeap(Callback):
    """Gives free memory back to the system, after a step that leaves the process too large for what its steps need.

    What they need is counted at the end of forward passes, when most is in use. Does nothing where glibc does not count
    (before 2.33, of 2021).

    Args:
        most: how many times that a process may be as large.
        small: bytes that a process may have in any case.
    """

    def __init__(self, most: float = _MOST, small: int = _SMALL) -> None:
        super().__init__()
        self._most, self._small = most, small
        libc = ctypes.CDLL(None)
        self._figures: Callable[[], _Figures] | None = getattr(libc, "mallinfo2", None)
        if self._figures is not None:
            libc.mallinfo2.restype = _Figures
            self._give_back: Callable[[int], int] = libc.malloc_trim
        self._beside = 0  # what the process has in memory beside its heap, such as code
        self.needed = 0  # bytes
        self.times = 0  # that memory was given back

    def _in_use(self) -> int:
        """Bytes of the heap, and of large blocks beside it, that are in use."""
        assert self._figures is not None
        figures = self._figures()
        return int(figures.uordblks + figures.hblkhd)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note how large the process is without its heap."""
        if self._figures is not None:
            self._give_back(0)  # what preparing the data has freed
            self._beside = max(0, resident_bytes() - self._in_use())

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Note what the step needs."""
        if self._figures is not None:
            self.needed = max(self.needed, self._beside + self._in_use())

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Give memory back, if there is too much of it."""
        if self._figures is not None and resident_bytes() > max(self._small, self._most * self.needed):
            self._give_back(0)
            self.times += 1
