"""Tells errors that say that memory has run out from all others."""

from __future__ import annotations

import torch

_WORDS = (  # of torch, the system, and ONNX Runtime
    *("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "Cannot allocate memory"),
    *("std::bad_alloc", "Failed to allocate memory"),
)


def is_out_of_memory(error: Exception) -> bool:
    """Whether ``error`` says that a device, or the machine, has no memory left."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(words in str(error) for words in _WORDS)
