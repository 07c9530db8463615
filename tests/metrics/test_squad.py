"""EM and F1 equal the published scores and a second implementation of the official rules, also over two processes."""

import json
import multiprocessing
import os
import re
import string
from datetime import timedelta
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qa_lightning.data.examples import read_examples
from qa_lightning.data.sources import read_rows
from qa_lightning.metrics.squad import Scoring, SquadMetric, answer_scores, normalize_answer, squad_f1
from tests.helpers.paths import SHARED, needs_data

PUBLISHED = [
    pytest.param("v1.1-bert-ensemble.json", False, marks=needs_data, id="v1.1"),
    pytest.param("v2.0-bert-single.json", True, marks=needs_data, id="v2.0"),
]
EXACTLY = {"abs": 1e-9, "rel": 0}


# --- the official rules, implemented from their description, not from this project's code ---


def oracle_words(text):
    kept = "".join(character for character in text.lower() if character not in string.punctuation)
    return [word for word in re.split(r"\s+", re.sub(r"\b(?:the|an|a)\b", " ", kept)) if word]


def oracle_f1(predicted, gold, version_2):
    if version_2 and (not predicted or not gold):
        return 1.0 if predicted == gold else 0.0
    common = 0
    left = list(gold)
    for word in predicted:
        if word in left:
            left.remove(word)
            common += 1
    if not common:
        return 0.0
    precision, recall = common / len(predicted), common / len(gold)
    return 2 * precision * recall / (precision + recall)


def oracle_question(prediction, golds, version_2):
    if version_2:
        golds = [gold for gold in golds if oracle_words(gold)] or [""]
    predicted = oracle_words(prediction)
    exact = max(int(predicted == oracle_words(gold)) for gold in golds)
    return exact, max(oracle_f1(predicted, oracle_words(gold), version_2) for gold in golds)


def oracle(pairs, version_2):
    """What the official scorer prints for ``pairs`` of a prediction and its gold answers."""
    scored = [(bool(golds), *oracle_question(prediction, golds, version_2)) for prediction, golds in pairs]

    def means(rows, exact_name, f1_name):
        return {
            exact_name: 100 * sum(row[1] for row in rows) / len(rows),
            f1_name: 100 * sum(row[2] for row in rows) / len(rows),
        }

    if not version_2:
        return means(scored, "exact_match", "f1")
    result = {**means(scored, "exact", "f1"), "total": len(scored)}
    for name, wanted in (("HasAns", True), ("NoAns", False)):
        rows = [row for row in scored if row[0] is wanted]
        if rows:
            result |= {**means(rows, f"{name}_exact", f"{name}_f1"), f"{name}_total": len(rows)}
    return result


# --- data ---


def as_batch(pairs, first=0):
    preds = [{"id": f"q{number}", "prediction_text": text} for number, (text, _) in enumerate(pairs, first)]
    target = [{"id": f"q{number}", "answers": {"text": golds}} for number, (_, golds) in enumerate(pairs, first)]
    return preds, target


def score(pairs, version_2):
    metric = SquadMetric(version_2)
    metric.update(*as_batch(pairs))
    return metric.compute()


@cache
def published(name):
    """Pairs of a published prediction and its gold answers, and their published scores."""
    expected = json.loads((SHARED / "predictions" / "expected.json").read_text())[name]
    predictions = json.loads((SHARED / "predictions" / name).read_text(encoding="utf-8"))
    examples = read_examples(read_rows(str(SHARED / expected.pop("dataset")), "validation"), "error")
    return [(predictions[row["id"]], row["answers"]["text"]) for row in examples], expected


MADE = [
    ("the Denver Broncos", ["Denver Broncos", "The Broncos"]),
    ("in 1066", ["1066", "the year 1066"]),
    ("three of a kind", ["three"]),
    ("Normandy", ["France"]),
    ("café", ["Café!"]),
    ("big big cat", ["big cat cat"]),
]
UNANSWERABLE = [("", []), ("France", []), ("the", []), ("", ["Paris"])]


