"""Threshold and temperature, from logits to the file that applies them, equal decoding at these values."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qa_lightning import Reader, pipeline
from qa_lightning.decoding.calibrator import FEATURES, Calibrator
from qa_lightning.decoding.predictions import Predictions, Rows
from qa_lightning.decoding.spans import Scaling, WindowLogits, decode_spans
from qa_lightning.errors import InputError
from qa_lightning.metrics.calibration import reliability
from qa_lightning.metrics.confidence import (
    MIN_ANSWERED,
    PRECISIONS,
    Judged,
    coverage_line,
    figures,
    fit_confidence,
    fitted_lines,
)
from qa_lightning.metrics.outcomes import Outcomes, judge
from qa_lightning.metrics.squad import Scoring
from qa_lightning.metrics.thresholds import best_threshold, score_at, split_by_article
from qa_lightning.models.folder import save_model
from qa_lightning.models.loading import load_model, load_tokenizer
from qa_lightning.models.threshold_file import read_threshold_file
from tests.helpers import commands
from tests.helpers.data import make_rows, write_json
from tests.helpers.decoding import random_windows
from tests.helpers.outcomes import GRID, outcomes_of


@pytest.mark.parametrize("scale", [0.3, 1.0, 12.0])
@pytest.mark.parametrize("scaling", [Scaling(), Scaling(1.7, -2.0), Scaling(0.43, 3.0), Scaling(15.9), Scaling(0.26)])
def test_confidence_is_the_probability_that_decoding_gives_the_answer(scale: float, scaling: Scaling) -> None:
    windows = random_windows(0, 40, scale)
    judged = Judged(outcomes_of(windows), scaling, version_2=True)
    decoded = decode_spans(windows, 1, 30, scaling)
    answered = decoded.null_score - decoded.best_score <= scaling.threshold
    assert (judged.unanswered == ~answered).all()
    wanted = np.where(answered, decoded.probability, decoded.null_probability)
    np.testing.assert_allclose(judged.confidence, wanted, atol=1e-3)
    where_certain = Judged(outcomes_of(windows), scaling, version_2=False)
    assert not where_certain.unanswered.any()
    np.testing.assert_allclose(where_certain.confidence, decoded.probability, atol=1e-3)


def test_a_question_without_any_span_gets_no_answer_of_probability_1() -> None:
    outcomes = outcomes_of(random_windows(1, 3))
    empty = Outcomes(
        *(getattr(outcomes, name) for name in ("index", "exact", "f1", "has_answer")),
        np.full(3, -np.inf),
        outcomes.null_score,
        np.full_like(outcomes.log_spans, -np.inf),
        outcomes.article,
        outcomes.null_exact,
        np.full(3, -np.inf),
        np.zeros(3, np.int64),
    )
    for version_2 in (False, True):
        judged = Judged(empty, Scaling(2.0), version_2)
        assert judged.unanswered.all()
        assert judged.confidence.tolist() == [1.0, 1.0, 1.0]


def test_shares_of_processes_join_in_the_order_of_the_dataset() -> None:
    whole = outcomes_of(random_windows(2, 11))
    shares = [whole.take(np.arange(rank, 11, 3)) for rank in range(3)]
    none = whole.take(np.arange(0))
    joined = Outcomes.join([none, *reversed(shares)])
    assert joined.index.tolist() == list(range(11))
    for name in ("best_score", "log_spans", "article", "has_answer"):
        assert (getattr(joined, name) == getattr(whole, name)).all()
    assert len(Outcomes.join([none, none])) == 0


def judged_texts(rows: list[dict], mixed_script: bool = False) -> Outcomes:
    """Judge questions whose best span is the first word of their context."""
    lengths = np.array([len(row["context"].split()[0]) for row in rows])
    each = np.arange(len(rows))
    windows = WindowLogits(each, np.ones_like(each), *np.zeros((2, len(rows))), 0 * each, lengths, -1.0 - each)
    spans = decode_spans(windows, 1, 30, GRID)
    made = [{"id": f"q{number}", "question": "?", "title": None} | row for number, row in enumerate(rows)]
    return judge(Predictions(Rows(made), each, spans, True), Scoring(True, mixed_script))


def test_an_article_is_its_title_and_without_one_its_context() -> None:
    gold = {"text": ["Anna"], "answer_start": [0]}
    contexts = ["Anna lives.", "Anna works.", "Anna asks."]
    rows = [{"title": "Anna", "context": context, "answers": gold} for context in contexts]
    rows += [{"context": context, "answers": gold} for context in [*contexts[:2], contexts[0]]]
    rows += [{"title": "Ben", "context": contexts[0], "answers": gold}]
    article = judged_texts(rows).article.tolist()
    assert len(set(article[:3])) == 1  # one title, three contexts
    assert article[3] == article[5]
    assert len({article[0], article[3], article[4], article[6]}) == 4
    assert split_by_article(article[:3] + article[6:]).tolist() in ([True] * 3 + [False], [False] * 3 + [True])


def test_best_spans_are_judged_by_ideographs_where_validation_is() -> None:
    rows = [{"context": "北京 在中国", "answers": {"text": ["北京市"], "answer_start": [0]}}]
    rows += [{"context": "《北京》", "answers": {"text": ["北京"], "answer_start": [1]}}]
    plain, mixed = (judged_texts(rows, mixed_script) for mixed_script in (False, True))
    assert plain.f1.tolist() == [0.0, 0.0]
    assert mixed.f1.tolist() == pytest.approx([0.8, 1.0])
    assert mixed.exact.tolist() == [0.0, 1.0]
    assert mixed.has_answer.all()


def test_precision_and_recall_begin_with_the_answers_that_are_least_like_none() -> None:
    has = np.array([True, True, True, False, False, False])
    outcomes = replace(
        outcomes_of(random_windows(3, 6), has * 1.0, has_answer=has),
        best_score=np.zeros(6),
        null_score=np.array([-3.0, -5.0, -4.0, 2.0, 4.0, 3.0]),
    )
    for curve in fit_confidence(outcomes, version_2=True).precision_recall.values():
        assert curve.average_precision == 1.0  # all right answers come first
        assert curve.precision.tolist() == [1, 1, 1, 3 / 4, 3 / 5, 1 / 2]
        assert curve.recall.tolist() == pytest.approx([1 / 3, 2 / 3, 1, 1, 1, 1])
    reverse = replace(outcomes, null_score=-outcomes.null_score)
    for curve in fit_confidence(reverse, version_2=True).precision_recall.values():
        assert curve.average_precision == pytest.approx((1 / 4 + 2 / 5 + 3 / 6) / 3)


def overconfident(questions: int, heat: float, seed: int = 3) -> Outcomes:
    """Answers that are right with the probability of the scores divided by ``heat``, not of the scores themselves."""
    windows = random_windows(seed, questions, 3.0)
    truth = decode_spans(windows, 1, 30, Scaling(heat))
    random = np.random.default_rng(seed)
    draw = random.random(questions)
    right = (draw < truth.probability) * 1.0
    return outcomes_of(windows, right, has_answer=np.ones(questions, bool))


def test_a_temperature_mends_the_calibration_of_questions_that_it_was_not_fitted_to() -> None:
    found = fit_confidence(overconfident(3000, 2.5), version_2=False)
    assert found.scaling.temperature == pytest.approx(2.5, rel=0.12)
    assert found.scaling.threshold == 0.0
    assert found.tuned is None
    before, after = found.reliability
    assert before.error > 0.15
    assert after.error < 0.04
    assert after.count.sum() == 3000
    record = found.as_json()
    assert record["expected_calibration_error_before"] == pytest.approx(100 * before.error)
    assert record["held_out"]
    line, *_, measured = fitted_lines(found)
    assert line.startswith(
        f"temperature {found.scaling.temperature:.2f}: Brier score {found.brier('temperature'):.2f}, against "
        f"{found.brier('own'):.2f} at 1.00 (each of 5 folds"
    )
    assert f"expected calibration error {100 * after.error:.1f}% (" in measured
    for fitted, measured_by in ((True, found.measured[found.kept]), (False, found.as_given)):
        share = measured_by["answered_at_90_precision"]
        assert coverage_line(found, fitted) == (
            f"At 90% precision this model answers {100 * share.mean:.1f}% of the questions "
            f"({100 * share.low:.1f} to {100 * share.high:.1f})"
        )


@pytest.mark.parametrize("own", [1.0, 1.3])
def test_a_temperature_that_does_not_help_held_out_questions_is_not_kept(own: float) -> None:
    """The truth of these answers is at the model's own temperature: what is fitted can only be noise."""
    found = fit_confidence(overconfident(160, own, seed=12), version_2=False, own=Scaling(own))
    before, after = found.reliability
    assert found.fitted != own
    assert found.scaling == Scaling(own)
    assert after.error == before.error
    assert found.as_json()["temperature"] == own
    line, without, _ = fitted_lines(found)
    assert line.startswith(
        f"temperature {own:.2f}, as a fitted one does not clearly help: Brier score {found.brier('own'):.2f}, "
        f"against {found.brier('temperature'):.2f} if fitted, to {found.fitted:.2f} (each of 5 folds"
    )
    assert without.startswith(
        f"no calibrator of scores, as one does not clearly help: Brier score {found.brier('own'):.2f}, "
        f"against {found.brier('calibrator'):.2f} with it (each of 5 folds"
    )
    assert len(figures(found)["reliability"].axes) == 2  # one diagram: there is no after


