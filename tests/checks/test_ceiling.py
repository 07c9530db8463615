"""The best score that can be reached equals that of trying every span, for all annotators, and each limit is named."""

from __future__ import annotations

import json
import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from transformers import BertTokenizer

from qa_lightning.checks import ceiling
from qa_lightning.checks.ceiling import ContextTokens, best_scores
from qa_lightning.checks.report import check_source
from qa_lightning.evaluation.file import score_file
from qa_lightning.features.store import FeatureStore
from qa_lightning.features.windows import Windower, WindowSettings
from qa_lightning.metrics.squad import Scoring, answer_scores
from qa_lightning.models.loading import load_tokenizer
from tests.helpers.checks import found
from tests.helpers.data import write_json
from tests.helpers.forms import read
from tests.helpers.models import small_tokenizer
from tests.helpers.paths import SHARED, needs_data

PIECES = st.sampled_from(["the", "The", "a", "cat", "dog", "at", ".", "-", "é", "北", "京", " ", " ", " "])


def every_span(context, golds, tokens, longest, scoring):
    """The best scores under the first limit, the first two and all three, by trying all spans."""
    best = [list(answer_scores("", [gold for gold, _ in golds], scoring)) for _ in range(3)]
    for first in range(len(tokens.index)):
        for last in range(first, len(tokens.index)):
            begin, end = tokens.index[first], tokens.index[last]
            kept = 1
            if end < tokens.reach[first]:
                kept = 3 if end - begin + 1 <= longest else 2
            text = context[tokens.start[first] : tokens.end[last]]
            scores = answer_scores(text, [gold for gold, _ in golds], scoring)
            for limit in range(kept):
                best[limit] = [max(pair) for pair in zip(best[limit], scores, strict=True)]
    return best


