"""The v2.0 output equals the recorded output of squad_metrics, and thresholds equal a search of all thresholds."""

import gzip
import hashlib
import itertools
import json
import math
from functools import partial

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qa_lightning.metrics.squad import Scoring, answer_scores
from qa_lightning.metrics.thresholds import best_threshold, score_at, split_by_article, squad_v2_metrics, tuned
from tests.helpers.paths import ROOT

GOLDEN = json.loads(gzip.decompress((ROOT / "tests" / "golden" / "squad_v2_metrics.json.gz").read_bytes()))
EXACTLY = {"abs": 1e-9, "rel": 0}

odds_values = st.one_of(
    st.sampled_from([-math.inf, -2.0, -1.0, 0.0, -0.0, 0.5, 1.0, math.nextafter(1.0, 2.0), 3.0, math.inf]),
    st.floats(-1e300, 1e300),
)
question = st.tuples(odds_values, st.sampled_from([0.0, 1 / 3, 0.4, 2 / 3, 1.0]), st.booleans())
questions = st.lists(question, max_size=12)


def columns(some):
    """Odds, exact, f1 and has_answer of the drawn questions."""
    odds, f1, has = (np.array([row[part] for row in some]) for part in range(3))
    f1 = np.where(has, f1, 0.0).astype(float)
    return odds.astype(float), (f1 == 1.0).astype(float), f1, has.astype(bool)


def f1_under(threshold, odds, f1, has):
    """F1 under the rule, question by question."""
    scores = [float(not h) if o > threshold else f for o, f, h in zip(odds, f1, has, strict=True)]
    return 100.0 * math.fsum(scores) / len(scores) if scores else 0.0


def all_thresholds(odds):
    """A finite threshold for each way in which a threshold can split these odds."""
    finite = sorted({float(each) for each in odds if math.isfinite(each)})
    return [0.0, -1e308, *finite]


# --- the official output ---


@pytest.mark.parametrize("case", range(len(GOLDEN["made"])))
def test_metrics_are_squad_metrics_for_made_questions(case):
    case = GOLDEN["made"][case]
    scores = [
        answer_scores(text, gold, Scoring(version_2=True))
        for text, gold in zip(case["texts"], case["golds"], strict=True)
    ]
    exact, f1 = zip(*scores, strict=True)
    assert list(exact) == case["raw"]["exact"]
    assert list(f1) == pytest.approx(case["raw"]["f1"], **EXACTLY)
    found = squad_v2_metrics(
        exact,
        f1,
        [bool(gold) for gold in case["golds"]],
        case["probabilities"],
        case["threshold"],
        [not text for text in case["texts"]],
    )
    assert list(found) == list(case["metrics"])
    assert found == pytest.approx(case["metrics"], **EXACTLY)


def test_metrics_are_squad_metrics_for_published_predictions_as_numbers():
    case = GOLDEN["real"]["cut"]
    raw = case["raw"]
    # No text of the case normalises to nothing without being empty, so `empty` may be left out.
    for empty in (case["empty"], None):
        found = squad_v2_metrics(
            raw["exact"], raw["f1"], raw["has_answer"], case["probabilities"], case["threshold"], empty
        )
        assert found == pytest.approx(case["metrics"], **EXACTLY)


