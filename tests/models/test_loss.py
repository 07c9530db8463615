"""Training on all annotators' answers: labels, loss and gradients, and a run from flags to a model that learned."""

from __future__ import annotations

import copy
import logging
import math
import re

import numpy as np
import pytest
import torch
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from lightning.pytorch import Trainer
from torch.nn.functional import cross_entropy

from qa_lightning import QALightningModule, SquadDataModule
from qa_lightning.errors import InputError
from qa_lightning.features.batching import FeatureDataset, PaddingCollator
from qa_lightning.features.labels import NOWHERE, held_spans
from qa_lightning.features.store import FeatureStore, write_features
from qa_lightning.features.windows import Windower, WindowSettings
from qa_lightning.models.loss import span_loss
from tests.helpers import commands
from tests.helpers.data import make_rows, write_json
from tests.helpers.kill_and_resume import differences
from tests.helpers.training import QUIET, SMALL, Crash, Gradients, crash, train_flags
from tests.helpers.windows import CONTEXT, TOKENIZERS, rows_of, texts

GOLD = ("gold_start", "gold_end")
FILES = ("windows", "input_ids", "token_type_ids", "token_offset", "context_offset")


@pytest.fixture(scope="module", params=["wordpiece", "byte_level", "unigram_left"])
def family(request: pytest.FixtureRequest):
    return TOKENIZERS[request.param]()


def several_rows(count: int, **made: int) -> list[dict]:
    """Rows with one, two or three distinct answers, some given twice; some far from the first."""
    rows = make_rows(count, **made)
    for number, row in enumerate(rows):
        if row["answers"]["text"]:
            (city,) = row["answers"]["text"]
            more = [city, *(f"in {city}", f"lives in {city}", city)[: number % 4]]
            more += ["baker"] if number % 2 and "baker" in row["context"] else []
            row["answers"] = {"text": more, "answer_start": [row["context"].index(text) for text in more]}
    return rows


def first_alone(rows: list[dict]) -> list[dict]:
    return [row | {"answers": {name: values[:1] for name, values in row["answers"].items()}} for row in rows]


# The loss


def brute_force(start, end, gold: list[tuple[int, int]], real: list[int]) -> tuple[float, np.ndarray, np.ndarray]:
    """Loss of one feature and its gradients by the logits, float64, from the definition.

    d loss / d start_i = (p_i - the part of the gold probability whose spans start at i) / 2.
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
    """A batch with ``gold`` labels, of which the first is the record's, padded on the left."""
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


# Labels


@given(data=st.data())
def test_a_window_holds_the_spans_that_begin_and_end_in_it(data) -> None:
    pair = st.tuples(st.integers(0, 9), st.integers(0, 9)).map(sorted)
    spans = data.draw(
        st.lists(st.lists(st.one_of(pair.map(tuple), st.just(NOWHERE)), max_size=4), min_size=1, max_size=4)
    )
    windows = [(example, *data.draw(pair)) for example in sorted(data.draw(st.lists(st.integers(0, len(spans) - 1))))]
    held = held_spans(spans, *np.array(windows, np.int64).reshape(-1, 3).T)
    expected = [
        (number, first - begin, last - begin, answer)
        for number, (example, begin, end) in enumerate(windows)
        for answer, (first, last) in enumerate(spans[example])
        if {first, last} <= set(range(begin, end))
    ]
    assert list(zip(held.window, held.first, held.last, held.answer, strict=True)) == expected