def test_a_temperature_is_measured_under_the_thresholds_that_are_used() -> None:
    """Else the line would tell the threshold's gain, or loss, as the temperature's."""
    outcomes = overconfident(800, 2.5)
    outcomes = replace(outcomes, has_answer=np.arange(800) % 3 > 0, exact=outcomes.exact * (np.arange(800) % 3 > 0))
    found = fit_confidence(outcomes, version_2=True)
    own = [Judged(part.outcomes, Scaling(1.0, part.scaling.threshold), True) for part in found.held_out]
    sure, right = (np.concatenate([getattr(part, name) for part in own]) for name in ("confidence", "correct"))
    assert found.reliability[0].error == pytest.approx(reliability(sure, right).error)


@pytest.mark.parametrize(("questions", "articles"), [(60, 10), (3000, 1)])
def test_what_cannot_be_held_out_or_is_too_little_is_not_fitted_and_said(questions: int, articles: int) -> None:
    outcomes = overconfident(questions, 2.5)
    outcomes = replace(outcomes, article=np.array([f"{row % articles}" for row in range(questions)], object))
    found = fit_confidence(outcomes, version_2=False)
    assert found.scaling == Scaling()
    line, *rest = fitted_lines(found)
    assert "it is not fitted" in line
    assert len(rest) == (articles > 1)  # the measures need held-out answers
    assert ("one article" in line) == (articles == 1)
    assert "if fitted" not in line


