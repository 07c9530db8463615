"""What ended a run from outside of its code: memory, the compiler, another process; recognised, and said with cures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning.pytorch import Trainer

from qa_lightning.errors import InputError
from qa_lightning.training.datamodule import SquadDataModule


def lost_a_process(error: RuntimeError) -> bool:
    """Whether this is what the processes that are left see when one ends."""
    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error)


def out_of_memory_problems(trainer: Trainer, data: SquadDataModule, error: RuntimeError) -> list[str]:
    """What ran out, and the flags that help, with values."""
    batch, accumulated = data.batch_size, trainer.accumulate_grad_batches
    half = max(1, batch // 2)
    problems = [
        f"out of memory at step {trainer.global_step} with --data.batch_size {batch}, --data.max_length "
        f"{data.settings.max_length}, --data.eval_batch_size {data.eval_batch_size} "
        f"({' '.join(str(error).split())[:200]}). What helps:"
    ]
    if batch > 1:
        problems.append(
            f"--data.batch_size {half} --trainer.accumulate_grad_batches {accumulated * -(-batch // half)}: the "
            "same number of windows a step, in smaller pieces"
        )
    if str(trainer.precision).startswith("32"):
        problems.append("--trainer.precision bf16-mixed: activations take half the memory")
    if data.settings.max_length > 256:
        problems.append("--data.max_length 256 --data.doc_stride 64: shorter windows")
    if data.eval_batch_size > batch:
        problems.append(f"--data.eval_batch_size {batch}: if it happened in validation")
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