def windows_gold(store: FeatureStore) -> list[list[tuple[int, int]]]:
    """The distinct labels of each window; none for one that is labelled with its CLS token."""
    found = []
    for index, window in enumerate(store.windows):
        gold = store.gold(index)
        own = [(int(window["start"]), int(window["end"]))] if gold is None else list(zip(*map(list, gold), strict=True))
        assert own[0] == (window["start"], window["end"])
        found.append([] if own == [(window["cls"], window["cls"])] else own)
    return found


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_every_window_is_labelled_with_every_distinct_answer_that_it_holds_whole(family, data) -> None:
    """Against a window's labels for each answer alone, collected by hand."""
    windower = Windower(family, WindowSettings(40, 8, 12))
    contexts = data.draw(st.lists(texts.map(lambda text: text * 2), min_size=1, max_size=2))
    questions = data.draw(st.lists(texts, min_size=1, max_size=3))
    contexts = [contexts[number % len(contexts)] for number in range(len(questions))]
    spans: list[list[tuple[int, int]]] = []
    for context in contexts:
        place = st.tuples(st.integers(0, len(context) - 1), st.integers(1, 12))
        drawn = data.draw(st.lists(place, max_size=4))
        spans.append([(begin, min(begin + size, len(context))) for begin, size in drawn])
    assume(all(context[begin:end].strip() for context, own in zip(contexts, spans, strict=True) for begin, end in own))
    firsts = [own[0] if own else None for own in spans]
    batch = windower(questions, contexts, firsts, first=5, others=[own[1:] for own in spans])
    plain = windower(questions, contexts, firsts, first=5)
    assert not len(plain.gold_window)
    expected: list[list[tuple[int, int]]] = []
    further = 0
    for question, context, own in zip(questions, contexts, spans, strict=True):
        alone = [windower([question], [context], [span]).windows for span in own]
        count = len(windower([question], [context], [None]).windows)
        labels = [
            [(int(one["start"][n]), int(one["end"][n])) for one in alone if one["start"][n] != one["cls"][n]]
            for n in range(count)
        ]
        expected += [list(dict.fromkeys(held)) for held in labels]
        of_first = [(int(one), int(other)) for one, other in alone[0][["start", "end"]]] if own else []
        further += any(set(held) - {of_first[n]} for n, held in enumerate(labels) if own)
    assert windows_gold(FeatureStore.of_batch(batch)) == expected
    assert np.diff(batch.gold_window).min(initial=0) >= 0
    assert set(batch.gold_window) == {number for number, held in enumerate(expected) if len(held) > 1}
    assert batch.several == further
    same = [name for name in batch.windows.dtype.names if name not in ("start", "end")]
    assert all((batch.windows[name] == plain.windows[name]).all() for name in same)
    held_first = plain.windows["start"] != plain.windows["cls"]
    assert (batch.windows[held_first] == plain.windows[held_first]).all()  # the first answer's label stays


def test_labels_are_the_answers_texts_and_windows_without_the_first_answer_have_another(family) -> None:
    answers = ["Carl moved to Rome", "Rome", "Ben", " Ben ", "Oslo"]
    spans = [(CONTEXT.index(text), CONTEXT.index(text) + len(text)) for text in answers]
    batch = Windower(family, WindowSettings(60, 12, 16))(
        ["Who paid it in 1999?", "Who?"], [CONTEXT] * 2, [spans[0], None], others=[spans[1:], []]
    )
    store = FeatureStore.of_batch(batch)
    seen = []
    for (window, _, char_start, char_end), gold in zip(rows_of(batch), windows_gold(store), strict=True):
        begin = window["context_begin"]
        found = [CONTEXT[char_start[first - begin] : char_end[last - begin]] for first, last in gold]
        held = [t for t, (a, b) in zip(answers, spans, strict=True) if char_start[0] <= a and b <= char_end[-1]]
        expected = [] if window["example"] == 1 else list(dict.fromkeys(text.strip() for text in held))
        assert found == expected
        seen.append(found)
    assert seen[0][:2] == ["Ben", "Oslo"]
    assert ["Carl moved to Rome", "Rome"] in seen
    assert [] in seen
    assert batch.several == 1
    assert batch.labelled.tolist() == [sum(map(bool, seen)), 0]


def test_an_answer_that_no_token_covers_is_no_label() -> None:
    context = "Ben\u200d\u0000 paid it"
    nothing = (4, 5)
    ben, paid = (0, 3), (6, 10)
    windower = Windower(TOKENIZERS["wordpiece"](), WindowSettings(40, 8, 12))  # drops control characters
    batch = windower(["Who?"] * 3, [context] * 3, [nothing, ben, nothing], others=[[ben, paid], [nothing], [ben]])
    alone = windower(["Who?"] * 2, [context] * 2, [ben, paid]).windows
    ben_label, paid_label = ((int(one["start"]), int(one["end"])) for one in alone)
    assert windows_gold(FeatureStore.of_batch(batch)) == [[ben_label, paid_label], [ben_label], [ben_label]]
    assert batch.several == 2  # with the first answer alone, the first and the last would have no label