def test_scores_at_precision_are_the_lowest_on_held_out_questions_that_reach_it() -> None:
    found = fit_confidence(overconfident(3000, 1.5), version_2=False)
    sure, right = found.held_out_columns
    curve = found.scores_at_precision
    assert list(map(float, curve)) == sorted(map(float, curve))
    assert ("0.75" in curve, "0.95" in curve) == (True, False)  # too few answers are that precise
    for name, score in curve.items():
        assert right[sure >= score].mean() >= float(name) - 1e-9
        assert (sure >= score).sum() >= MIN_ANSWERED
        lower = np.unique(sure[sure < score])
        assert all(right[sure >= one].mean() < float(name) for one in lower[-50:])
    never = fit_confidence(replace(overconfident(300, 2.5), exact=np.zeros(300)), version_2=False)
    assert never.scores_at_precision == {}
    always = replace(overconfident(60, 2.5), exact=np.ones(60))
    assert set(fit_confidence(always, version_2=False).scores_at_precision) == {f"{one:g}" for one in PRECISIONS}
    few = fit_confidence(always.take(np.arange(MIN_ANSWERED - 1)), version_2=False)
    assert few.scores_at_precision == {}


def test_the_threshold_is_tuned_and_reported_on_the_other_articles() -> None:
    random = np.random.default_rng(5)
    outcomes = outcomes_of(random_windows(5, 2000, 2.0), articles=8)
    odds = np.where(outcomes.has_answer, random.normal(-6, 2, 2000), random.normal(0, 2, 2000))
    outcomes = replace(outcomes, null_score=outcomes.best_score + odds)
    found = fit_confidence(outcomes, version_2=True)
    assert -5 < found.scaling.threshold < -1
    assert found.tuned.held_out_f1 > found.tuned.at_zero.f1 + 3
    line, *_ = fitted_lines(found)
    assert f"F1 {found.tuned.held_out_f1:.2f}, against {found.tuned.at_zero.f1:.2f} at 0" in line
    for part in found.held_out:
        others = outcomes.take(~np.isin(outcomes.article, part.outcomes.article))
        assert len(others) + len(part.outcomes) == len(outcomes)  # no article is in two folds
        assert part.scaling.threshold == best_threshold(*others.decision).threshold
    assert sum(len(part.outcomes) for part in found.held_out) == len(outcomes)
    single = fit_confidence(outcomes_of(random_windows(5, 100), articles=1), version_2=True)
    assert single.held_out is None
    assert single.scaling.threshold == 0.0
    line, _ = fitted_lines(single)
    assert "is not tuned: all questions are about one article" in line
    assert coverage_line(single).endswith("% of the questions")  # nothing is held out to measure more


