"""Measures the speed of a run: windows/s, real tokens/s, share of padding and, if the peak is known, utilization.

Only real tokens count as work. Padding is work done for nothing: it lowers utilization.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.throughput import get_available_flops
from torch import Tensor, nn


@dataclass(frozen=True)
class Throughput:
    """The work of some training steps, over all processes.

    Attributes:
        features: number of windows.
        tokens: tokens of these windows, without padding.
        padded_tokens: tokens of these windows, with padding.
        seconds: wall time.
        flops: floating-point operations that the real tokens need, forward and backward.
        peak_flops: operations per second that all devices together can do; None if that is not known.
    """

    features: float
    tokens: float
    padded_tokens: float
    seconds: float
    flops: float = 0.0
    peak_flops: float | None = None

    @classmethod
    def total(cls, parts: Sequence[Throughput]) -> Throughput:
        """Sum several measurements; the peak is that of the last one."""
        names = ("features", "tokens", "padded_tokens", "seconds", "flops")
        sums = {name: sum(getattr(part, name) for part in parts) for name in names}
        return cls(**sums, peak_flops=parts[-1].peak_flops if parts else None)

    @property
    def metrics(self) -> dict[str, float]:
        """TensorBoard tag -> value; ``train/utilization`` only if the peak is known."""
        seconds = max(self.seconds, 1e-9)
        figures = {
            "train/features_per_second": self.features / seconds,
            "train/tokens_per_second": self.tokens / seconds,
            "train/padding_share": 1 - self.tokens / max(self.padded_tokens, 1),
        }
        if self.peak_flops:
            figures["train/utilization"] = self.flops / seconds / self.peak_flops
        return figures

    def __str__(self) -> str:
        figures = self.metrics
        line = (
            f"{figures['train/features_per_second']:,.0f} windows/s  "
            f"{figures['train/tokens_per_second']:,.0f} tokens/s  {figures['train/padding_share']:.1%} padding"
        )
        return line + (f"  {figures['train/utilization']:.0%} of peak" if self.peak_flops else "")


class StepCounter:
    """Sums the counts of batches on the batches' own device, so that counting does not wait for the device.

    Columns: features, real tokens, tokens with padding, sum of squared real lengths (attention grows with it).
    """

    def __init__(self) -> None:
        self.sums: Tensor | None = None

    def add(self, attention_mask: Tensor) -> None:
        """Add a batch, given its attention mask, [B, T]."""
        lengths = attention_mask.sum(1)
        batch = torch.stack(
            [
                torch.full_like(lengths, 1),
                lengths,
                torch.full_like(lengths, attention_mask.shape[1]),
                lengths.square(),
            ]
        ).sum(1)
        self.sums = batch if self.sums is None else self.sums + batch

    def peek(self, device: torch.device) -> Tensor:
        """[4] int64, the sums since the last `take`."""
        return self.sums if self.sums is not None else torch.zeros(4, dtype=torch.int64, device=device)

    def take(self, device: torch.device) -> Tensor:
        """[4] int64, the sums since the last `take`, and start again from 0."""
        sums, self.sums = self.peek(device), None
        return sums


def computing_weights(model: nn.Module) -> int:
    """Number of weights that compute for each token: all but embeddings, which are looked up.

    Count them before a strategy shards the model: after that, a process holds only a part of them.
    """
    looked_up = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    return sum(parameter.numel() for parameter in model.parameters() if id(parameter) not in looked_up)


def training_flops(config: Any, weights: int, tokens: float, squared_lengths: float) -> float:
    """Floating-point operations of a forward and backward pass of an encoder.

    6 per weight and token, and for attention 12 per layer, hidden unit and pair of tokens (Chowdhery et al., 2022,
    PaLM, appendix B).

    Args:
        config: a transformers model's configuration.
        weights: see `computing_weights`.
        tokens: real tokens.
        squared_lengths: sum of the squared real lengths of the sequences.
    """
    layers, hidden = (getattr(config, name, 0) or 0 for name in ("num_hidden_layers", "hidden_size"))
    return 6.0 * weights * tokens + 12.0 * layers * hidden * squared_lengths


def peak_flops(device: torch.device, precision: str) -> float | None:
    """Operations per second that a device can do, from Lightning's table; None for a CPU and for unknown devices.

    Args:
        device: where the model is.
        precision: the Trainer's, such as ``bf16-mixed``.
    """
    if device.type == "cpu":
        return None
    kinds = {"bf16": torch.bfloat16, "16": torch.float16}
    dtype = next((kind for prefix, kind in kinds.items() if precision.startswith(prefix)), torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns about unknown devices
        peak = get_available_flops(device, dtype)
    return float(peak) if peak else None


def memory_used(device: torch.device) -> str:
    """A text: the peak memory of a run's tensors on a GPU so far, or the memory of the process on a CPU."""
    if device.type == "cuda":
        return f"{torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB at most on the GPU"
    return f"{resident_bytes() / 2**30:.1f} GiB of memory"


def peak_memory(device: torch.device) -> int:
    """The most memory so far, in bytes: of a run's tensors on a GPU, or of the process on a CPU; 0 if not known."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _most_resident_bytes()


def resident_bytes() -> int:
    """The memory that this process has now, in bytes; where the system does not say it, the most so far."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):  # not Linux
        return _most_resident_bytes()
    return pages * os.sysconf("SC_PAGE_SIZE")


def _most_resident_bytes() -> int:
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