def test_store_gives_back_the_labels_of_several_batches_and_maps_them(tmp_path, family) -> None:
    windower = Windower(family, WindowSettings(60, 12, 16))
    spans = [(CONTEXT.index(text), CONTEXT.index(text) + len(text)) for text in ("Oslo", "Anna lives in Oslo", "Rome")]

    def cut(first: int, count: int):
        return windower(["Who?"] * count, [CONTEXT] * count, spans[:1] * count, first, others=[spans[1:]] * count)

    summary = write_features((cut(first, 2) for first in (0, 2, 4)), tmp_path, len(family), all_answers=True)
    store, together = FeatureStore.open(tmp_path), FeatureStore.of_batch(cut(0, 6))
    assert summary["several_answers"] == 6
    assert isinstance(store.gold_window, np.memmap)
    assert 0 < len(store.gold_window) < 3 * len(store)
    for name in ("windows", "gold_window", "gold_start", "gold_end"):
        np.testing.assert_array_equal(getattr(store, name), getattr(together, name))
    assert windows_gold(store) == windows_gold(together)


# Batches


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


# Runs


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.INFO, logger="qa_lightning")
    logging.getLogger("qa_lightning").propagate = True
    return caplog


def prepared(train: str, model: str, cache, **more) -> SquadDataModule:
    data = SquadDataModule(train, train, model, **SMALL, **{"cache_dir": str(cache), **more})
    data.prepare_data()
    data.setup("fit")
    return data


def files_of(data: SquadDataModule, names: tuple[str, ...] = FILES) -> dict[str, bytes]:
    folder = data.prepared("train").features_folder
    return {name: (folder / f"{name}.bin").read_bytes() for name in names}


def same_batches(one: SquadDataModule, other: SquadDataModule) -> bool:
    pairs = zip(one.train_dataloader(), other.train_dataloader(), strict=True)
    return all(a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a) for a, b in pairs)


def test_first_prepares_what_the_first_answers_alone_give_and_all_something_else(tmp_path, model_folder, said) -> None:
    rows = several_rows(24, unanswerable=4, long=6)
    path, stripped = (write_json(tmp_path / f"{n}.json", r) for n, r in enumerate((rows, first_alone(rows))))
    first, alone = prepared(path, model_folder, tmp_path / "a"), prepared(stripped, model_folder, tmp_path / "b")
    assert "several distinct" not in said.text
    folder = first.prepared("train").features_folder
    assert {file.name for file in folder.iterdir()} == {"char_start.bin", "char_end.bin", "summary.json"} | {
        f"{name}.bin" for name in FILES
    }
    assert files_of(first) == files_of(alone)
    assert same_batches(first, alone)
    said.clear()
    every = prepared(path, model_folder, tmp_path / "a", train_answers="all")
    one, other = (data.prepared("train") for data in (first, every))
    assert one.examples_folder == other.examples_folder
    assert one.features_folder != other.features_folder
    assert first.prepared("validation").features_folder == every.prepared("validation").features_folder
    assert not same_batches(first, every)
    counted = sum(len(set(row["answers"]["text"])) > 1 for row in rows)
    assert f"train: {counted} questions have several distinct answers, all of which they are trained on" in said.text
    assert "validation: " in said.text
    assert said.text.count("several distinct answers") == 1
    assert not any(set(batch) & set(GOLD) for batch in every.val_dataloader())


def test_all_is_said_to_be_without_effect_where_every_question_has_one_answer(tmp_path, model_folder, said) -> None:
    rows = make_rows(12, unanswerable=2, long=2)
    for row in rows:
        row["answers"] = {name: values * 3 for name, values in row["answers"].items()}  # given three times
    path = write_json(tmp_path / "data.json", rows)
    every = prepared(path, model_folder, tmp_path, train_answers="all")
    assert "--data.train_answers all is without effect: no question has several distinct answers" in said.text
    first = prepared(path, model_folder, tmp_path)
    assert files_of(every) == files_of(first)
    assert same_batches(every, first)