def test_a_threshold_that_does_not_help_is_neither_kept_nor_measured_with() -> None:
    """The shares of questions with an answer are opposite in the halves: each half's best threshold harms the other."""
    outcomes = outcomes_of(random_windows(5, 400, 2.0), articles=8)
    first = split_by_article(outcomes.article.tolist())
    random = np.random.default_rng(1)
    has = np.where(first, random.random(400) < 0.9, random.random(400) < 0.1)
    right = (random.random(400) < 0.7) * has * 1.0
    outcomes = replace(
        outcomes,
        has_answer=has,
        exact=right,
        f1=right,
        null_exact=~has,
        null_score=outcomes.best_score + random.normal(0, 2, 400),
    )
    found = fit_confidence(outcomes, version_2=True)
    assert found.tuned.held_out_f1 < found.tuned.at_zero.f1
    assert found.scaling.threshold == 0.0
    assert {part.scaling.threshold for part in found.held_out} == {0.0}  # coverage and calibration are those of use
    line, *_ = fitted_lines(found)
    assert line.startswith(
        f'threshold 0.00 for "no answer", as tuning does not help: F1 {found.tuned.at_zero.f1:.2f}, '
        f"against {found.tuned.held_out_f1:.2f} if tuned"
    )


@pytest.mark.parametrize(("version_2", "articles"), [(False, 10), (True, 1)])
def test_the_models_threshold_stays_where_none_can_be_fitted(version_2: bool, articles: int) -> None:
    outcomes = outcomes_of(random_windows(5, 300, 2.0), articles=articles)
    if not version_2:
        outcomes = replace(outcomes, has_answer=np.ones(300, bool))
    found = fit_confidence(outcomes, version_2, Scaling(1.0, -6.63))
    assert found.scaling.threshold == -6.63
    assert found.tuned is None
    assert {part.scaling.threshold for part in found.held_out or ()} <= {-6.63}
    line, *_ = fitted_lines(found)
    assert line.startswith('threshold -6.63 for "no answer"')
    assert ("every question has an answer" in line) == (not version_2)
    if version_2:
        assert f"F1 {score_at(-6.63, *outcomes.decision).f1:.2f}; it is not tuned: all questions are about one" in line