def test_metrics_of_the_published_predictions(shared_data):
    texts = json.loads((shared_data / "predictions" / "v2.0-bert-single.json").read_text())
    expected = json.loads((shared_data / "predictions" / "expected.json").read_text())["v2.0-bert-single.json"]
    articles = json.loads((shared_data / "squad" / "dev-v2.0.json").read_text())["data"]
    rows = [qa for article in articles for part in article["paragraphs"] for qa in part["qas"]]
    titles = [article["title"] for article in articles for part in article["paragraphs"] for _ in part["qas"]]
    scores = [
        answer_scores(texts[qa["id"]], [each["text"] for each in qa["answers"]], Scoring(version_2=True)) for qa in rows
    ]
    exact, f1 = (np.array(column, float) for column in zip(*scores, strict=True))
    has = np.array([bool(qa["answers"]) for qa in rows])
    empty = np.array([not texts[qa["id"]] for qa in rows])

    found = squad_v2_metrics(exact, f1, has, np.zeros(len(rows)), empty=empty)
    assert {name: found[name] for name in expected if name != "dataset"} == pytest.approx(
        {name: value for name, value in expected.items() if name != "dataset"}, **EXACTLY
    )

    case = GOLDEN["real"]["whole"]
    digests = [hashlib.sha256(qa["id"].encode()).digest() for qa in rows]
    chances = [(int.from_bytes(digest[:2], "big") >> 7) / 512 for digest in digests]
    found = squad_v2_metrics(exact, f1, has, chances, case["threshold"], empty)
    assert found == pytest.approx(case["metrics"], **EXACTLY)

    first = split_by_article(titles)
    assert abs(int(first.sum()) - len(rows) / 2) < 0.05 * len(rows)


def test_a_text_that_normalises_to_nothing_is_not_the_empty_one():
    told = squad_v2_metrics([1], [1], [False], [0.2], empty=[False])
    untold = squad_v2_metrics([1], [1], [False], [0.2])
    assert (told["f1"], untold["f1"]) == (100.0, 100.0)
    assert told["best_f1_thresh"] == untold["best_f1_thresh"] == 0.0


def test_metrics_of_no_questions():
    assert squad_v2_metrics([], [], [], []) == {
        "exact": 0.0,
        "f1": 0.0,
        "total": 0,
        "best_exact": 0.0,
        "best_exact_thresh": 0.0,
        "best_f1": 0.0,
        "best_f1_thresh": 0.0,
    }


# --- the best threshold ---


@given(questions)
@settings(max_examples=400, deadline=None)
@example([(math.inf, 1.0, True)] * 2)
@example([(1.0, 1.0, True), (math.nextafter(1.0, 2.0), 0.0, False)])
@example([(-5.0, 0.0, False), (5.0, 1.0, True)])
@example([])
def test_no_threshold_is_better(some):
    odds, exact, f1, has = columns(some)
    found = best_threshold(odds, exact, f1, has)
    best = max(f1_under(threshold, odds, f1, has) for threshold in all_thresholds(odds))
    assert found.f1 == pytest.approx(best, abs=1e-7)
    assert math.isfinite(found.threshold)
    assert found.f1 == pytest.approx(f1_under(found.threshold, odds, f1, has), **EXACTLY)
    assert found.exact == pytest.approx(f1_under(found.threshold, odds, exact, has), **EXACTLY)


@given(questions, st.randoms())
@settings(deadline=None)
def test_the_order_of_the_questions_does_not_matter(some, rng):
    found = best_threshold(*columns(some))
    again = list(some)
    rng.shuffle(again)
    assert best_threshold(*columns(again)).threshold == found.threshold


@given(questions)
@settings(max_examples=400, deadline=None)
@example([(-2.0, 0.0, False), *[(-2.0, 1 / 3, True)] * 3])
@example([(-2.0, 0.0, False), *[(-2.0, 1 / 3, True)] * 3, (-1.0, 0.0, False), (5.0, 1.0, True), (6.0, 0.0, False)])
def test_of_equally_good_thresholds_the_one_nearest_zero(some):
    odds, exact, f1, has = columns(some)
    found = best_threshold(odds, exact, f1, has)
    if f1_under(0.0, odds, f1, has) >= found.f1 - 1e-9:
        assert found.threshold == 0.0
        return
    finite = sorted({float(each) for each in odds if math.isfinite(each)})
    middles = [low / 2 + high / 2 for low, high in itertools.pairwise(finite)]
    as_good = [each for each in [*middles, *finite] if f1_under(each, odds, f1, has) >= found.f1 - 1e-9]
    # No middle may be nearer to 0; the odds themselves may be, at the edges of the chosen gap.
    nearer = [each for each in as_good if each in middles and abs(each) < abs(found.threshold)]
    assert not nearer