@pytest.mark.parametrize("on_bad_rows", ["repair", "skip"])
def test_answers_that_were_moved_and_rows_that_were_left_out(tmp_path, model_folder, on_bad_rows: str) -> None:
    rows = several_rows(8)
    city = rows[3]["answers"]["text"][0]
    right = list(rows[3]["answers"]["answer_start"])
    assert rows[3]["answers"]["text"][1] == f"in {city}"
    rows[3]["answers"]["answer_start"][1] += 3
    moved = write_json(tmp_path / "moved.json", rows)
    found = prepared(moved, model_folder, tmp_path / "a", train_answers="all", on_bad_rows=on_bad_rows)
    rows[3]["answers"]["answer_start"] = right
    if on_bad_rows == "skip":
        del rows[3]
    expected = prepared(write_json(tmp_path / "right.json", rows), model_folder, tmp_path / "b", train_answers="all")
    names = (*FILES, "gold_window", *GOLD)
    assert files_of(found, names) == files_of(expected, names)
    assert files_of(found, ("gold_window",))["gold_window"]


def test_a_value_that_is_none_is_refused_with_other_bad_flags(model_folder) -> None:
    with pytest.raises(InputError) as caught:
        SquadDataModule("synthetic", model_name=model_folder, train_answers="both", batch_size=0)  # type: ignore
    assert "--data.train_answers is 'both'; it is first or all" in str(caught.value)
    assert "--data.batch_size is 0" in str(caught.value)


@pytest.mark.parametrize(("words", "value"), [([], "first"), (["--data.train_answers", "all"], "all")])
def test_the_flag_comes_through_the_command_line(capsys, words: list[str], value: str) -> None:
    with pytest.raises(SystemExit):
        commands.train([*words, "--print_config"])
    assert yaml.safe_load(capsys.readouterr().out)["data"]["train_answers"] == value


def gradients(data: SquadDataModule, model: str, batch_size: int, accumulated: int) -> torch.Tensor:
    """[steps, weights] in an epoch without dropout, with weights that hardly move."""
    data.batch_size = batch_size
    module = QALightningModule(model, learning_rate=1e-12)
    for layer in module.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0
    seen = Gradients()
    trainer = Trainer(max_epochs=1, accumulate_grad_batches=accumulated, limit_val_batches=0, callbacks=seen, **QUIET)
    trainer.fit(module, data)
    return torch.stack(seen.seen)


def test_accumulated_batches_train_on_all_answers_as_one_large_batch(tmp_path, model_folder) -> None:
    """Small batches of windows with one answer each among large ones that hold several; the last step has fewer."""
    path = write_json(tmp_path / "data.json", several_rows(16, long=1, unanswerable=2))
    data = prepared(path, model_folder, tmp_path, train_answers="all")
    assert len(data.train_set) % 8
    large = gradients(data, model_folder, 8, 1)
    for batch_size, accumulated in ((4, 2), (1, 8)):
        small = gradients(data, model_folder, batch_size, accumulated)
        torch.testing.assert_close(small, large, rtol=1e-4, atol=1e-6)


def test_a_run_learns_and_one_that_was_cut_off_ends_as_it(tmp_path, model_folder, monkeypatch, capsys) -> None:
    train = write_json(tmp_path / "train.json", several_rows(48, unanswerable=4, long=2))
    validation = write_json(tmp_path / "validation.json", make_rows(8))
    common = ["--data.train_answers", "all", "--trainer.accumulate_grad_batches", "2", "--data.batch_size", "4"]
    given = {
        name: [*train_flags(tmp_path / name, model_folder, train, validation), *common, "--save_every_minutes", "0"]
        for name in ("whole", "cut")
    }
    assert commands.train(given["whole"]) == 0
    output = capsys.readouterr().out
    losses = [float(loss) for loss in re.findall(r"train loss ([\d.]+)", output)]
    assert len(losses) == 3
    assert losses[2] < 0.9 * losses[0], losses
    assert re.search(r"train: \d+ questions have several distinct answers, all of which", output)
    crash(monkeypatch, Crash("batch", 1, 4), given["cut"])  # in the midst of an accumulated step
    others = [*given["cut"], "--data.train_answers", "first", "--ckpt_path", "last"]
    with pytest.raises(InputError, match=r"--data.train_answers was all, is first.*go on with the flags"):
        commands.train(others)
    assert commands.train([*given["cut"], "--ckpt_path", "last"]) == 0
    runs = [tmp_path / name / "lightning_logs" / "version_0" for name in ("whole", "cut")]
    assert differences(*runs) == []
