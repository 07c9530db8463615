"""How much memory is free, and how many windows fit into it in one pass.

A pass is the forward and backward pass of a training over one batch. On a GPU it is tried; on a CPU, where memory that
is not there ends the process, its need is computed first.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from qa_lightning.errors import InputError
from qa_lightning.models.computing.memory import is_out_of_memory

_GPU_RESERVE = 10  # one part in so many of a GPU stays free: batches of many lengths leave holes in its memory
_HEAP_GROWTH = 3  # how much larger than what is alive the memory of a training on a CPU becomes, for the same reason
# Copies of the trained weights that a run holds beside them: gradients and AdamW's two means. The trial's own gradients
# stand for a fourth, which a step needs at times (buckets of DDP, AdamW's intermediate results).
_WEIGHT_COPIES = 3
_CONTROL_GROUPS = Path("sys/fs/cgroup")


@dataclass(frozen=True)
class Pass:
    """A forward and backward pass over one batch, to be tried with any number of windows.

    Attributes:
        module: what is trained, on its device.
        losses: number of windows -> their losses; the windows are the longest that there are.
        device: where it is computed.
        processes: how many of the run share this machine's memory.
    """

    module: nn.Module
    losses: Callable[[int], Tensor]
    device: torch.device
    processes: int = 1

    def most_windows(self, sizes: Sequence[int], smallest: Callable[[int], int]) -> int:
        """The largest of ``sizes`` that fits into memory in all processes; 0 if none does. All processes must call it.

        Afterwards, weights, buffers, gradients and random numbers are as they were, and memory is free.

        Args:
            sizes: numbers of windows, rising.
            smallest: of the values that the processes call it with, the smallest.

        Raises:
            InputError: on a CPU, the system does not say how much memory is free.
        """
        if self.device.type == "cpu":  # memory that is not there ends a process, so it must not be tried
            limit = smallest(self._affordable(sizes[-1]))
            sizes = [size for size in sizes if size <= limit]
        return smallest(largest(sizes, self._fits))

    @property
    def _weights(self) -> list[nn.Parameter]:
        return [weight for weight in self.module.parameters() if weight.requires_grad]

    def _affordable(self, most: int) -> int:
        """How many windows, up to ``most``, a CPU's free memory is enough for.

        It is computed from what forward passes over one window and over two keep: the difference does not contain what
        is kept once, such as weights that autocast has converted.
        """
        free = free_memory()
        if free is None:
            raise InputError(
                "--data.batch_size auto: this system does not say how much memory is free; run pip install psutil, or "
                "pass a number of windows"
            )
        try:
            with _restored(self):
                one, two = (_saved_bytes(self.losses, windows) for windows in (1, 2))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return 1
        a_window = two - one
        copies = (_WEIGHT_COPIES + 1) * sum(weight.nbytes for weight in self._weights)
        return max(0, min(most, (free // self.processes - copies) // (_HEAP_GROWTH * max(a_window, 1))))

    def _fits(self, windows: int) -> bool:
        """Whether a pass with so many windows fits; on a GPU, beside a reserve."""
        fits = False
        try:
            with _restored(self):
                self._try(windows)
            fits = True
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        gc.collect()  # only now does nothing refer to the tensors of a pass that failed
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
        return fits

    def _try(self, windows: int) -> None:
        held = [torch.empty_like(weight) for weight in self._weights for _ in range(_WEIGHT_COPIES)]
        if self.device.type == "cuda":
            reserve = torch.cuda.get_device_properties(self.device).total_memory // _GPU_RESERVE
            held.append(torch.empty(reserve, dtype=torch.uint8, device=self.device))
        # Not `backward`: that would write gradients, and wake up DDP.
        torch.autograd.grad(self.losses(windows).sum(), self._weights, allow_unused=True)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


@contextmanager
def _restored(one: Pass) -> Iterator[None]:
    """Within, random numbers are drawn and buffers may change; afterwards they are as before."""
    buffers = [(buffer, buffer.detach().clone()) for buffer in one.module.buffers()]
    with torch.random.fork_rng([one.device] if one.device.type == "cuda" else []):
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)


def checkpoints_gradients(module: nn.Module) -> bool:
    """Whether a model of transformers computes layers again for the backward pass, and hides what it keeps for that."""
    return any(getattr(part, "gradient_checkpointing", False) for part in module.modules())


def _saved_bytes(forward: Callable[[int], Tensor], windows: int) -> int:
    """The memory that a forward pass with so many windows keeps for the backward pass, in bytes.

    Without what is saved inside of hooks of others, as under gradient checkpointing.
    """
    saved: dict[int, int] = {}  # address -> bytes: several tensors may share a storage

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = forward(windows)  # while this is alive, no address is used twice
    del kept
    return sum(saved.values())


def largest(sizes: Sequence[int], fits: Callable[[int], bool]) -> int:
    """The largest of ``sizes``, rising, that fits; 0 if none does. The last one, which mostly fits, is tried first."""
    if not sizes or fits(sizes[-1]):
        return sizes[-1] if sizes else 0
    fitting, failing = -1, len(sizes) - 1
    while failing - fitting > 1:
        middle = (fitting + failing) // 2
        if fits(sizes[middle]):
            fitting = middle
        else:
            failing = middle
    return sizes[fitting] if fitting >= 0 else 0


def memory_size(device: torch.device) -> str:
    """A text: the memory of a GPU, or what is free for a CPU."""
    if device.type == "cuda":
        return f"the GPU's {torch.cuda.get_device_properties(device).total_memory / 2**30:.1f} GiB"
    return f"the free memory, {(free_memory() or 0) / 2**30:.1f} GiB"


def free_memory(root: Path = Path("/")) -> int | None:
    """Bytes of memory that this process can still take: of the machine, and within its control groups' limits.

    Args:
        root: where ``/proc`` and ``/sys`` are.

    Returns:
        None if the system does not say it: outside of Linux without the package psutil.
    """
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        try:
            import psutil  # type: ignore[import-untyped,unused-ignore]
        except ImportError:
            return None
        available = int(psutil.virtual_memory().available)
    return max(0, min([available, *_left_in_groups(root)]))


# Below the folder of a control group: its limit, what it uses, and the name of the part of it that files are cached in,
# which the system takes back when memory is short. Version 2, then version 1.
_GROUP_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def _left_in_groups(root: Path) -> Iterator[int]:
    """Bytes that each control group of this process, and each above it, still allows."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, kinds, path = [*line.split(":", 2), "", ""][:3]
        if kinds and "memory" not in kinds.split(","):
            continue
        limit_file, usage_file, cached = _GROUP_FILES[1 if kinds else 0]
        top = root / _CONTROL_GROUPS / ("memory" if kinds else "")
        folder = top / path.strip("/")
        for group in [folder, *(one for one in folder.parents if one.is_relative_to(top))]:
            try:
                limit, used = (int((group / name).read_text()) for name in (limit_file, usage_file))
                parts = dict(entry.split() for entry in (group / "memory.stat").read_text().splitlines())
            except (OSError, ValueError):  # no limit, which is written "max"; or a group that is not seen from here
                continue
            yield limit - used + int(parts.get(cached, 0))
