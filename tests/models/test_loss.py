"""The loss of windows with one and with several gold spans, and its gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from qa_lightning.models.computing.loss import StepLoss, StepLosses, span_loss, teacher_loss
from tests.helpers.windows import GOLD


def test_loss_is_the_mean_of_both_cross_entropies() -> None:
    start, end = torch.randn(2, 3, 7)
    batch = {
        "attention_mask": torch.ones(3, 7, dtype=torch.int64),
        "start_positions": torch.tensor([0, 3, 6]),
        "end_positions": torch.tensor([0, 4, 6]),
    }
    expected = (
        cross_entropy(start, batch["start_positions"], reduction="none")
        + cross_entropy(end, batch["end_positions"], reduction="none")
    ) / 2
    torch.testing.assert_close(span_loss(start, end, batch), expected)
    batch["attention_mask"][:, 5:] = 0
    batch["start_positions"][2] = batch["end_positions"][2] = 1
    torch.testing.assert_close(
        span_loss(start, end, batch), span_loss(start[:, :5], end[:, :5], batch | {"attention_mask": torch.ones(3, 5)})
    )


def brute_force(start, end, gold: list[tuple[int, int]], real: list[int]) -> tuple[float, np.ndarray, np.ndarray]:
    """Loss of one feature and its gradients with respect to the logits, float64, by definition.

    d loss / d start_i = (p_i - the share of the gold probability from spans that start at i) / 2.
    """
    p, q = np.zeros(len(start)), np.zeros(len(end))
    for probability, logits in ((p, start), (q, end)):
        weights = [math.exp(float(logits[i]) - max(float(logits[j]) for j in real)) for i in real]
        probability[real] = np.array(weights) / sum(weights)
    each = [p[first] * q[last] for first, last in gold]
    by_start, by_end = p.copy(), q.copy()
    for (first, last), one in zip(gold, each, strict=True):
        by_start[first] -= one / sum(each)
        by_end[last] -= one / sum(each)
    return -math.log(sum(each)) / 2, by_start / 2, by_end / 2


@settings(max_examples=60, deadline=None)
@given(data=st.data(), scale=st.sampled_from([0.1, 3.0, 40.0]), left=st.booleans(), seed=st.integers(0, 99))
def test_loss_and_gradients_are_the_definitions(data, scale: float, left: bool, seed: int) -> None:
    lengths = data.draw(st.lists(st.integers(3, 9), min_size=1, max_size=4))
    width = max(lengths)
    real = [list(range(width))[width - length :] if left else list(range(length)) for length in lengths]
    span = st.integers(0, 2), st.integers(0, 2)
    gold = [
        [(own[first], own[last]) for first, last in data.draw(st.lists(st.tuples(*span), min_size=1, unique=True))]
        for own in real
    ]
    most = max(map(len, gold))
    padded = np.array([own + [(-1, -1)] * (most - len(own)) for own in gold])
    mask = torch.zeros(len(lengths), width, dtype=torch.int64)
    for row, own in enumerate(real):
        mask[row, own] = 1
    batch = {
        "attention_mask": mask,
        "gold_start": torch.tensor(padded[:, :, 0]),
        "gold_end": torch.tensor(padded[:, :, 1]),
    }
    random = torch.Generator().manual_seed(seed)
    start, end = (scale * torch.randn(2, len(lengths), width, generator=random)).requires_grad_().unbind()
    start.retain_grad()
    end.retain_grad()
    losses = span_loss(start, end, batch)
    assert losses.dtype == torch.float32
    losses.sum().backward()
    for row, own in enumerate(real):
        loss, by_start, by_end = brute_force(start[row].detach(), end[row].detach(), gold[row], own)
        assert losses[row].item() == pytest.approx(loss, rel=1e-5, abs=2e-6)
        np.testing.assert_allclose(start.grad[row], by_start, rtol=1e-4, atol=2e-6)
        np.testing.assert_allclose(end.grad[row], by_end, rtol=1e-4, atol=2e-6)


def labelled(width: int, gold: list[list[tuple[int, int]]], padding: int) -> dict[str, torch.Tensor]:
    """A batch padded on the left with ``gold`` labels; the first of each row is also in ``start_positions``."""
    most = max(map(len, gold))
    padded = torch.tensor([own + [(-1, -1)] * (most - len(own)) for own in gold])
    mask = torch.ones(len(gold), width, dtype=torch.int64)
    mask[:, :padding] = 0
    first = {name: padded[:, 0, side] for side, name in enumerate(("start_positions", "end_positions"))}
    return {"attention_mask": mask, **first, "gold_start": padded[:, :, 0], "gold_end": padded[:, :, 1]}


def test_one_gold_span_among_windows_with_several_gives_the_mean_of_both_cross_entropies_to_the_last_bit() -> None:
    batch = labelled(90, [[(7, 9)], [(3, 3), (3, 8), (11, 12)], [(2, 2)], [(50, 89)]], padding=2)
    logits = 9 * torch.randn(2, 4, 90, generator=torch.Generator().manual_seed(0))
    results = []
    for fields in (batch, {name: value for name, value in batch.items() if name not in GOLD}):
        start, end = logits.clone().requires_grad_().unbind()
        start.retain_grad()
        end.retain_grad()
        losses = span_loss(start, end, fields)
        losses.sum().backward()
        results.append((losses.detach(), start.grad, end.grad))
    single = [0, 2, 3]
    for marginal, usual in zip(*results, strict=True):
        assert torch.equal(marginal[single], usual[single])
        assert not torch.equal(marginal[1], usual[1])
    masked = [side.masked_fill(batch["attention_mask"] == 0, -torch.inf) for side in logits]
    targets = batch["start_positions"], batch["end_positions"]
    one, other = (cross_entropy(side, target, reduction="none") for side, target in zip(masked, targets, strict=True))
    assert torch.equal(results[1][0], (one + other) / 2)


def test_loss_stays_finite_where_probabilities_do_not_fit_into_a_float() -> None:
    batch = labelled(6, [[(2, 2), (4, 5)], [(3, 3), (3, 4)]], padding=1)
    start, end = (1e4 * torch.randn(2, 2, 6, generator=torch.Generator().manual_seed(3))).requires_grad_().unbind()
    losses = span_loss(start, end, batch)
    assert losses.isfinite().all()
    assert losses.max() > 1000
    (gradient,) = torch.autograd.grad(losses.sum(), start)
    assert gradient.isfinite().all()
    assert not gradient[:, 0].any()  # padding


def step_loss(mean: float, step: int, device: str = "cpu") -> StepLoss:
    return StepLoss(torch.tensor([2 * mean, mean], device=device), torch.tensor([step, step + 1]), step)


def test_losses_at_hand_are_read_at_once_and_those_on_a_device_every_fifty() -> None:
    at_hand, away = StepLosses(), StepLosses()
    due = []
    for step in range(120):
        at_hand.add(step_loss(1.0, step))
        assert at_hand.due
        at_hand.read()
        away.add(step_loss(1.0, step, "meta"))
        if away.due:
            due.append(step)
    assert due == [49, 99]


def test_losses_add_up_and_the_first_broken_one_is_kept() -> None:
    losses = StepLosses()
    for step, mean in enumerate((0.5, 1.25, math.nan, math.inf)):
        losses.add(step_loss(mean, step))
        if step == 1:
            losses.read()
            assert (losses.total, losses.count, losses.broken) == (1.75, 2, None)
    losses.read()
    assert losses.count == 4
    assert losses.broken is not None
    assert (losses.broken.step, losses.broken.features.tolist()) == (2, [2, 3])
    losses.read()  # nothing is counted twice
    assert losses.count == 4


def soft_targets(logits: torch.Tensor, outside: torch.Tensor, temperature: float) -> torch.Tensor:
    return (logits / temperature).masked_fill(outside, -torch.inf).softmax(1).masked_fill(outside, -1.0)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_the_teachers_loss_and_its_gradient_are_by_definition(temperature) -> None:
    """d loss / d logit = T * (student's probability - teacher's) / 2, within the tokens of answers."""
    start, end, *taught = torch.randn(4, 3, 9, dtype=torch.float64) * 3
    outside = torch.rand(3, 9) < 0.4
    outside[:, 0] = False
    batch = {
        name: soft_targets(logits, outside, temperature)
        for name, logits in zip(("teacher_start", "teacher_end"), taught, strict=True)
    }
    batch["teacher_end"][0, ~outside[0]] = 0.0  # all but one token without a mass
    batch["teacher_end"][0, 0] = 1.0
    start.requires_grad_(), end.requires_grad_()
    losses = teacher_loss(start, end, batch, temperature)
    losses.sum().backward()
    for row in range(3):
        inside = [token for token in range(9) if not outside[row, token]]
        total = 0.0
        for logits, teacher in ((start, batch["teacher_start"]), (end, batch["teacher_end"])):
            weights = [math.exp(float(logits[row, token].detach()) / temperature) for token in inside]
            assert logits.grad is not None
            for token, weight in zip(inside, weights, strict=True):
                own, other = weight / sum(weights), float(teacher[row, token])
                total += other * math.log(other / own) if other else 0.0
                assert float(logits.grad[row, token]) == pytest.approx(temperature * (own - other) / 2, abs=1e-9)
            assert not logits.grad[row, outside[row]].any()
        assert float(losses[row].detach()) == pytest.approx(temperature**2 * total / 2)
    same = {
        name: soft_targets(logits.detach(), outside, temperature)
        for name, logits in zip(batch, (start, end), strict=True)
    }
    torch.testing.assert_close(teacher_loss(start, end, same, temperature), torch.zeros(3, dtype=torch.float64))
