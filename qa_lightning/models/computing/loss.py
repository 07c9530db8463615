"""Computes logits and losses in float32, whatever dtype the model computes in; padding is left out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
SOFT_TARGETS = ("teacher_start", "teacher_end")  # see `teacher_loss`
LABELS = ("start_positions", "end_positions", "gold_start", "gold_end", *SOFT_TARGETS)  # see `span_loss`


def model_logits(model: Any, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Start and end logits of a batch, [B, T] each, converted to float32."""
    output = model(**{name: batch[name] for name in MODEL_INPUTS if name in batch})
    return output.start_logits.float(), output.end_logits.float()


def inputs_on(device: torch.device, batch: Mapping[str, Tensor], may_lack_mask: bool = False) -> dict[str, Tensor]:
    """The model's inputs, of a batch on the CPU, on ``device``; a GPU goes on while they are copied.

    Args:
        device: of the model.
        batch: made by `batching.PaddingCollator`.
        may_lack_mask: leave the mask out if there is no padding; see `attention.mask_is_optional`.
    """
    inputs = {name: batch[name] for name in MODEL_INPUTS if name in batch}
    if may_lack_mask and inputs["attention_mask"].all():
        del inputs["attention_mask"]
    if device.type != "cuda":
        return {name: tensor.to(device) for name, tensor in inputs.items()}
    return {name: tensor.pin_memory().to(device, non_blocking=True) for name, tensor in inputs.items()}


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


def teacher_loss(start: Tensor, end: Tensor, batch: Mapping[str, Tensor], temperature: float) -> Tensor:
    """Mean over start and end of T^2 * KL(teacher || student), both at temperature T, over the tokens of answers.

    This is the loss of Hinton et al. (2015), "Distilling the Knowledge in a Neural Network". With the factor T^2 its
    gradient keeps its size whatever the temperature.

    Args:
        start, end: [B, T] float32 logits of the student.
        batch: ``teacher_start, teacher_end``: [B, T] probabilities, at the temperature, that sum to 1; -1 for tokens
            that no answer starts or ends at.
        temperature: above 0.

    Returns:
        [B] loss of each feature; 0 where the student's probabilities are the teacher's.
    """
    divergences = []
    for logits, name in zip((start, end), SOFT_TARGETS, strict=True):
        teacher = batch[name]
        outside = teacher < 0
        teacher = teacher.masked_fill(outside, 0.0)
        student = (logits / temperature).masked_fill(outside, -torch.inf).log_softmax(1).masked_fill(outside, 0.0)
        divergences.append((torch.xlogy(teacher, teacher) - teacher * student).sum(1))
    return temperature**2 * (divergences[0] + divergences[1]) / 2


@dataclass(frozen=True)
class StepLoss:
    """The loss of a batch.

    Attributes:
        losses: [2] mean loss of this process's batch, and its mean over all processes.
        features: [B] indices of the features in the batch.
        step: optimizer steps before it.
    """

    losses: Tensor
    features: Tensor
    step: int


class StepLosses:
    """The losses of training steps: they stay on the device, and are read there together, at most every 50 batches.

    A read makes the host wait for the device, which then has nothing to do until the host has queued the next step.

    Attributes:
        total, count: sum of the mean losses that were read, and how many these are.
        broken: the first of those that were read whose mean is not finite; None if all are.
    """

    together = 50

    def __init__(self) -> None:
        self.total = 0.0
        self.count = 0
        self.broken: StepLoss | None = None
        self._added = 0
        self._waiting: list[StepLoss] = []

    def begin(self) -> None:
        """Forget the losses of an earlier training."""
        self.total, self.count, self.broken = 0.0, 0, None
        self._added = 0
        self._waiting = []

    def add(self, loss: StepLoss) -> None:
        """Add the loss of a batch."""
        self._waiting.append(loss)
        self._added += 1

    @property
    def due(self) -> bool:
        """Whether to `read` now, the same on all processes: after 50 batches, or where reading does not wait."""
        at_hand = bool(self._waiting) and self._waiting[-1].losses.device.type == "cpu"
        return at_hand or self._added % self.together == 0

    def read(self) -> None:
        """Read all losses that were added."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        for loss, (_, mean) in zip(waiting, torch.stack([one.losses for one in waiting]).tolist(), strict=True):
            self.total += mean
            if self.broken is None and not math.isfinite(mean):
                self.broken = loss
        self.count += len(waiting)
