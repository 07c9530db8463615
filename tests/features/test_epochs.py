"""An epoch takes all windows with an answer and a share of the others: checked against plain counting."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from qa_lightning.features.batching import TrainingSampler
from qa_lightning.features.epochs import EpochWindows
from qa_lightning.features.labels import hold_answers
from qa_lightning.features.windows import Windower, WindowSettings
from tests.helpers.windows import CONTEXT, TOKENIZERS, lengths, rows_of

BEFORE = {"length": [116, 62, 61, 57, 113, 145, 151, 72], "random": [153, 34, 106, 24, 23, 27, 84, 32]}
COUNT, ANSWERED, DRAWN = 157, 40, 39  # of 117 without an answer, a third


def chosen(share: float = 1 / 3) -> EpochWindows:
    return EpochWindows(np.random.default_rng(1).permutation(np.arange(COUNT) < ANSWERED), share)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_windows_that_hold_an_answer_are_known_by_their_labels(name: str) -> None:
    """Whichever answer of the question it is; one in the overlap of two windows is held by both."""
    begins = [CONTEXT.index("1999"), CONTEXT.index("Rome")]
    spans = [(begin, begin + 4) for begin in begins]
    questions, contexts = ["Who?", "Where does Anna live?", "When?"], [CONTEXT, "Ben " * 60, CONTEXT]
    windower = Windower(TOKENIZERS[name](), WindowSettings(60, 20, 12))
    for others, held in ([], spans[:1]), ([spans[1:], [], []], spans):
        batch = windower(questions, contexts, [spans[0], None, None], others=others or None)
        expected = [
            window["example"] == 0 and any(start.min() <= begin and end.max() >= last for begin, last in held)
            for window, _, start, end in rows_of(batch)
        ]
        assert hold_answers(batch.windows).tolist() == expected
        assert len(held) <= sum(expected) < len(expected) // 2


@pytest.mark.parametrize(("share", "drawn"), [(0.0, 0), (0.001, 0), (0.33, DRAWN), (1.0, COUNT - ANSWERED)])
def test_an_epoch_takes_all_windows_with_an_answer_and_a_rounded_share_of_the_others(share: float, drawn: int) -> None:
    windows = chosen(share)
    assert windows.count == ANSWERED + drawn
    for epoch in range(3):
        taken = windows.of_epoch(7, epoch)
        assert len(np.unique(taken)) == len(taken) == windows.count
        assert windows.answered[taken].sum() == ANSWERED
        assert (np.diff(taken) > 0).all()


def test_the_draws_depend_on_seed_and_epoch_and_favour_no_window() -> None:
    windows = chosen()
    assert windows.of_epoch(1, 2).tolist() == windows.of_epoch(1, 2).tolist()
    draws = {tuple(windows.of_epoch(seed, epoch)) for seed in range(3) for epoch in range(3)}
    assert len(draws) == 9
    often = sum(np.bincount(windows.of_epoch(0, epoch), minlength=COUNT) for epoch in range(400))
    assert set(often[windows.answered]) == {400}
    others = often[~windows.answered] / 400
    assert np.abs(others - DRAWN / (COUNT - ANSWERED)).max() < 0.1  # over four standard deviations


def steps_of(batching, world: int, accumulated: int, batch_size: int, epoch: int) -> list[Counter]:
    """Of each optimizer step: window -> its part of the mean that the step descends, over all processes."""
    steps: list[Counter] = []
    for rank in range(world):
        sampler = TrainingSampler(lengths(COUNT), batch_size, batching, world, rank, 5, accumulated, chosen())
        sampler.set_epoch(epoch)
        own = list(sampler)
        assert len(own) == len(sampler)
        for number, begin in enumerate(range(0, len(own), batch_size)):
            batch = own[begin : begin + batch_size]
            if number // accumulated == len(steps):
                steps.append(Counter())
            for window in batch[: len(batch) - sampler.repeats(number)]:
                steps[number // accumulated][window] += sampler.weight(number) / (accumulated * world)
        sampler.start = (epoch, 3)  # goes on within the epoch
        assert list(sampler) == own[3 * batch_size :]
    return steps


@pytest.mark.parametrize("batching", ["length", "random"])
@pytest.mark.parametrize(("world", "accumulated"), [(1, 2), (2, 1), (2, 2), (3, 1), (3, 2)])
def test_any_number_of_processes_and_batches_takes_the_steps_of_one(batching, world: int, accumulated: int) -> None:
    """79 windows in steps of 12: the last one has 7, so that some processes repeat a window."""
    epochs = []
    for epoch in range(2):
        found = steps_of(batching, world, accumulated, 12 // world // accumulated, epoch)
        alone = steps_of(batching, 1, 1, 12, epoch)
        assert [set(step) for step in found] == [set(step) for step in alone]
        assert [len(step) for step in found] == [12] * 6 + [7]
        for step in found:
            assert list(step.values()) == pytest.approx([1 / len(step)] * len(step))
        taken = [window for step in found for window in step]
        assert sorted(taken) == chosen().of_epoch(5, epoch).tolist()
        epochs.append(taken)
    assert set(epochs[0]) != set(epochs[1])


@pytest.mark.parametrize("batching", ["length", "random"])
def test_where_nothing_is_left_out_the_order_is_that_of_all_windows(batching) -> None:
    """Also that of releases before, so that their checkpoints go on."""
    sizes = lengths(COUNT)
    plain = list(TrainingSampler(sizes, 4, batching, seed=3))
    for windows in (chosen(1.0), EpochWindows(np.ones(COUNT, bool), 0.1)):
        assert list(TrainingSampler(sizes, 4, batching, seed=3, chosen=windows)) == plain
    assert plain[:8] == BEFORE[batching]
