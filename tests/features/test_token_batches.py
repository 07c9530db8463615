"""Batches by tokens: every window once an epoch, within the limit, the same steps in any number of parts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qa_lightning.features.token_batches import TokenSampler
from tests.helpers.windows import lengths


def batches(count: int, tokens: int, world: int = 1, accumulated: int = 1, epoch: int = 0, **more: int):
    """[world][batches] lists of features, and the samplers."""
    samplers = [
        TokenSampler(lengths(count), tokens, num_replicas=world, rank=rank, accumulated=accumulated, **more)
        for rank in range(world)
    ]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    return [list(sampler) for sampler in samplers], samplers


def steps(taken, accumulated: int) -> list[list[int]]:
    """The features of all processes in each optimizer step."""
    return [
        sorted(one for own in taken for batch in own[begin : begin + accumulated] for one in batch)
        for begin in range(0, len(taken[0]), accumulated)
    ]


@pytest.mark.parametrize(
    ("count", "world", "accumulated"), [(1000, 1, 1), (1003, 2, 1), (7, 2, 2), (1, 3, 2), (90, 5, 3)]
)
def test_every_feature_counts_once_and_every_step_as_its_mean(count: int, world: int, accumulated: int) -> None:
    taken, samplers = batches(count, 1000, world, accumulated)
    assert {len(own) for own in taken} == {len(samplers[0])}
    total, seen = np.zeros(-(-len(taken[0]) // accumulated)), []
    for own, sampler in zip(taken, samplers, strict=True):
        for number, batch in enumerate(own):
            counted = batch[: len(batch) - sampler.repeats(number)]
            seen += counted
            # Lightning averages over accumulated batches, and DDP over processes.
            total[number // accumulated] += sampler.weight(number) * len(counted) / accumulated / world
    assert sorted(seen) == list(range(count))
    assert total == pytest.approx(1.0)


@pytest.mark.parametrize(("count", "world", "accumulated"), [(300, 1, 3), (303, 2, 2), (7, 2, 2)])
def test_the_step_that_an_epoch_is_cut_off_in_is_a_mean_too(count: int, world: int, accumulated: int) -> None:
    taken, samplers = batches(count, 1000, world, accumulated)
    for ends in range(1, len(taken[0]) + 1):
        total = np.zeros(-(-ends // accumulated))
        for own, sampler in zip(taken, samplers, strict=True):
            for number, batch in enumerate(own[:ends]):
                counted = len(batch) - sampler.repeats(number)
                total[number // accumulated] += sampler.weight(number, ends) * counted / accumulated / world
        assert total == pytest.approx(1.0)


@pytest.mark.parametrize("multiple", [1, 16])
def test_no_batch_has_more_tokens_and_most_have_nearly_as_many(multiple: int) -> None:
    sizes = np.minimum(-(-lengths(5000) // multiple) * multiple, 384)
    taken, _ = batches(5000, 8192, multiple=multiple, max_length=384)
    padded = np.array([len(batch) * sizes[batch].max() for batch in taken[0]])
    assert padded.max() <= 8192
    assert np.median(padded) > 0.9 * 8192
    assert 1 - sizes.sum() / padded.sum() < 0.02


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_steps_are_the_same_in_any_number_of_parts(parts: int) -> None:
    whole = steps(batches(3000, 16384)[0], 1)
    assert steps(batches(3000, 16384 // parts, world=parts)[0], 1) == whole
    assert steps(batches(3000, 16384 // parts, accumulated=parts)[0], parts) == whole
    assert steps(batches(3000, 16384 // parts, 2, parts // 2)[0], parts // 2) == whole


def test_epochs_have_the_same_sizes_and_other_steps() -> None:
    first, second = (batches(3000, 8192, epoch=epoch)[0][0] for epoch in (0, 1))
    assert sorted(map(len, first)) == sorted(map(len, second))
    assert [sorted(batch) for batch in first] != [sorted(batch) for batch in second]
    assert list(map(len, first)) != list(map(len, second))


def test_a_resumed_epoch_leaves_out_what_is_done_and_no_other_does() -> None:
    whole, _ = batches(500, 4096, epoch=3)
    sampler = TokenSampler(lengths(500), 4096)
    sampler.start = (3, 5)
    sampler.set_epoch(3)
    assert list(sampler) == whole[0][5:]
    sampler.set_epoch(4)
    assert list(sampler) == batches(500, 4096, epoch=4)[0][0]


def test_windows_of_several_lengths_in_a_step_of_few_parts_leave_no_gradient_out() -> None:
    """The weights of a step add up even where some part of it has no window of its own."""
    taken, samplers = batches(3, 384, world=4)
    assert [len(own[-1]) for own in taken] == [1, 1, 1, 1]
    weights = torch.tensor([sampler.weight(0) * (1 - sampler.repeats(0)) for sampler in samplers])
    assert weights.mean() == pytest.approx(1.0)