def test_a_calibrator_of_spans_leaves_the_weights_of_no_answer_as_they_were() -> None:
    own = Calibrator((0.0, 1.0, 0.0, 0.0, 0.0, 0.0), (0.5, 0.7, 0.0, 0.0, 0.0, 0.4), -6.63)
    rows = outcomes_of(random_windows(7, 3000, 1.0), has_answer=np.ones(3000, bool))
    right = np.random.default_rng(7).random(3000) < 1 / (1 + np.exp(rows.length - 1.5 + 3 * (rows.null_odds + 2)))
    found = fit_confidence(replace(rows, exact=right * 1.0), False, Scaling(1.0, -6.63, calibrator=own))
    assert found.kept == "calibrator"
    assert found.scaling.calibrator.span != own.span
    assert (found.scaling.calibrator.no_answer, found.scaling.calibrator.threshold) == (own.no_answer, -6.63)


NO_ANSWER: dict = {"text": [], "answer_start": []}


@pytest.fixture(scope="module")
def evaluated(model_folder, tmp_path_factory):
    """A small model, evaluated on questions; some of them have no answer."""
    folder = tmp_path_factory.mktemp("evaluated")
    data = write_json(folder / "data.json", make_rows(60, unanswerable=25, long=3))
    assert commands.evaluate(["--model", model_folder, "--data", data, "--output-dir", str(folder / "out")]) == 0
    return model_folder, data, folder / "out"


def test_evaluation_leaves_every_file_and_figure(evaluated) -> None:
    _, _, folder = evaluated
    assert {path.name for path in folder.iterdir()} == {
        *("metrics.json", "predictions.json", "nbest_predictions.json", "null_odds.json", "threshold.json"),
        "confidence.json",
        *("reliability.png", "precision_recall.png", "risk_coverage.png"),
    }
    metrics = json.loads((folder / "metrics.json").read_text())
    assert {"best_f1", "best_f1_thresh", "best_exact", "pr_exact_ap", "pr_f1_ap", "pr_oracle_ap"} <= set(metrics)
    odds = json.loads((folder / "null_odds.json").read_text())
    predictions = json.loads((folder / "predictions.json").read_text())
    assert set(odds) == set(predictions)
    assert all((odds[key] > 0) == (not text) for key, text in predictions.items())


def test_evaluation_measures_the_scores_that_it_writes(evaluated, tmp_path) -> None:
    model, data, before = evaluated
    rows = json.loads(Path(data).read_text())["data"]
    predicted = json.loads((before / "predictions.json").read_text())
    for row in rows[::2]:  # these are right
        text = predicted[row["id"]]
        row["answers"] = {"text": [text], "answer_start": [row["context"].index(text)]} if text else NO_ANSWER
    now = write_json(tmp_path / "data.json", rows)
    assert commands.evaluate(["--model", model, "--data", now, "--output-dir", str(tmp_path / "out")]) == 0
    best = json.loads((tmp_path / "out" / "nbest_predictions.json").read_text())
    score = np.array([best[row["id"]][0]["probability"] for row in rows])
    right = np.array([best[row["id"]][0]["text"] in (row["answers"]["text"] or [""]) for row in rows], float)
    assert 0 < right.sum() < len(right)
    bins = np.minimum((score * 15).astype(int), 14)
    error = sum(abs((score - right)[bins == one].sum()) for one in range(15)) / len(score)
    found = json.loads((tmp_path / "out" / "confidence.json").read_text())["measures_as_given"]
    assert found["expected_calibration_error"][0] == pytest.approx(100 * error, abs=1e-3)
    assert found["brier"][0] == pytest.approx(100 * ((score - right) ** 2).mean(), abs=1e-3)


def test_a_predictions_file_with_null_odds_gets_the_models_own_metrics(evaluated, tmp_path, capsys) -> None:
    _, data, folder = evaluated
    n_best = json.loads((folder / "nbest_predictions.json").read_text())
    texts = {key: next(one["text"] for one in candidates if one["text"]) for key, candidates in n_best.items()}
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    files = ["--predictions", str(tmp_path / "texts.json"), "--null-odds", str(folder / "null_odds.json")]
    assert commands.evaluate([*files, "--data", data, "--output-dir", str(tmp_path / "out")]) == 0
    own = json.loads((folder / "metrics.json").read_text())
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    for name in metrics:
        if name.startswith(("best_", "pr_")):
            assert metrics[name] == pytest.approx(own[name], abs=1e-9)
    (tmp_path / "odds.json").write_text(json.dumps(dict.fromkeys(texts, "x")))
    with pytest.raises(InputError, match="has 'x'; a number is wanted"):
        commands.evaluate(["--predictions", files[1], "--null-odds", str(tmp_path / "odds.json"), "--data", data])


