"""What ended a run from outside of its code: memory, the compiler, another process; recognised, and said with fixes."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from qa_lightning.errors import InputError


def lost_a_process(error: RuntimeError) -> bool:
    """Whether this is what the processes that are left see when one ends."""
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
    """What ran out, and the flags that help, with values.

    Args:
        error: what was raised.
        step: optimizer steps that are done.
        batch_size, eval_batch_size: windows a step and device, in training and in validation.
        accumulated: batches an optimizer step.
        max_length: the longest window, in tokens.
        precision: the Trainer's.
    """
    half = max(1, batch_size // 2)
    problems = [
        f"out of memory at step {step} with --data.batch_size {batch_size}, --data.max_length {max_length}, "
        f"--data.eval_batch_size {eval_batch_size} ({' '.join(str(error).split())[:200]}). What helps:"
    ]
    if batch_size > 1:
        problems.append(
            f"--data.batch_size {half} --trainer.accumulate_grad_batches {accumulated * -(-batch_size // half)}: the "
            "same number of windows a step, in smaller pieces"
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
    """Turn a failure of ``torch.compile`` into an `InputError`."""
    from torch._dynamo.exc import BackendCompilerFailed  # imported late: --help does not wait for it

    try:
        yield
    except BackendCompilerFailed as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"--model.compile true: torch.compile does not work here ({reason}); it needs a C++ compiler, and Triton "
            "on a GPU. Install what is missing, or leave the flag out"
        ) from None


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