@pytest.mark.parametrize(
    ("odds", "f1", "has", "threshold"),
    [
        ([2.0, 6.0], [1.0, 0.0], [True, False], 4.0),  # in the middle
        ([-6.0, -2.0], [1.0, 0.0], [True, False], -4.0),
        ([3.0, 3.0], [1.0, 0.8], [True, True], 4.0),  # beyond the outermost
        ([-3.0, -3.0], [0.0, 0.0], [False, False], -4.0),
        ([-2.0, 5.0], [1.0, 0.0], [True, False], 0.0),  # 0 is as good as any
        ([2.0, 2.0, 6.0], [1.0, 0.0, 0.0], [True, False, False], 0.0),  # equal odds are not split
        ([2.0, 2.0, 2.0, 6.0], [1.0, 1.0, 0.0, 0.0], [True, True, False, False], 4.0),
        ([1.0, 2.0, 4.0, 8.0], [1.0, 0.0, 1.0, 0.0], [True, False, True, False], 1.5),  # 1.5 and 6 are equally good
        ([math.inf], [1.0], [True], 0.0),  # no span: no threshold answers it
        ([-math.inf], [0.0], [False], 0.0),
        ([1.0, math.inf], [1.0, 1.0], [True, True], 2.0),
        ([], [], [], 0.0),
    ],
)
def test_where_the_threshold_stands(odds, f1, has, threshold):
    assert best_threshold(odds, f1, f1, has).threshold == threshold


def test_never_worse_than_the_official_best_on_odds_that_differ():
    rng = np.random.default_rng(5)
    has = rng.random(500) < 0.5
    f1 = np.where(has, rng.random(500), 0.0)
    odds = rng.normal(size=500) - 2 * has
    best = best_threshold(odds, f1 == 1, f1, has)
    # The texts count as never empty, as in `best_threshold`.
    official = squad_v2_metrics(f1 == 1, f1, has, odds, empty=np.zeros(500, bool))
    assert best.f1 == pytest.approx(official["best_f1"], **EXACTLY)
    assert odds[odds <= best.threshold].max() == official["best_f1_thresh"]
    assert score_at(official["best_f1_thresh"], odds, f1 == 1, f1, has).f1 == pytest.approx(best.f1, **EXACTLY)


def test_the_best_threshold_of_many_questions_takes_one_sort(monkeypatch):
    """One sort, not one for each threshold."""
    rng = np.random.default_rng(6)
    has = rng.random(200_000) < 0.5
    odds = rng.normal(size=len(has)) - 2 * has + 3
    sizes = []

    def counted(of, values, *rest, **options):
        sizes.append(np.size(values))
        return of(values, *rest, **options)

    for name in ("sort", "argsort", "lexsort", "unique", "partition", "argpartition"):
        monkeypatch.setattr(np, name, partial(counted, getattr(np, name)))
    best = best_threshold(odds, has, has, has)
    assert sizes == [len(odds)]
    monkeypatch.undo()
    assert 1.9 < best.threshold < 2.1  # where the two normal densities, around 1 and 3, cross
    assert best.f1 >= max(score_at(each, odds, has, has, has).f1 for each in np.linspace(1, 3, 41))


# --- errors ---


@pytest.mark.parametrize("take", [best_threshold, lambda odds, *rest: squad_v2_metrics(*rest, odds)])
def test_broken_arrays_are_refused_together(take):
    with pytest.raises(ValueError, match=r": 2 values are NaN, the first is nan at index 1"):
        take([0.0, math.nan, math.nan], [1, 1, 1], [1.0, 1.0, 1.0], [True] * 3)
    with pytest.raises(
        ValueError, match=r"lengths differ: .*exact 1.*f1: 1 value is outside 0-1, the first is 80.0 at index 1"
    ):
        take([0.0, 1.0], [1], [0.5, 80.0], [True, True])
    with pytest.raises(ValueError, match=r"has_answer has the shape \(1, 1\), not \[N\]"):
        take([0.0], [1], [1.0], [[True]])