def test_a_threshold_file_is_applied_to_its_model_and_to_no_other(evaluated, tmp_path) -> None:
    model, data, folder = evaluated
    path = tmp_path / "threshold.json"
    made = json.loads((folder / "threshold.json").read_text())
    assert made["model"] == model
    for threshold, answered in ((-50.0, 0), (50.0, 60)):
        path.write_text(json.dumps(made | {"null_score_diff_threshold": threshold}))
        command = ["--model", model, "--data", data, "--threshold-file", str(path), "--output-dir", str(tmp_path / "o")]
        assert commands.evaluate(command) == 0
        texts = json.loads((tmp_path / "o" / "predictions.json").read_text())
        assert sum(map(bool, texts.values())) == answered
        ask = pipeline(model, threshold_file=path)
        answer = ask(question="Who?", context="Anna lives in Oslo.", handle_impossible_answer=True)
        assert bool(answer["answer"]) == bool(answered)
    other = load_model(model)
    other.qa_outputs.bias.data += 1.0
    other.save_pretrained(tmp_path / "other")
    load_tokenizer(model).save_pretrained(tmp_path / "other")
    with pytest.raises(InputError, match=r"was made for .* whose weights are not those of --model .*other; make one"):
        read_threshold_file(path, str(tmp_path / "other"))


def test_questions_that_all_have_an_answer_leave_the_threshold_of_the_model(evaluated, tmp_path, capsys) -> None:
    """Also where the threshold came from a file, and with a file of an older version, which says 0."""
    model, _, folder = evaluated
    path = tmp_path / "given.json"
    path.write_text(json.dumps(json.loads((folder / "threshold.json").read_text()) | {"null_score_diff_threshold": -3}))
    given = Reader.load(model, threshold_file=path)
    save_model(given.model, given.tokenizer, given.settings, tmp_path / "model", given.model.state_dict())
    data = write_json(tmp_path / "data.json", make_rows(20))
    for one, args in ((model, ["--threshold-file", str(path)]), (str(tmp_path / "model"), [])):
        command = ["--model", one, "--data", data, *args, "--output-dir", str(tmp_path / "out")]
        assert commands.evaluate(command) == 0
        assert 'threshold -3.00 for "no answer": it is not tuned, as every question has' in capsys.readouterr().out
        made = json.loads((tmp_path / "out" / "threshold.json").read_text())
        assert (made["null_score_diff_threshold"], made["version_2"]) == (-3, True)
    old = tmp_path / "old.json"
    fitted = {"version_2": False, "null_score_diff_threshold": 0.0, "temperature": 1.5}
    at_another = {"calibrator": {"span": dict.fromkeys(("bias", *FEATURES), 0.5)}, "scores_at_precision": {"0.9": 0.5}}
    old.write_text(json.dumps(made | fitted | at_another))
    for name, threshold in ((str(tmp_path / "model"), -3), (model, 0)):
        settings, asks = Reader.load(name, threshold_file=old).settings, pipeline(name, threshold_file=old)
        assert settings.scaling == asks.scaling
        assert (settings.temperature, settings.null_score_diff_threshold) == (1.5, threshold)
        assert bool(settings.calibrator) == bool(settings.scores_at_precision) == (threshold == 0)
        assert asks.scores_at_precision == settings.scores_at_precision