# --- normalisation and scores of one answer ---


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Cat", "cat"),
        ("a  an\tthe", ""),
        ("U.S.A.", "usa"),
        ("the-end", "theend"),
        ("theatre of an era", "theatre of era"),
        ("«The» – “x”", "« » – “x”"),  # only ASCII punctuation is dropped
        ("A\u00a0B\u3000c", "b c"),
        ("THÉ", "thé"),
        ("a.n", ""),  # punctuation is dropped first, and an article is left
        ("", ""),
    ],
)
def test_normalisation_lowers_drops_punctuation_then_articles_and_joins_by_one_space(text, expected):
    assert normalize_answer(text) == expected


@pytest.mark.parametrize(
    ("prediction", "gold", "version_2", "expected"),
    [
        ("x y", "x", False, 2 / 3),
        ("x x y", "x y y", False, 2 / 3),
        ("x", "y", False, 0.0),
        ("", "", False, 0.0),
        ("", "", True, 1.0),
        ("", "x", True, 0.0),
        ("x", "", True, 0.0),
    ],
)
def test_f1_counts_repeated_words_and_the_versions_differ_in_empty_texts(prediction, gold, version_2, expected):
    assert squad_f1(prediction, gold, version_2) == pytest.approx(expected, **EXACTLY)


@pytest.mark.parametrize(
    ("prediction", "golds", "version_2", "expected"),
    [
        ("x y", ["z", "x y z", "x"], False, (0, 0.8)),  # the best gold answer counts, at any index
        ("y", ["x", "The y."], False, (1, 1.0)),
        ("the", ["a", "x"], False, (1, 0.0)),  # v1.1: both normalise to nothing: exact match, but F1 0
        ("the", ["a", "x"], True, (0, 0.0)),  # v2.0 ignores a gold answer that normalises to nothing
        ("the", ["a", "!"], True, (1, 1.0)),  # ... and if none is left, "no answer" is right
        ("x", ["a"], True, (0, 0.0)),
        ("", [], True, (1, 1.0)),
        ("x", [], True, (0, 0.0)),
    ],
)
def test_one_answer_scores_its_best_gold_answer(prediction, golds, version_2, expected):
    assert answer_scores(prediction, golds, Scoring(version_2)) == pytest.approx(expected, **EXACTLY)


# --- equal to the second implementation of the rules ---

PIECES = [
    "a",
    "an",
    "the",
    "The",
    "AN",
    "x",
    "xx",
    "Anna",
    "thé",
    "a\u0301",
    "İ",
    "ß",
    "“",
    "”",
    "–",
    "¿",
    "_",
    "10",
    "１",
]
TEXTS = st.one_of(
    st.lists(
        st.sampled_from(
            PIECES + list(string.punctuation) + [" ", "  ", "\n", "\t", "\u00a0", "\u3000", "\u200b", "\x1f"]
        ),
        max_size=9,
    ).map("".join),
    st.lists(st.sampled_from(PIECES), max_size=6).map(" ".join),
    st.text(max_size=12),
)


@given(TEXTS)
def test_normalisation_equals_the_official_rules_on_any_text(text):
    assert normalize_answer(text).split(" ") == (oracle_words(text) or [""])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(TEXTS, st.lists(TEXTS, min_size=1, max_size=4)), min_size=1, max_size=8))
@example([("the", ["an", "..."])])
@example([("", [""]), ("x", ["x", ""])])
def test_v11_scores_equal_the_official_rules_on_any_texts(pairs):
    assert score(pairs, False) == pytest.approx(oracle(pairs, False), **EXACTLY)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(TEXTS, st.lists(TEXTS, max_size=4)), min_size=1, max_size=8))
@example([("the", ["an", "..."]), ("", []), ("x", [])])
@example([("", ["", "x"]), ("the", [])])
def test_v20_scores_equal_the_official_rules_on_any_texts(pairs):
    assert score(pairs, True) == pytest.approx(oracle(pairs, True), **EXACTLY)


