"""Turns failures from outside of the code (memory, the compiler, another process) into messages with fixes.

Also keeps freed memory, so that training on a CPU is faster.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from qa_lightning.errors import InputError


def lost_a_process(error: RuntimeError) -> bool:
    """Whether the remaining processes raise this error when one of them has ended."""
    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error)


def out_of_memory_problems(
    error: RuntimeError,
    *,
    step: int,
    batch_size: int,
    eval_batch_size: int,
    accumulated: int,
    max_length: int,
    precision: str,
) -> list[str]:
    """The lines of the message: what ran out of memory, then each flag that helps, with a value.

    Args:
        error: the error that the device or the allocator raised.
        step: optimizer steps that are done.
        batch_size, eval_batch_size: windows per batch and device, in training and in validation.
        accumulated: batches per optimizer step.
        max_length: the longest window, in tokens.
        precision: the Trainer's, such as ``bf16-mixed``.
    """
    # At most half a batch, and a divisor of it, so that a step keeps its windows.
    half = max((size for size in range(1, batch_size // 2 + 1) if batch_size % size == 0), default=1)
    problems = [
        f"out of memory at step {step} with --data.batch_size {batch_size}, --data.max_length {max_length}, "
        f"--data.eval_batch_size {eval_batch_size} ({' '.join(str(error).split())[:200]}). Flags that help:"
    ]
    if batch_size > 1:
        problems.append(
            f"--data.batch_size {half} --trainer.accumulate_grad_batches {accumulated * batch_size // half}: the "
            "same number of windows per step, in smaller batches"
        )
    if precision.startswith("32"):
        problems.append("--trainer.precision bf16-mixed: activations take half the memory")
    if max_length > 256:
        problems.append("--data.max_length 256 --data.doc_stride 64: shorter windows")
    if eval_batch_size > batch_size:
        problems.append(f"--data.eval_batch_size {batch_size}: if it happened in validation")
    return problems


@contextmanager
def explained_compiler_failure() -> Iterator[None]:
    """Turn a failure of ``torch.compile`` into an `InputError` that names the flag."""
    from torch._dynamo.exc import BackendCompilerFailed  # imported here, so that --help does not wait for it

    try:
        yield
    except BackendCompilerFailed as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"--model.compile true: torch.compile does not work here ({reason}); it needs a C++ compiler, and Triton "
            "on a GPU. Install what is missing, or leave the flag out"
        ) from None


# Parameters of mallopt, from glibc's malloc.h; their values below are in bytes.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3


_SETTINGS = {_MMAP_THRESHOLD: 1 << 30, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 128 << 20}


def keep_freed_memory() -> bool:
    """Make glibc keep the memory that a training step frees for the next step, instead of returning it to the system.

    On a CPU, steps of many lengths otherwise spend a tenth of their time or more on fetching pages again. The price:
    the process stays at its peak size between steps.

    Returns:
        Whether it was done: only with glibc on Linux, and not if a ``MALLOC_*`` environment variable is set.
    """
    if not sys.platform.startswith("linux") or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    return mallopt is not None and all(mallopt(name, value) for name, value in _SETTINGS.items())


def is_out_of_memory(error: Exception) -> bool:
    """Whether ``error`` says that a device, or the machine, has no memory left."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)
