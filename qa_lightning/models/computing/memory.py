"""Tells errors that say that memory has run out from all others."""

from __future__ import annotations

import torch

_WORDS = ("can't allocate memory", "Cannot allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")  # torch's, the system's


def is_out_of_memory(error: Exception) -> bool:
    """Whether ``error`` says that a device, or the machine, has no memory left."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(words in str(error) for words in _WORDS)
