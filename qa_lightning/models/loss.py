"""Forward passes and their losses: in float32 whatever the model computes in, with padding left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

_MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def model_logits(model: Any, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Start and end logits of a batch, [B, T] each, float32 whatever the model computes in."""
    output = model(**{name: batch[name] for name in _MODEL_INPUTS if name in batch})
    return output.start_logits.float(), output.end_logits.float()


def span_loss(start: Tensor, end: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """Mean of the start and the end token's cross entropy, with padding left out of the softmax.

    Args:
        start, end: [B, T] float32 logits.
        batch: ``attention_mask`` [B, T] and the labels ``start_positions``, ``end_positions`` [B]; or, in their
            place, ``gold_start``, ``gold_end`` [B, A], -1 where there is none: several labels, see `marginal_loss`.

    Returns:
        [B], the loss of each feature; the same however far the batch is padded.
    """
    padding = batch["attention_mask"] == 0
    if "gold_start" in batch:
        start, end = (logits.masked_fill(padding, -torch.inf) for logits in (start, end))
        return marginal_loss(start, end, batch["gold_start"], batch["gold_end"])
    losses = [
        cross_entropy(logits.masked_fill(padding, -torch.inf), batch[f"{name}_positions"], reduction="none")
        for name, logits in (("start", start), ("end", end))
    ]
    return (losses[0] + losses[1]) / 2


def marginal_loss(start: Tensor, end: Tensor, gold_start: Tensor, gold_end: Tensor) -> Tensor:
    """Half of -log of the probability that the gold spans have together: the sum of p_start * p_end over them.

    The marginal likelihood of Clark & Gardner (2018), "Simple and Effective Multi-Paragraph Reading Comprehension", but
    of whole spans, where they sum over the starts and over the ends apart: the start of one gold span with the end of
    another is none. The half makes it the mean of both cross entropies, exactly, where there is one gold span.

    Args:
        start, end: [B, T] float32 logits, -inf for padding.
        gold_start, gold_end: [B, A] tokens of the distinct gold spans of each feature, at least one, -1 behind them.

    Returns:
        [B], the loss of each feature.
    """
    tokens = torch.arange(start.shape[1], device=start.device)
    spans = start.new_zeros(gold_start.shape)
    for logits, gold in ((start, gold_start), (end, gold_end)):
        # Not gathered: where spans share a token, its gradient would be summed in any order.
        chosen = gold[:, :, None] == tokens
        spans = spans + torch.where(chosen, logits.log_softmax(1)[:, None], 0.0).sum(2)
    return -spans.masked_fill(gold_start < 0, -torch.inf).logsumexp(1) / 2


class WatchedLoss:
    """Losses on their way from the device: looked at after the backward pass is queued, so the device never waits.

    Args:
        own: scalar, the mean loss of a batch.
        mean: scalar, the mean of it over all processes.
        features: [B] that ``own`` is of.
    """

    def __init__(self, own: Tensor, mean: Tensor, features: Tensor) -> None:
        self.features = features
        self._losses = torch.stack([own, mean])
        self._arrived = None
        if own.is_cuda:
            losses, self._losses = self._losses, torch.empty(2, dtype=own.dtype, pin_memory=True)
            self._losses.copy_(losses, non_blocking=True)
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record()

    def values(self) -> tuple[float, float]:
        """The losses, once they are there."""
        if self._arrived is not None:
            self._arrived.synchronize()
        own, mean = self._losses.tolist()
        return own, mean