# --- the published scores ---


@pytest.mark.parametrize(("name", "version_2"), PUBLISHED)
def test_the_oracle_of_these_tests_gives_the_published_scores(name, version_2):
    pairs, expected = published(name)
    assert oracle(pairs, version_2) == pytest.approx(expected, **EXACTLY)


@pytest.mark.parametrize(("name", "version_2"), PUBLISHED)
def test_published_predictions_score_as_published(name, version_2):
    pairs, expected = published(name)
    assert score(pairs, version_2) == pytest.approx(expected, **EXACTLY)


@pytest.mark.parametrize(("name", "version_2"), PUBLISHED)
def test_published_predictions_score_the_same_in_uneven_batches(name, version_2):
    pairs, expected = published(name)
    metric = SquadMetric(version_2)
    first, size = 0, 1
    while first < len(pairs):
        metric.update(*as_batch(pairs[first : first + size], first))
        first, size = first + size, size * 3 % 1000 + 1
    assert metric.compute() == pytest.approx(expected, **EXACTLY)


# --- the metric's state ---


@pytest.mark.parametrize("version_2", [False, True])
def test_batches_in_any_order_give_the_identical_score(version_2):
    pairs = MADE * 3
    forward, backward = SquadMetric(version_2), SquadMetric(version_2)
    for pair in pairs:
        forward.update(*as_batch([pair]))
    for cut in (slice(11, None), slice(4, 11), slice(0, 4)):
        backward.update(*as_batch(pairs[cut]))
    assert forward.compute() == backward.compute() == score(pairs, version_2)


def test_forward_gives_the_score_of_the_batch_and_adds_to_the_total():
    metric = SquadMetric()
    assert metric(*as_batch([("x", ["x"])])) == {"exact_match": 100.0, "f1": 100.0}
    assert metric(*as_batch([("x", ["y"])])) == {"exact_match": 0.0, "f1": 0.0}
    assert metric.compute() == {"exact_match": 50.0, "f1": 50.0}


def test_reset_forgets_every_question():
    metric = SquadMetric(version_2=True)
    metric.update(*as_batch([("wrong", ["x"]), ("wrong", [])]))
    metric.reset()
    metric.update(*as_batch([("x", ["x"])]))
    assert metric.compute() == score([("x", ["x"])], True)


@pytest.mark.parametrize(
    "cast",
    [
        lambda holder: holder.to(torch.bfloat16),
        lambda holder: holder.to(torch.float16),
        lambda holder: holder.half(),
        lambda holder: holder.bfloat16(),
        pytest.param(lambda holder: holder["metric"].set_dtype(torch.bfloat16)),
    ],
    ids=["to-bfloat16", "to-float16", "half", "bfloat16", "set_dtype"],
)
@pytest.mark.parametrize("version_2", [False, True])
def test_low_precision_changes_no_score(cast, version_2):
    """2,307 questions: 8 or 11 bits can hold neither 2,307 nor a running sum up to it."""
    perfect = [(f"w{number}", [f"w{number}"]) for number in range(2307)]
    holder = torch.nn.ModuleDict({"metric": SquadMetric(version_2)})  # as a LightningModule holds it
    cast(holder)
    metric = holder["metric"]
    for first in range(0, len(perfect), 100):
        metric.update(*as_batch(perfect[first : first + 100], first))
    cast(holder)
    scores = metric.compute()
    assert [scores["exact" if version_2 else "exact_match"], scores["f1"]] == [100.0, 100.0]
    metric.update(*as_batch(MADE, 5000))
    assert metric.compute() == pytest.approx(oracle(perfect + MADE, version_2), **EXACTLY)


@pytest.mark.parametrize(
    ("version_2", "expected"),
    [(False, {"exact_match": 0.0, "f1": 0.0}), (True, {"exact": 0.0, "f1": 0.0, "total": 0})],
)
def test_no_question_at_all_scores_zero(version_2, expected):
    assert score([], version_2) == expected


