"""Memory: what the CPU allocator keeps, and how its end is told."""

from __future__ import annotations

import ctypes
import os
import sys

import torch

# mallopt's names, from glibc's malloc.h
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_SETTINGS = {_MMAP_THRESHOLD: 1 << 30, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 128 << 20}


def keep_freed_memory() -> bool:
    """Let glibc keep what a training step freed for the next step, and not hand it back to the system.

    Steps of many lengths on a CPU otherwise spend a tenth of their time and more on fetching pages anew; the process
    stays at its peak size instead of falling below it between steps. Returns whether it was done: not on other
    systems, and not where ``MALLOC_*`` variables say what is wanted.
    """
    if not sys.platform.startswith("linux") or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    return mallopt is not None and all(mallopt(name, value) for name, value in _SETTINGS.items())


def is_out_of_memory(error: Exception) -> bool:
    """Whether a device, or the machine, had no memory left."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)