def test_a_threshold_file_brings_the_scores_at_each_precision(evaluated, tmp_path, monkeypatch) -> None:
    model, data, _ = evaluated
    curve = property(lambda self: {"0.9": len(self.held_out_columns[0]) / 100})
    monkeypatch.setattr("qa_lightning.metrics.confidence.Confidence.scores_at_precision", curve)
    assert commands.evaluate(["--model", model, "--data", data, "--output-dir", str(tmp_path)]) == 0
    path = tmp_path / "threshold.json"
    made = json.loads(path.read_text())
    assert made["scores_at_precision"] == {"0.9": 0.6}
    path.write_text(json.dumps(made | {"scores_at_precision": {"0.9": 0.25}}))
    assert Reader.load(model, threshold_file=path).settings.score_at(0.9) == 0.25
    assert pipeline(model, threshold_file=path).scores_at_precision == {"0.9": 0.25}
    path.write_text(json.dumps({name: value for name, value in made.items() if name != "scores_at_precision"}))
    assert Reader.load(model, threshold_file=path).settings.scores_at_precision == {}
    path.write_text(json.dumps(made | {"scores_at_precision": {"0.9": 2}}))
    with pytest.raises(InputError, match=r"scores_at_precision is \{'0.9': 2\}; it must give a score from 0 to 1"):
        Reader.load(model, threshold_file=path)


def test_scores_on_what_threshold_and_temperature_were_fitted_to_are_said_to_flatter(
    evaluated, tmp_path, capsys
) -> None:
    model, data, folder = evaluated
    other = write_json(tmp_path / "other.json", make_rows(50, unanswerable=25))
    command = ["--model", model, "--threshold-file", str(folder / "threshold.json"), "--data"]
    for asked, flatters in (
        ([*command, data], True),
        ([*command, data, "--on_bad_rows", "repair"], True),
        ([*command, other], False),
        (["--model", model, "--data", data], False),
    ):
        assert commands.evaluate(asked) == 0
        assert ("were fitted to" in capsys.readouterr().out) == flatters


def test_predict_takes_a_threshold_file_for_one_question_and_for_a_file(evaluated, tmp_path, capsys) -> None:
    model, data, folder = evaluated
    made = json.loads((folder / "threshold.json").read_text())
    assert made["version_2"]
    questions = ["--input", data, "--output", str(tmp_path / "answers.jsonl")]
    for threshold, answered in ((-50.0, 0), (50.0, 60)):
        path = tmp_path / f"{threshold}.json"
        path.write_text(json.dumps(made | {"null_score_diff_threshold": threshold}))
        asked = ["--model", model, "--threshold-file", str(path)]
        assert commands.predict([*asked, *questions, "--overwrite"]) == 0
        rows = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
        assert sum(bool(row["answer"]) for row in rows) == answered
        capsys.readouterr()
        assert commands.predict([*asked, "--question", "Who?", "--context", "Anna lives in Oslo.", "--json"]) == 0
        assert bool(json.loads(capsys.readouterr().out)["answer"]) == bool(answered)
    with pytest.raises(InputError, match=r"was started with other values.*\n--threshold_file .*-50.*, was .*50.0"):
        commands.predict(["--model", model, "--threshold-file", str(tmp_path / "-50.0.json"), *questions])
    with pytest.raises(InputError, match=r"--threshold_file None, was "):
        commands.predict(["--model", model, *questions])
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(InputError, match=r"--threshold_file .*bad.json cannot be read .*; pass the threshold.json"):
        commands.predict(["--model", model, "--threshold-file", str(tmp_path / "bad.json"), *questions])


_FITTED = {"null_score_diff_threshold": 1, "version_2": True, "model": "", "weights": "", "fingerprint": ""}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        json.dumps(_FITTED | {"temperature": 0}),
        "null",
    ],
)
def test_a_threshold_file_that_is_none_is_refused(tmp_path: Path, model_folder, content: str) -> None:
    (tmp_path / "file.json").write_text(content)
    with pytest.raises(InputError, match=r"--threshold_file .*file.json"):
        read_threshold_file(tmp_path / "file.json", model_folder)
    with pytest.raises(InputError, match=r"--threshold_file .*nowhere.json"):
        read_threshold_file(tmp_path / "nowhere.json", model_folder)


def test_an_onnx_export_is_scored_by_the_answers_that_it_gives(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").touch()
    with pytest.raises(
        InputError, match=r"is an ONNX export.*`qa-lightning predict --model .* --predictions answers.jsonl"
    ):
        commands.evaluate(["--model", str(tmp_path), "--data", "questions.json"])