@pytest.mark.parametrize(("pairs", "absent"), [(MADE, "NoAns"), ([("", []), ("x", [])], "HasAns")])
def test_v20_leaves_out_the_kind_of_question_that_does_not_occur(pairs, absent):
    names = score(pairs, True)
    assert not [name for name in names if name.startswith(absent)]
    assert names["total"] == len(pairs)


def test_v20_counts_a_question_whose_golds_normalise_to_nothing_as_answerable():
    assert score([("", ["the"]), ("x", ["!"])], True) == {
        **{"exact": 50.0, "f1": 50.0, "total": 2},
        **{"HasAns_exact": 50.0, "HasAns_f1": 50.0, "HasAns_total": 2},
    }


def test_a_single_question_needs_no_list_and_ids_join_answers_whatever_the_order():
    metric = SquadMetric()
    metric.update({"id": "a", "prediction_text": "x"}, {"id": "a", "answers": {"text": ["x"]}})
    preds, target = as_batch([("x", ["x"]), ("y", ["y"]), ("z", ["w"])])
    metric.update([*preds[::-1], {"id": "of no question", "prediction_text": "?"}], target)
    assert metric.compute() == {"exact_match": 75.0, "f1": 75.0}


@pytest.mark.parametrize("version_2", [False, True])
def test_missing_ids_count_as_wrong_and_are_said(version_2):
    metric = SquadMetric(version_2)
    preds, target = as_batch(MADE + ([("", [])] if version_2 else []))
    with pytest.warns(UserWarning, match=r"no prediction for 2 of \d ids, which count as wrong; the first: 'q4'"):
        metric.update([one for one in preds if one["id"] not in ("q4", "q5")], target)
    wrong = [
        ("no gold answer", golds) if number in (4, 5) else (text, golds) for number, (text, golds) in enumerate(MADE)
    ]
    assert metric.compute() == score(wrong + ([("", [])] if version_2 else []), version_2)


def test_a_missing_id_is_wrong_where_there_is_no_answer_too():
    metric = SquadMetric(version_2=True)
    with pytest.warns(UserWarning, match="'b'"):
        metric.update({"id": "a", "prediction_text": ""}, [{"id": one, "answers": {"text": []}} for one in ("a", "b")])
    assert metric.compute()["NoAns_exact"] == 50.0


@pytest.mark.parametrize("text", [None, 3, 2.5, True, ["x"], {"text": "x"}, b"x"], ids=repr)
def test_a_prediction_that_is_no_text_is_an_error_that_names_the_id(text):
    metric = SquadMetric()
    target = [{"id": one, "answers": {"text": ["x"]}} for one in ("a", "b")]
    with pytest.raises(ValueError, match=r"the prediction for id 'b' is .*it must be a text, empty for no answer"):
        metric.update([{"id": "a", "prediction_text": "x"}, {"id": "b", "prediction_text": text}], target)
    assert metric.compute() == {"exact_match": 0.0, "f1": 0.0}


@pytest.mark.parametrize(
    "answers",
    [None, "x", {"text": "x"}, {"text": None}, {"text": [None]}, {"text": ["x", 3]}, {"text": [["x"]]}, ["x"], {}],
    ids=repr,
)
def test_gold_answers_that_are_no_list_of_texts_are_an_error_that_names_the_id(answers):
    metric = SquadMetric(version_2=True)
    preds = [{"id": one, "prediction_text": "x"} for one in ("a", "b")]
    with pytest.raises(ValueError, match=r"the answers of id 'b' are .*a list of texts"):
        metric.update(preds, [{"id": "a", "answers": {"text": ["x"]}}, {"id": "b", "answers": answers}])
    assert metric.compute()["total"] == 0