@pytest.mark.parametrize("rules", [False, "mlqa", "korquad"])
@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_the_ceiling_is_that_of_trying_every_span(rules, data) -> None:
    context = "".join(data.draw(st.lists(PIECES, min_size=1, max_size=12), "context"))
    assume(context.strip())
    cuts = sorted(data.draw(st.sets(st.integers(1, len(context)), max_size=12), "cuts") | {0, len(context)})
    cuts = sorted({*cuts, *(at + side for at, letter in enumerate(context) if letter == " " for side in (0, 1))})
    spans = [(a, b) for a, b in pairwise(cuts) if context[a:b].strip()]
    starts = np.array([a + len(context[a:b]) - len(context[a:b].lstrip()) for a, b in spans])
    ends = np.array([a + len(context[a:b].rstrip()) for a, b in spans])
    size = data.draw(st.integers(1, len(spans)), "window")
    step = data.draw(st.integers(1, size), "step")
    index = np.arange(len(spans))
    tokens = ContextTokens(index, starts, ends, np.minimum(index // step * step + size, len(spans)))
    golds = []
    for _ in range(data.draw(st.integers(1, 3), "golds")):
        begin = data.draw(st.integers(0, len(context) - 1))
        golds.append((context[begin : data.draw(st.integers(begin + 1, len(context)))], begin))
    assume(all(text.strip() for text, _ in golds))
    longest, scoring = data.draw(st.integers(1, 4), "longest"), Scoring(version_2=True, mixed_script=rules)
    best = best_scores(context, golds, tokens, longest, scoring)
    wanted = every_span(context, golds, tokens, longest, scoring)
    assert np.array(best) == pytest.approx(np.array(wanted))


def test_too_many_spans_count_as_reachable_under_the_limits_that_they_keep(monkeypatch) -> None:
    context = "x y z w " * 30
    index = np.arange(120)
    tokens = ContextTokens(index, index * 2, index * 2 + 1, np.full(120, 120))
    golds = [("x q z q w q y q", 0)]  # occurs nowhere
    scoring = Scoring(version_2=True)
    exact = best_scores(context, golds, tokens, 3, scoring)
    assert exact == [(0.0, pytest.approx(8 / 12)), (0.0, pytest.approx(8 / 12)), (0.0, pytest.approx(6 / 11))]
    monkeypatch.setattr(ceiling, "_TRIES", 400)  # enough for spans of at most 3 tokens
    monkeypatch.setattr(ceiling, "_TRIES_PER_TOKEN", 0)
    assert best_scores(context, golds, tokens, 3, scoring) == [(1.0, 1.0), (1.0, 1.0), exact[2]]


def test_tokens_of_all_windows_are_those_of_the_whole_context() -> None:
    tokenizer = small_tokenizer()
    context = "Ben lives at the city . The bakers works at Paris , " * 6
    windows = Windower(tokenizer, WindowSettings(24, 6, 8))(["Who ?"], [context], [None], 0)
    tokens = ContextTokens.of_windows(FeatureStore.of_batch(windows), range(len(windows.windows)), 6)
    wanted = tokenizer(context, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    assert list(zip(tokens.start.tolist(), tokens.end.tolist(), strict=True)) == wanted
    assert tokens.index.tolist() == list(range(len(wanted)))
    room = 24 - 2 - 3
    held = {(i, j) for b in range(0, len(wanted), room - 6) for i in range(b, b + room) for j in range(i, b + room)}
    for first in range(len(wanted)):
        last = int(tokens.reach[first]) - 1
        assert (first, last) in held
        assert last == len(wanted) - 1 or (first, last + 1) not in held


def report_of(tmp_path, model_folder, rows, **settings):
    path = write_json(tmp_path / "data.json", rows)
    sizes = WindowSettings(48, 12, 12)
    return check_source(path, tokenizer=load_tokenizer(model_folder), settings=sizes, **settings)


def test_the_best_of_all_annotators_counts_whatever_the_length_of_the_first(tmp_path, model_folder) -> None:
    context = "Ben lives at the city . Anna works at Paris ."
    answers = {"text": [context[:-2], "Anna"], "answer_start": [0, 24]}
    rows = [{"id": "a", "question": "Who ?", "context": context, "answers": answers}]
    report = report_of(tmp_path, model_folder, rows, max_answer_length=3)
    assert found(report) == {}
    assert report.facts["ceiling"] == {"exact_match": 100.0, "f1": 100.0}
    assert report.facts["limits"]["max_answer_length"] == {"exact_match": 0.0, "f1": 0.0}
    rows[0]["answers"] = {"text": [context[:-2]], "answer_start": [0]}
    report = report_of(tmp_path, model_folder, rows, max_answer_length=3)
    assert found(report) == {"long_answer": 1}
    assert report.facts["ceiling"] == {"exact_match": 100.0, "f1": 100.0}
    cost = report.facts["limits"]["max_answer_length"]
    assert cost == {"exact_match": 100.0, "f1": pytest.approx(100 - 100 * 2 * 3 / (3 + 8))}
    assert report.facts["limits"]["tokens"] == report.facts["limits"]["windows"] == {"exact_match": 0.0, "f1": 0.0}


def test_another_occurrence_of_the_text_can_be_predicted_too(tmp_path, model_folder) -> None:
    """EM compares texts, so that a model may find the text at a better place than the annotator."""
    context = "Ben lives at the city . Anna cit ."
    rows = [{"id": "a", "question": "Who ?", "context": context, "answers": {"text": ["cit"], "answer_start": [17]}}]
    report = report_of(tmp_path, model_folder, rows)
    assert found(report)["altered"] == 1
    assert report.facts["ceiling"]["exact_match"] == 100.0


@pytest.mark.parametrize(("rules", "cost"), [(False, 100.0), ("mlqa", 100 / 3), ("korquad", 100 / 3)])
def test_the_ceiling_counts_as_the_named_rules_do(tmp_path, model_folder, rules, cost) -> None:
    rows = [{"id": "a", "question": "?", "context": "北京市", "answers": {"text": ["北京"], "answer_start": [0]}}]
    facts = report_of(tmp_path, model_folder, rows, mixed_script=rules, max_answer_length=1).facts
    assert facts["ceiling"]["f1"] == 100.0
    assert facts["limits"]["max_answer_length"]["f1"] == pytest.approx(cost)


@example(4_000)
@given(st.just(2_000))
@settings(max_examples=2, deadline=None)
def test_long_contexts_take_linear_time(count) -> None:
    context = "the cat . " * count
    index = np.arange(2 * count)
    start = np.stack([np.arange(count) * 10, np.arange(count) * 10 + 4], 1).reshape(-1)
    tokens = ContextTokens(index, start, start + 3, np.full(2 * count, 2 * count))
    begin = time.process_time()  # of this process alone: the machine may be busy
    assert best_scores(context, [("cat dog", 4)], tokens, 30, Scoring(version_2=True))[2] == (0.0, pytest.approx(2 / 3))
    assert time.process_time() - begin < 5


@needs_data
@pytest.mark.parametrize("name", ["validation-8-articles.json", "validation-v2-articles.json"])
def test_the_ceiling_is_not_below_what_gold_answers_score(name, tmp_path) -> None:
    words = (SHARED / "vocab" / "bert-base-cased-vocab.txt").read_text(encoding="utf-8").splitlines()
    vocab = {word: number for number, word in enumerate(words)}
    tokenizer = BertTokenizer(vocab=vocab, do_lower_case=False, model_max_length=512)
    facts = check_source(str(SHARED / "squad" / name), tokenizer=tokenizer).facts
    golds = {item["id"]: next(iter(item["answers"]["text"]), "") for item in read(SHARED / "squad" / name)}
    (tmp_path / "golds.json").write_text(json.dumps(golds))
    scores = score_file(tmp_path / "golds.json", str(SHARED / "squad" / name)).metrics
    assert facts["ceiling"]["exact_match"] >= scores.get("exact", scores.get("exact_match"))
    assert facts["ceiling"]["f1"] >= scores["f1"]
    assert facts["limits"]["tokens"] == facts["limits"]["windows"] == {"exact_match": 0.0, "f1": 0.0}
    assert facts["limits"]["max_answer_length"]["exact_match"] == pytest.approx(100 / 2360 if "8" in name else 0.0)
