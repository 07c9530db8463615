"""Computes logits and losses in float32, whatever dtype the model computes in; padding is left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def model_logits(model: Any, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Start and end logits of a batch, [B, T] each, converted to float32."""
    output = model(**{name: batch[name] for name in MODEL_INPUTS if name in batch})
    return output.start_logits.float(), output.end_logits.float()


def span_loss(start: Tensor, end: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """Mean of the cross entropies of start and end token, with padding left out of the softmax.

    Args:
        start, end: [B, T] float32 logits.
        batch: ``attention_mask`` [B, T] and the labels: ``start_positions``, ``end_positions`` [B], or, for several
            gold spans, ``gold_start``, ``gold_end`` [B, A], filled up with -1; see `marginal_loss`.

    Returns:
        [B] loss of each feature; it does not depend on the amount of padding.
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
    """-log(P) / 2, where P is the total probability of the gold spans: the sum of p_start * p_end over them.

    This is the marginal likelihood of Clark & Gardner (2018), "Simple and Effective Multi-Paragraph Reading
    Comprehension", but over whole spans. They sum over starts and over ends separately, which also counts the start of
    one gold span with the end of another. With the factor 1/2, the loss of a single gold span is exactly the mean of
    both cross entropies.

    Args:
        start, end: [B, T] float32 logits, -inf for padding.
        gold_start, gold_end: [B, A] token indices of the distinct gold spans of each feature, at least one, then -1.

    Returns:
        [B] loss of each feature.
    """
    tokens = torch.arange(start.shape[1], device=start.device)
    spans = start.new_zeros(gold_start.shape)
    for logits, gold in ((start, gold_start), (end, gold_end)):
        # No gather: if spans share a token, its backward pass sums their gradients in random order.
        chosen = gold[:, :, None] == tokens
        spans = spans + torch.where(chosen, logits.log_softmax(1)[:, None], 0.0).sum(2)
    return -spans.masked_fill(gold_start < 0, -torch.inf).logsumexp(1) / 2


class WatchedLoss:
    """Copies losses from the device without blocking; reading them after the backward pass is queued stalls nothing.

    Args:
        own: scalar, mean loss of this process's batch.
        mean: scalar, mean of ``own`` over all processes.
        features: [B] indices of the features in the batch.
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
        """Wait for the copy, and return ``own`` and ``mean``."""
        if self._arrived is not None:
            self._arrived.synchronize()
        own, mean = self._losses.tolist()
        return own, mean