def test_all_that_is_wrong_is_said_at_once():
    with pytest.raises(ValueError, match="needs 'id'") as caught:
        SquadMetric().update(
            [{"id": "a", "prediction_text": None}, {"id": "b"}], [{"id": "a", "answers": {"text": "x"}}, {"id": "b"}]
        )
    assert len(str(caught.value).splitlines()) == 4


def test_gold_answers_may_be_a_tuple_or_an_array():
    metric = SquadMetric()
    for golds in (("y", "x"), np.array(["y", "x"]), np.array(["y", "x"], object)):
        metric.update({"id": "a", "prediction_text": "x"}, {"id": "a", "answers": {"text": golds}})
    assert metric.compute() == {"exact_match": 100.0, "f1": 100.0}


def test_one_gold_text_alone_is_refused_by_the_function_too():
    with pytest.raises(ValueError, match="gold answers are 'x'; give a list of texts"):
        answer_scores("x", "x")


def test_v11_without_a_gold_answer_is_an_error_that_names_the_fix_and_changes_nothing():
    metric = SquadMetric()
    metric.update(*as_batch([("x", ["x"])]))
    with pytest.raises(ValueError, match="version_2=True"):
        metric.update(*as_batch([("y", ["z"]), ("", [])]))
    assert metric.compute() == {"exact_match": 100.0, "f1": 100.0}


# --- two processes ---


def score_share(rank, folder, cases, answers):
    """In each of two processes, score this rank's share of each case and put the joint scores into ``answers``."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    where = f"file://{folder}/rendezvous"
    torch.distributed.init_process_group("gloo", where, timedelta(seconds=60), world_size=2, rank=rank)
    scores = {}
    for name, (pairs, version_2, cut) in cases.items():
        metric = SquadMetric(version_2)
        share = pairs[:cut] if rank == 0 else pairs[cut:]
        for first in range(0, len(share), 700):
            metric.update(*as_batch(share[first : first + 700], first))
        scores[name] = metric.compute()
        metric.update(*as_batch(MADE[: rank + 1]))  # after a joint score, each process continues with its own share
        scores[name, "continued"] = metric.compute()
    answers.put((rank, scores))
    torch.distributed.destroy_process_group()


TWO_PROCESS_CASES = {
    "v1.1": (MADE * 3, False, 4),
    "v2.0": (UNANSWERABLE[:3] + MADE + UNANSWERABLE[3:], True, 3),  # one process sees no answerable question
}


@pytest.fixture(scope="module")
def two_process_scores(tmp_path_factory):
    cases = dict(TWO_PROCESS_CASES)
    if SHARED.is_dir():
        for name, version_2 in (("v1.1-bert-ensemble.json", False), ("v2.0-bert-single.json", True)):
            cases[name] = (published(name)[0], version_2, 1234)
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    arguments = (str(tmp_path_factory.mktemp("gloo")), cases, answers)
    processes = [context.Process(target=score_share, args=(rank, *arguments), daemon=True) for rank in range(2)]
    try:
        for process in processes:
            process.start()
        scores = dict(answers.get(timeout=120) for _ in processes)
        for process in processes:
            process.join(30)
        assert [process.exitcode for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
            process.join()
        answers.close()
    return cases, scores


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *TWO_PROCESS_CASES,
        *(pytest.param(case.values[0], marks=case.marks, id=f"published-{case.id}") for case in PUBLISHED),
    ],
)
def test_both_of_two_processes_give_the_score_of_all_questions_from_uneven_shares(two_process_scores, name):
    cases, scores = two_process_scores
    pairs, version_2, _ = cases[name]
    assert scores[0][name] == scores[1][name] == score(pairs, version_2)
    continued = score(pairs + MADE[:1] + MADE[:2], version_2)
    assert scores[0][name, "continued"] == scores[1][name, "continued"] == continued
    if name in ("v1.1-bert-ensemble.json", "v2.0-bert-single.json"):
        assert scores[0][name] == pytest.approx(published(name)[1], **EXACTLY)
