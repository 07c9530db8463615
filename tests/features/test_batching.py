from __future__ import annotations

import copy
import inspect
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from qa_lightning import SquadDataModule
from qa_lightning.errors import InputError
from qa_lightning.features.batching import EvaluationSampler, FeatureDataset, PaddingCollator, TrainingSampler
from qa_lightning.features.store import FeatureStore, write_features
from qa_lightning.features.windows import Windower, WindowSettings, vocabulary_size
from tests.helpers.windows import GOLD, lengths, windows_gold


def groups(sampler_of_rank, world: int, batch_size: int) -> list[list[int]]:
    """The features that all processes together take in each step."""
    orders = [list(sampler_of_rank(rank)) for rank in range(world)]
    steps = -(-len(orders[0]) // batch_size)
    return [[i for order in orders for i in order[n * batch_size : (n + 1) * batch_size]] for n in range(steps)]


@pytest.mark.parametrize("batching", ["length", "random"])
@pytest.mark.parametrize(("count", "world"), [(1000, 1), (1003, 2), (7, 2), (2, 3), (1001, 3), (1, 4)])
def test_training_takes_every_feature_once_an_epoch_in_equal_steps(batching, count: int, world: int) -> None:
    orders = [list(TrainingSampler(lengths(count), 4, batching, world, rank)) for rank in range(world)]
    assert {len(order) for order in orders} == {-(-count // world)}
    taken = np.concatenate(orders)
    assert set(taken) == set(range(count))
    assert len(taken) - count < world  # only features that fill up the last group are repeated


def test_training_order_depends_on_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        sampler = TrainingSampler(lengths(500), 4, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(1, 2) == order(1, 2)
    assert order(1, 2) != order(1, 3)
    assert order(1, 2) != order(2, 2)


@pytest.mark.parametrize("batching", ["length", "random"])
def test_two_processes_with_half_the_batch_see_the_single_process_groups(batching) -> None:
    single = groups(lambda rank: TrainingSampler(lengths(1000), 8, batching), 1, 8)
    double = groups(lambda rank: TrainingSampler(lengths(1000), 4, batching, 2, rank), 2, 4)
    assert [sorted(group) for group in single] == [sorted(group) for group in double]


def test_the_same_groups_come_in_another_order_each_epoch() -> None:
    sizes = np.arange(1, 41)  # all differ and are sorted together, so the groups are the same in every epoch

    def places(epoch: int) -> list[int]:
        """The indices of the groups, which are sorted by length, in the order in which the sampler yields them."""
        sampler = TrainingSampler(sizes, 4)
        sampler.set_epoch(epoch)
        taken = np.array(list(sampler)).reshape(-1, 4) // 4
        assert (taken == taken[:, :1]).all()
        return taken[:, 0].tolist()

    orders = [places(epoch) for epoch in range(5)]
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert len(set(map(tuple, orders))) == 5
    assert list(range(10)) not in orders
    assert list(range(10))[::-1] not in orders


@pytest.mark.parametrize(
    ("count", "batch_size", "world", "accumulated", "weights"),
    [
        (10, 4, 1, 1, [1 / 4, 1 / 4, 1 / 2]),
        (8, 4, 1, 1, [1 / 4, 1 / 4]),
        (9, 4, 1, 1, [1 / 4, 1 / 4, 1]),
        (7, 2, 2, 1, [1 / 2, 2 / 3]),
        (11, 2, 1, 3, [1 / 2, 1 / 2, 1 / 2, 3 / 5, 3 / 5, 3 / 5]),
        (9, 2, 1, 2, [1 / 2, 1 / 2, 1 / 2, 1 / 2, 2]),
    ],
)
def test_losses_count_for_a_step_to_be_the_mean_over_its_features(
    count: int, batch_size: int, world: int, accumulated: int, weights: list[float]
) -> None:
    for rank in range(world):
        sampler = TrainingSampler(lengths(count), batch_size, "length", world, rank, accumulated=accumulated)
        assert len(weights) == -(-len(sampler) // batch_size)
        assert [sampler.weight(batch) for batch in range(len(weights))] == pytest.approx(weights)


@pytest.mark.parametrize(("count", "world", "accumulated"), [(23, 1, 3), (40, 2, 4), (9, 2, 2)])
def test_the_step_that_an_epoch_is_cut_off_in_is_a_mean_too(count: int, world: int, accumulated: int) -> None:
    samplers = [TrainingSampler(lengths(count), 2, "length", world, rank, 0, accumulated) for rank in range(world)]
    in_all = -(-len(samplers[0]) // 2)
    for ends in range(1, in_all + 1):
        total = np.zeros(-(-ends // accumulated))
        for sampler in samplers:
            own = list(sampler)
            for number in range(ends):
                counted = len(own[2 * number : 2 * number + 2]) - sampler.repeats(number)
                total[number // accumulated] += sampler.weight(number, ends) * counted / accumulated / world
        assert total == pytest.approx(1.0)


@pytest.mark.parametrize("batching", ["length", "random"])
@pytest.mark.parametrize(
    ("count", "world", "repeated"),
    [(7, 2, [0, 1]), (8, 2, [0, 0]), (1, 2, [0, 1]), (13, 3, [0, 1, 1]), (14, 3, [0, 0, 1]), (1, 4, [0, 1, 1, 1])],
)
def test_features_that_fill_the_last_step_up_are_known_and_no_others(
    batching, count: int, world: int, repeated: list[int]
) -> None:
    taken: list[int] = []
    for rank in range(world):
        sampler = TrainingSampler(lengths(count), 2, batching, world, rank)
        own, steps = list(sampler), -(-len(sampler) // 2)
        batches = [own[2 * number : 2 * number + 2] for number in range(steps)]
        repeats = [sampler.repeats(number) for number in range(steps)]
        assert repeats == [0] * (steps - 1) + [repeated[rank]]
        for batch, repeat in zip(batches, repeats, strict=True):
            taken += batch[: len(batch) - repeat]
    assert sorted(taken) == list(range(count))


def padding_share(order, sizes: np.ndarray, batch_size: int, multiple: int = 1) -> float:
    batches = [sizes[order[begin : begin + batch_size]] for begin in range(0, len(order), batch_size)]
    return 1 - sizes[order].sum() / sum(len(batch) * -(-batch.max() // multiple) * multiple for batch in batches)


def test_length_grouping_leaves_little_padding() -> None:
    sizes = lengths(5000)
    assert padding_share(list(TrainingSampler(sizes, 8)), sizes, 8) < 0.03
    assert padding_share(list(TrainingSampler(sizes, 8, "random")), sizes, 8) > 0.2
    assert padding_share(list(EvaluationSampler(sizes, 8)), sizes, 8) < 0.01


@pytest.mark.parametrize(("count", "world"), [(100, 1), (101, 2), (103, 3), (5, 3), (1, 3), (9, 4)])
def test_evaluation_batches_are_the_same_for_any_number_of_processes(count: int, world: int) -> None:
    sizes = lengths(count)
    single = list(EvaluationSampler(sizes, 4))
    expected = [tuple(single[begin : begin + 4]) for begin in range(0, count, 4)]
    dealt = []
    for rank in range(world):
        order = list(EvaluationSampler(sizes, 4, world, rank))
        dealt.append([tuple(order[begin : begin + 4]) for begin in range(0, len(order), 4)])
    assert len({len(batches) for batches in dealt}) == 1  # equal steps, or collectives would hang
    together = [batch for turn in zip(*dealt, strict=True) for batch in turn]
    assert sorted(together[: len(expected)]) == sorted(expected)
    assert set(together) == set(expected)
    assert {len(batch) for batch in expected[:-1]} <= {4}


def test_a_store_is_sent_to_a_process_as_the_names_of_its_files(tokenizer, tmp_path) -> None:
    """A loader's process that is spawned maps the files; a store in memory is sent whole."""
    in_memory = make_dataset(tokenizer).store
    batch = Windower(tokenizer, WindowSettings(40, 8, 12))(["Who?"], ["Ben works. " * 2000], [(0, 3)])
    write_features([batch], tmp_path, 2**16 + 1)
    for store, most in ((FeatureStore.open(tmp_path), 3000), (in_memory, 10**6)):
        sent = pickle.dumps(store)
        assert len(sent) < most
        received = pickle.loads(sent)
        assert (received.input_ids == store.input_ids).all()
        assert (received.windows == store.windows).all()
        assert isinstance(received.input_ids, np.memmap) == isinstance(store.input_ids, np.memmap)


def test_ids_of_tokens_may_have_gaps(tokenizer) -> None:
    with_gaps = SimpleNamespace(get_vocab=lambda: {"a": 0, "b": 70_000})
    assert vocabulary_size(with_gaps) == 70_001
    assert vocabulary_size(tokenizer) == len(tokenizer)


def test_few_windows_wait_for_the_others_of_their_context() -> None:
    """Of contexts with five windows, of which all but the last one are full; the longest batch comes first."""
    random = np.random.default_rng(0)
    sizes = np.full(5000, 384)
    sizes[4::5] = random.integers(150, 384, 1000)
    order = np.array(list(EvaluationSampler(sizes, 32)))
    assert (sizes[order[:32]] == 384).all()
    waiting, missing, most = 0, [5] * 1000, 0
    for window in order:
        missing[window // 5] -= 1
        waiting += sizes[window]
        if missing[window // 5] == 0:
            waiting -= sizes[window // 5 * 5 : window // 5 * 5 + 5].sum()
        most = max(most, waiting)
    assert most < 0.2 * sizes.sum()


def make_dataset(tokenizer) -> FeatureDataset:
    batch = Windower(tokenizer, WindowSettings(40, 8, 12))(
        ["Where does Anna live?", "Who?"], ["Anna lives in Oslo.", "Ben works. " * 20], [(14, 18), (0, 3)]
    )
    return FeatureDataset(FeatureStore.of_batch(batch), [], False)


@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_and_labels_follow_the_padding_side(tokenizer, side: str) -> None:
    import copy

    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.padding_side = side
    dataset = make_dataset(tokenizer)
    batch = next(iter(DataLoader(dataset, len(dataset), collate_fn=PaddingCollator(tokenizer))))
    widest = int(dataset.store.windows["length"].max())
    assert batch["input_ids"].shape == (len(dataset), widest)
    for row, window in enumerate(dataset.store.windows):
        own = dataset[row]["input_ids"]
        real = slice(0, len(own)) if side == "right" else slice(widest - len(own), widest)
        assert batch["input_ids"][row, real].tolist() == own.tolist()
        assert batch["attention_mask"][row].sum() == len(own)
        assert batch["attention_mask"][row, real].all()
        assert (batch["input_ids"][row][batch["attention_mask"][row] == 0] == tokenizer.pad_token_id).all()
        for name, field in (("start_positions", "start"), ("end_positions", "end"), ("cls", "cls")):
            assert batch["input_ids"][row, batch[name][row]] == own[window[field]]
    assert batch["input_ids"].dtype == torch.int64


def test_token_types_only_where_the_models_take_them(tokenizer) -> None:
    import copy

    dataset = make_dataset(tokenizer)
    assert "token_type_ids" in PaddingCollator(tokenizer)([dataset[0]])
    without = copy.deepcopy(tokenizer)
    without.model_input_names = ["input_ids", "attention_mask"]
    assert "token_type_ids" not in PaddingCollator(without)([dataset[0]])


@pytest.mark.parametrize(("multiple", "most", "width"), [(1, None, 40), (16, None, 48), (16, 44, 44), (8, 44, 40)])
def test_batches_are_padded_on_to_a_multiple_but_never_beyond_the_longest_window(
    tokenizer, multiple: int, most: int | None, width: int
) -> None:
    dataset = make_dataset(tokenizer)
    assert dataset.store.windows["length"].max() == 40
    batch = PaddingCollator(tokenizer, multiple, most)([dataset[index] for index in range(len(dataset))])
    assert batch["input_ids"].shape[1] == width
    assert batch["attention_mask"].sum() == dataset.store.windows["length"].sum()


def test_real_tokens_are_nearly_all_that_is_computed_on_squad(tokenizer, shared_data, capsys) -> None:
    """Whole epochs of real windows, padded as SquadDataModule does: batches of 8 and 32 to train, of 32 to validate."""
    from transformers import BertTokenizer

    from qa_lightning.data.examples import read_examples
    from qa_lightning.data.sources import read_rows

    uncased = BertTokenizer(vocab=str(shared_data / "vocab" / "bert-base-uncased-vocab.txt"))
    path = shared_data / "squad" / "train-40-articles.json"
    rows = list(read_examples(read_rows(str(path), "train"), "error"))
    windower = Windower(uncased, WindowSettings(), offsets=False)
    batch = windower([row["question"] for row in rows], [row["context"] for row in rows], [None] * len(rows))
    sizes = batch.windows["length"]
    multiple = inspect.signature(SquadDataModule).parameters["pad_to_multiple_of"].default
    shares = {
        "training, 8": padding_share(list(TrainingSampler(sizes, 8)), sizes, 8, multiple),
        "training, 32": padding_share(list(TrainingSampler(sizes, 32)), sizes, 32, multiple),
        "training, 2 processes of 8": padding_share(
            list(TrainingSampler(sizes, 8, "length", 2, 1)), sizes, 8, multiple
        ),
        "validation, 32": padding_share(list(EvaluationSampler(sizes, 32)), sizes, 32, multiple),
    }
    with capsys.disabled():
        print("\nreal tokens:", ", ".join(f"{name} {1 - share:.1%}" for name, share in shares.items()))
    assert max(shares.values()) <= 0.03


@pytest.mark.parametrize("side", ["right", "left"])
def test_batches_hold_labels_only_where_some_window_has_several(tokenizer, side: str) -> None:
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.padding_side = side
    contexts = ["Anna lives in Oslo.", "Ben works in Rome at the bakery " * 6, "Who?"]
    spans = [(14, 18), (0, 3), None]
    others = [[(11, 18), (14, 18), (14, 19)], [(4, 9)], []]
    batch = Windower(tokenizer, WindowSettings(40, 8, 12))(["Who?"] * 3, contexts, spans, others=others)
    store = FeatureStore.of_batch(batch)
    dataset, collate = FeatureDataset(store, [], False), PaddingCollator(tokenizer)
    gold = windows_gold(store)
    assert {len(own) for own in gold} == {0, 2, 3}
    together = collate([dataset[index] for index in range(len(dataset))])
    assert together["gold_start"].shape == together["gold_end"].shape == (len(dataset), 3)
    assert together["gold_start"].dtype == together["gold_end"].dtype == torch.int64
    for row, own in enumerate(gold):
        shift = int(together["cls"][row] - store.windows[row]["cls"])
        assert shift == (0 if side == "right" else together["input_ids"].shape[1] - store.windows[row]["length"])
        own = own or [(store.windows[row]["cls"],) * 2]
        padded = [(first + shift, last + shift) for first, last in own] + [(-1, -1)] * (3 - len(own))
        assert (
            list(zip(together["gold_start"][row].tolist(), together["gold_end"][row].tolist(), strict=True)) == padded
        )
    single = [dataset[row] for row, own in enumerate(gold) if len(own) < 2]
    assert not set(collate(single)) & set(GOLD)


def test_a_part_of_the_evaluation_is_of_whole_examples_of_all_lengths() -> None:
    random = np.random.default_rng(0)
    count = random.integers(1, 6, 400)
    examples = np.repeat(np.arange(400), count)
    lengths = np.where(np.arange(len(examples)) % 2, 30, 300)
    for processes in (1, 3):
        samplers = [EvaluationSampler(lengths, 8, processes, rank, 20, examples) for rank in range(processes)]
        taken = np.unique(np.concatenate([list(sampler) for sampler in samplers]))
        kept = np.unique(examples[taken])
        assert len(taken) == count[kept].sum()  # all windows of each
        assert len(taken) == samplers[0].features == 160  # the last ones are such that still fit
        assert kept.min() < 40
        assert kept.max() > 360
    assert len(EvaluationSampler(lengths, 8, 1, 0, 1000, examples)) == len(lengths)
    long = np.repeat([0, 1, 2], [50, 3, 20])
    assert set(EvaluationSampler(np.full(73, 9), 8, 1, 0, 3, long)) == {*range(50, 73)}
    with pytest.raises(InputError, match="no question has so few windows as 16, the fewest are 20; allow more batches"):
        EvaluationSampler(np.full(20, 9), 8, 1, 0, 2, np.full(20, 2))
