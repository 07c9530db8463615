"""Dropout on a CPU from 16 random bits a number, in a fraction of PyTorch's time.

PyTorch draws each number by itself: 7 ms for the output of a layer of MiniLM, longer than its matrix product, and 0.8
ms here, where NumPy draws 64 bits at a time, for four numbers. The probability is the nearest multiple of 1/65,536, and
values are scaled by that one.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor, nn

_WORDS = 1 << 16  # different 16-bit words
_LOWEST = -_WORDS // 2


class FastDropout(nn.Dropout):
    """``torch.nn.Dropout`` on a CPU, with other random numbers: equal for equal states of torch's generator."""

    def forward(self, input: Tensor) -> Tensor:
        """See `dropped`; the input itself in eval mode."""
        return dropped(input, self.p) if self.training else input


def dropped(values: Tensor, probability: float) -> Tensor:
    """Floating point values of any shape: each 0 with a probability, the rest scaled up to the same mean.

    On another device than a CPU, and for probabilities that are next to 0 or 1, it is PyTorch's.
    """
    count = round(probability * _WORDS)
    if values.device.type != "cpu" or not 0 < count < _WORDS:
        return nn.functional.dropout(values, probability)
    return values * _noise(values.shape, count, values.dtype)


def _noise(shape: Sequence[int], count: int, dtype: torch.dtype) -> Tensor:
    """A tensor of zeros where the random word is one of the ``count`` lowest, and of the scale elsewhere."""
    scale = 1 / (1 - count / _WORDS)
    first_kept = _LOWEST + count
    words = _random_words(prod(shape)).view(shape)
    kept = words.clamp_(first_kept - 1, first_kept).sub_(first_kept - 1)  # 0 or 1; PyTorch's comparisons are slower
    if dtype.itemsize == words.element_size():  # the bits of the scale, or none: no conversion
        return kept.mul_(int(torch.tensor(scale, dtype=dtype).view(torch.int16))).view(dtype)
    return kept.to(dtype).mul_(scale)


def _random_words(count: int) -> Tensor:
    """int16 [count], by SFC64 (Doty-Humphrey, 2010) from a seed that torch's generator draws."""
    seed = int(torch.empty((), dtype=torch.int64).random_())
    drawn = np.random.SFC64(seed).random_raw(-(-count // 4))
    return torch.from_numpy(drawn.view(np.int16)[:count])


def use_fast_dropout(model: nn.Module) -> None:
    """Let the dropout modules of a model that trains on a CPU draw so."""
    _replace(model, nn.Dropout, FastDropout)


def use_usual_dropout(model: nn.Module) -> None:
    """Undo `use_fast_dropout`."""
    _replace(model, FastDropout, nn.Dropout)


def _replace(model: nn.Module, old: type[nn.Dropout], new: type[nn.Dropout]) -> None:
    for module in model.modules():
        if type(module) is old:
            module.__class__ = new  # the object stays: it may have hooks, and a callback may change its rate