def test_other_lengths_of_texts_and_groups_are_refused():
    with pytest.raises(ValueError, match=r"empty has the shape \(2,\), not \[1\]"):
        squad_v2_metrics([1], [1], [True], [0.5], empty=[True, False])
    with pytest.raises(ValueError, match="2 groups for 1 questions"):
        tuned([0.0], [1], [1], [True], ["a", "b"])


# --- tuning on held-out articles ---


@given(st.lists(st.sampled_from("abcdefgh"), max_size=40), st.integers(0, 5), st.randoms())
@settings(deadline=None)
def test_halves_share_no_article_and_depend_on_nothing_but_names(titles, seed, rng):
    first = split_by_article(titles, seed)
    side = {title: bool(half) for title, half in zip(titles, first, strict=True)}
    assert [side[title] for title in titles] == first.tolist()
    shuffled = list(titles)
    rng.shuffle(shuffled)
    assert [side[title] for title in shuffled] == split_by_article(shuffled, seed).tolist()
    if len(side) > 1:
        assert 0 < first.sum() < len(titles)
    largest = max((titles.count(title) for title in side), default=0)
    assert abs(2 * int(first.sum()) - len(titles)) <= largest


def test_another_seed_gives_other_halves():
    titles = [f"article {number}" for number in range(30)]
    assert split_by_article(titles, 0).tolist() == split_by_article(titles, 0).tolist()
    assert split_by_article(titles, 0).tolist() != split_by_article(titles, 1).tolist()


def made_odds(count, shift, seed=0):
    """Odds that are best split at ``shift`` into questions with and without an answer; 20 questions an article."""
    rng = np.random.default_rng(seed)
    has = rng.random(count) < 0.5
    exact = (has & (rng.random(count) < 0.8)).astype(float)
    odds = shift + rng.normal(size=count) + np.where(has, -1.5, 1.5)
    return odds, exact, exact, has, [f"article {number // 20}" for number in range(count)]


def test_a_threshold_that_holds_on_other_articles_is_used():
    odds, exact, f1, has, titles = made_odds(2000, 3.0)
    result = tuned(odds, exact, f1, has, titles)
    assert result.threshold == best_threshold(odds, exact, f1, has).threshold
    assert 2.0 < result.threshold < 4.0
    assert result.held_out_f1 > result.at_zero.f1 + 5
    first = split_by_article(titles)
    for (on, out), side in zip(result.halves, (first, ~first), strict=True):
        best = best_threshold(odds[side], exact[side], f1[side], has[side])
        assert on.at_tuned == best
        assert (on.questions, out.questions) == (side.sum(), (~side).sum())
        assert out.at_tuned == score_at(best.threshold, odds[~side], exact[~side], f1[~side], has[~side])
        assert out.at_zero == score_at(0.0, odds[~side], exact[~side], f1[~side], has[~side])
    whole = sum(out.questions * out.at_tuned.f1 for _, out in result.halves) / len(odds)
    assert result.held_out_f1 == pytest.approx(whole, **EXACTLY)


def test_a_threshold_that_does_not_hold_is_left_at_zero():
    # Two articles need opposite thresholds: the threshold of each half is bad for the other.
    odds = [1.0, 1.0, 1.0, 5.0, -1.0, -1.0, -1.0, -5.0]
    has = [True, True, True, False, False, False, False, True]
    f1 = [1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0]
    result = tuned(odds, f1, f1, has, ["one"] * 4 + ["two"] * 4)
    assert result.halves[0][0].at_tuned.f1 > result.halves[0][0].at_zero.f1
    assert result.held_out_f1 <= result.at_zero.f1
    assert result.threshold == 0.0


@pytest.mark.parametrize("count", [0, 1, 5])
def test_without_a_second_article_nothing_is_tuned(count):
    result = tuned([3.0] * count, [1] * count, [1] * count, [True] * count, ["alone"] * count)
    assert result.threshold == 0.0
    assert result.held_out_f1 == result.at_zero.f1 == 0.0
