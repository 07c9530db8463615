"""Scoring a file of predictions: output, files, refusals, and the comparison with the published scorer."""

import json
import math
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from transformers import BertModel

from qa_lightning.errors import DivergedError, InputError
from qa_lightning.evaluation import model as scoring
from qa_lightning.evaluation.file import score_file
from qa_lightning.evaluation.model import score_model
from qa_lightning.evaluation.official import compare_with_official
from qa_lightning.evaluation.result import ScoreResult, write_result
from qa_lightning.evaluation.saved import read_null_odds
from qa_lightning.inference.reader import Reader
from qa_lightning.metrics.squad import Scoring, SquadMetric, answer_scores
from qa_lightning.metrics.thresholds import squad_v2_metrics
from qa_lightning.models.folder import save_settings
from qa_lightning.models.settings import AnswerSettings
from tests.helpers import commands
from tests.helpers.data import make_rows, write_json
from tests.helpers.families import FAMILIES, save
from tests.helpers.models import small_config
from tests.helpers.paths import ROOT, SHARED, needs_data

PUBLISHED = ["v1.1-bert-ensemble.json", "v2.0-bert-single.json"]

CONTEXT = "The Normans of Normandy came to England in 1066."
GOLDS = {"q1": ["The Normans", "Normans of Normandy"], "q2": ["1066"], "q3": ["England"], "q4": []}
ANSWERS = {"q1": "Normans", "q2": "in 1066.", "q3": "Normandy", "q4": "", "of no question": "?"}
V11 = {"exact_match": 100 / 3, "f1": 100 * (1 + 2 / 3) / 3}
V20 = {
    **{"exact": 50.0, "f1": 100 * (1 + 2 / 3 + 1) / 4, "total": 4},
    **{"HasAns_exact": 100 / 3, "HasAns_f1": 100 * (1 + 2 / 3) / 3, "HasAns_total": 3},
    **{"NoAns_exact": 100.0, "NoAns_f1": 100.0, "NoAns_total": 1},
}


@pytest.fixture
def files(tmp_path):
    """A function that writes a file of predictions and one of questions, and returns their paths."""

    def make(predictions=ANSWERS, questions=("q1", "q2", "q3", "q4")):
        rows = [
            {
                "id": key,
                "question": "What?",
                "context": CONTEXT,
                "answers": {"text": GOLDS[key], "answer_start": [CONTEXT.index(text) for text in GOLDS[key]]},
            }
            for key in questions
        ]
        paths = tmp_path / "predictions.json", tmp_path / "questions.json"
        content = predictions if isinstance(predictions, bytes) else json.dumps(predictions).encode()
        paths[0].write_bytes(content)
        paths[1].write_text(json.dumps(rows))
        return paths

    return make


def evaluate(predictions, data, *flags):
    return commands.evaluate(["--predictions", str(predictions), "--data", str(data), *map(str, flags)])


def printed(text):
    """``name   value`` lines -> a dictionary of texts."""
    return dict(line.split() for line in text.splitlines() if len(line.split()) == 2)


# --- scores ---


@pytest.mark.parametrize(
    ("questions", "expected"),
    [
        (["q1", "q2", "q3"], V11),
        (["q3", "q2", "q1"], V11),
        (["q1", "q2", "q3", "q4"], V20),
    ],
)
def test_a_predictions_file_is_scored_as_v20_only_where_a_question_has_no_answer(files, questions, expected):
    predictions, data = files(questions=questions)
    result = score_file(predictions, str(data))
    assert result.metrics == pytest.approx(expected, rel=0, abs=1e-9)
    assert result.version_2 == ("q4" in questions)
    assert list(result.predictions.items()) == [(key, ANSWERS[key]) for key in questions]
    assert [(item["id"], item["answers"]["text"]) for item in result.references] == [(q, GOLDS[q]) for q in questions]


def test_only_the_first_questions_are_scored_when_asked(files, capsys):
    predictions, data = files()
    result = score_file(predictions, str(data), max_examples=2)
    assert list(result.predictions) == ["q1", "q2"]
    assert result.metrics == pytest.approx({"exact_match": 50.0, "f1": 100 * (1 + 2 / 3) / 2}, rel=0, abs=1e-9)
    assert evaluate(predictions, data, "--max-examples", 2) == 0
    assert printed(capsys.readouterr().out) == {"exact_match": "50.0000", "f1": "83.3333"}


@needs_data
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_predictions_print_the_published_scores(name, capsys):
    expected = json.loads((SHARED / "predictions" / "expected.json").read_text())[name]
    data = SHARED / expected.pop("dataset")
    assert score_file(SHARED / "predictions" / name, str(data)).metrics == pytest.approx(expected, rel=0, abs=1e-9)
    assert evaluate(SHARED / "predictions" / name, data) == 0
    assert printed(capsys.readouterr().out) == {
        key: f"{value:,}" if key.endswith("total") else f"{value:.4f}" for key, value in expected.items()
    }


# --- what the command prints and writes ---


@pytest.mark.parametrize(
    ("questions", "expected"),
    [
        (["q1", "q2", "q3"], {"exact_match": "33.3333", "f1": "55.5556"}),
        (
            ["q1", "q2", "q3", "q4"],
            {
                **{"exact": "50.0000", "f1": "66.6667", "total": "4"},
                **{"HasAns_exact": "33.3333", "HasAns_f1": "55.5556", "HasAns_total": "3"},
                **{"NoAns_exact": "100.0000", "NoAns_f1": "100.0000", "NoAns_total": "1"},
            },
        ),
    ],
    ids=["v1.1", "v2.0"],
)
def test_the_command_prints_every_score_and_writes_nothing_unasked(files, questions, expected, capsys, monkeypatch):
    predictions, data = files(questions=questions)
    monkeypatch.chdir(predictions.parent)
    assert evaluate(predictions, data) == 0
    assert printed(capsys.readouterr().out) == expected
    assert sorted(path.name for path in predictions.parent.iterdir()) == ["predictions.json", "questions.json"]


def test_the_command_writes_scores_and_answers_that_can_be_scored_again(files, tmp_path, capsys):
    predictions, data = files({**ANSWERS, "q3": "Éngland “x”"})
    folder = tmp_path / "new" / "results"
    assert evaluate(predictions, data, "--output-dir", folder) == 0
    assert f"written to {folder}: metrics.json, predictions.json\n" in capsys.readouterr().out
    assert sorted(path.name for path in folder.iterdir()) == ["metrics.json", "predictions.json"]
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert metrics == pytest.approx(V20, rel=0, abs=1e-9)
    assert metrics["total"] == 4
    answers = (folder / "predictions.json").read_text(encoding="utf-8")
    assert json.loads(answers) == {"q1": "Normans", "q2": "in 1066.", "q3": "Éngland “x”", "q4": ""}
    assert "Éngland “x”" in answers  # readable, not escaped
    assert score_file(folder / "predictions.json", str(data)).metrics == metrics


def test_candidates_are_written_where_there_are_some(tmp_path):
    n_best = {"q1": [{"text": "Normans", "probability": 0.5}]}
    write_result(ScoreResult(V11, {"q1": "Normans"}, [], False, n_best), tmp_path)
    assert json.loads((tmp_path / "nbest_predictions.json").read_text(encoding="utf-8")) == n_best


def test_odds_of_a_context_without_a_token_are_written_as_json_has_numbers(tmp_path):
    """They are infinite, which JSON cannot write; read again, they are still above all others."""
    odds = {"q1": -3.5, "q2": 1e9, "q3": 2.0, "q4": math.inf}
    n_best = {key: [{"text": "x", "probability": 0.5}] for key in odds}
    write_result(ScoreResult(V20, dict.fromkeys(odds, ""), [], True, n_best, null_odds=odds), tmp_path)

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    text = (tmp_path / "null_odds.json").read_text(encoding="utf-8")
    kept = json.loads(text, parse_constant=refuse)
    assert (kept["q1"], kept["q2"]) == (-3.5, 1e9)
    assert read_null_odds(tmp_path / "null_odds.json", list(odds)) == kept
    assert sorted(kept, key=kept.__getitem__) == ["q1", "q3", "q2", "q4"]


def test_the_output_folder_may_stand_already_and_its_files_are_replaced(files, tmp_path):
    predictions, data = files()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "metrics.json").write_text("old")
    assert evaluate(predictions, data, "--output-dir", tmp_path / "out") == 0
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["total"] == 4


# --- what is refused ---

LAYOUT = 'expected one object {"id": "answer", ...} with texts as answers, or rows with id and answer'
NOT_A_TEXT = "it must be a text, empty for no answer"


@pytest.mark.parametrize(
    ("predictions", "words"),
    [
        (b"{", ["cannot be read as JSON", "line 1 column 2"]),
        (b"", ["cannot be read as JSON"]),
        ('{"q1": "é"}'.encode("latin-1"), ["not UTF-8 (byte 8 is 0xe9)"]),
        ("Normans", [LAYOUT]),
        ({**ANSWERS, "q1": None}, ["the prediction for id 'q1' is None", NOT_A_TEXT]),
        ({**ANSWERS, "q2": 1066}, ["the prediction for id 'q2' is 1066", NOT_A_TEXT]),
        ({**ANSWERS, "q2": ["1066"]}, ["the prediction for id 'q2' is ['1066']", NOT_A_TEXT]),
        pytest.param(b"[" * 200_000, ["cannot be read as JSON"]),
        pytest.param({**ANSWERS, "q1": "\ud83d"}, ["half of a surrogate pair"]),
    ],
    ids="cut,empty,latin-1,text,null,number,list of texts,deep,surrogate".split(","),
)
def test_predictions_that_cannot_be_scored_are_one_error_that_names_flag_and_file(files, tmp_path, predictions, words):
    paths = files(predictions)
    with pytest.raises(InputError) as caught:
        evaluate(*paths, "--output-dir", tmp_path / "results")
    assert len(caught.value.problems) == 1
    assert [word for word in (f"--predictions {paths[0]}", *words) if word not in str(caught.value)] == []
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("name", ["absent.json", "."])
def test_absent_predictions_are_an_error_that_names_them(files, tmp_path, name):
    _, data = files()
    with pytest.raises(InputError, match=r"--predictions .*cannot be read \(") as caught:
        evaluate(tmp_path / name, data)
    assert str(tmp_path / name) in str(caught.value)


def test_each_prediction_that_is_no_text_is_named(files):
    predictions, data = files({**ANSWERS, "q1": None, "q3": 7})
    with pytest.raises(InputError) as caught:
        evaluate(predictions, data)
    assert [problem.partition(": ")[2].split(";")[0] for problem in caught.value.problems] == [
        "the prediction for id 'q1' is None",
        "the prediction for id 'q3' is 7",
    ]


# --- questions without an answer in the file, and answers without a question ---


def test_a_missing_id_counts_as_wrong_and_extra_ids_are_said(files, capsys):
    predictions, data = files({"q1": "The Normans", "q3": "England", "else": "x", "more": ""}, ["q1", "q2", "q3"])
    assert evaluate(predictions, data) == 0
    out = capsys.readouterr().out
    assert printed(out) == {"exact_match": "66.6667", "f1": "66.6667"}
    assert f"no answer for 1 of the 3 questions of {data}; it counts as wrong; the first: q2\n" in out
    assert f"2 answers to no question of {data} are left out; the first: else, more\n" in out


def test_a_missing_id_is_wrong_where_there_is_no_answer_too(files, capsys):
    predictions, data = files({"q1": "The Normans"})
    assert evaluate(predictions, data) == 0
    out = capsys.readouterr().out
    assert (printed(out)["exact"], printed(out)["NoAns_exact"], printed(out)["total"]) == ("25.0000", "0.0000", "4")
    assert "no answer for 3 of the 4 questions" in out
    assert "they count as wrong; the first: q2, q3, q4\n" in out


@pytest.mark.parametrize("threshold_helps", [False, True])
def test_no_threshold_makes_a_missing_answer_right(files, tmp_path, threshold_helps):
    predictions, data = files({"q1": "The Normans", "q2": "wrong"})
    odds = {"q1": -5.0, "q2": -4.0 if threshold_helps else -6.0, "q4": 9.0}
    (tmp_path / "odds.json").write_text(json.dumps(odds))
    found = score_file(predictions, str(data), null_odds=tmp_path / "odds.json")
    assert (found.metrics["exact"], found.metrics["best_exact"]) == (25.0, 25.0)
    assert set(found.null_odds) == {"q1", "q2"}


def test_files_that_share_no_id_get_no_score(files, tmp_path):
    """An EM of 0 would be read as one; ids that rows lack are made of what is read, answers among it."""
    expected = r"none of its 1 answer is to a question of .*: their ids differ \('1' there, 'q1' here\); name the data"
    with pytest.raises(InputError, match=expected):
        evaluate(*files({"1": "Normans"}))
    assert evaluate(*files({})) == 0  # no answer at all
    expected = r"is to the first 2 questions of .*; leave --max_examples out, or name the data"
    with pytest.raises(InputError, match=expected):  # the later part of the answers
        evaluate(*files({"q4": "x"}), "--max_examples", "2")
    table, told = tmp_path / "gold.csv", tmp_path / "answers.jsonl"
    table.write_text("question,context,label\nWho ?,Anna lives in Rome .,Anna\n")
    told.write_text(json.dumps({"id": "not made so", "answer": "Anna"}) + "\n")
    with pytest.raises(
        InputError, match=r"give the rows ids, or name the columns of answers \(--columns.answer_text\)"
    ):
        commands.evaluate(["--predictions", str(told), "--data", str(table), "--columns.answer_text", "label"])


def test_answers_to_other_questions_are_told(files, capsys):
    assert evaluate(*files({"q1": "Normans", "1": "x"})) == 0
    out = capsys.readouterr().out
    assert "they count as wrong; the first: q2, q3, q4" in out
    assert "1 answer to no question of" in out
    assert "is left out; the first: 1" in out


def test_ids_that_fit_are_not_talked_about(files, capsys):
    predictions, data = files({key: ANSWERS[key] for key in GOLDS})
    assert evaluate(predictions, data) == 0
    assert evaluate(predictions, data, "--max_examples", 2) == 0
    assert "note:" not in capsys.readouterr().out


# --- data that scores in spite of its offsets ---


@pytest.fixture
def misplaced(tmp_path):
    """Questions whose answers have wrong or no offsets, in SQuAD's layout; the second row has one of two wrong."""
    qas = [
        {"id": "a", "question": "Who?", "answers": [{"text": "Marta", "answer_start": 3}]},
        {
            **{"id": "b", "question": "Where?"},
            "answers": [{"text": "Porto", "answer_start": "15"}, {"text": "in Portugal", "answer_start": -1}],
        },
        {"id": "c", "question": "Since when?", "answers": [{"text": "1999"}]},
    ]
    path = tmp_path / "misplaced.json"
    content = {"data": [{"title": "t", "paragraphs": [{"context": "Marta lives in Porto .", "qas": qas}]}]}
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("on_bad_rows", [None, "skip", "repair", "repair_or_skip"])
def test_answers_with_wrong_offsets_are_scored_and_said_once(misplaced, tmp_path, capsys, on_bad_rows):
    (tmp_path / "predictions.json").write_text(json.dumps({"a": "Marta", "b": "in Portugal", "c": "1999"}))
    flags = ["--on_bad_rows", on_bad_rows] if on_bad_rows else []
    assert evaluate(tmp_path / "predictions.json", misplaced, *flags) == 0
    out = capsys.readouterr().out
    assert printed(out) == {"exact_match": "100.0000", "f1": "100.0000"}
    repairs = on_bad_rows in ("repair", "repair_or_skip")
    assert out.count("not at their answer_start; they count all the same") == 1
    assert ("2 gold answers are" if repairs else "3 gold answers are") in out
    assert ("repaired 1 answer, the first: " in out) == repairs


def test_a_model_is_scored_on_answers_with_wrong_offsets(misplaced, model_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("QA_LIGHTNING_CACHE", str(tmp_path / "cache"))
    lengths = ["--max_length", "48", "--data.doc_stride", "12", "--max_question_length", "12"]
    command = ["--model", model_folder, "--data", str(misplaced), *lengths, "--model.max_answer_length", "1"]
    assert commands.evaluate([*command, "--output_dir", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert out.count("3 gold answers are not at their answer_start") == 1
    answers = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert set(answers) == {"a", "b", "c"}
    assert all(len(text.split()) <= 1 for text in answers.values())
    assert evaluate(tmp_path / "out" / "predictions.json", misplaced) == 0
    again = printed(capsys.readouterr().out)
    assert printed(out).items() >= again.items()


@pytest.mark.parametrize("version_2", [False, True])
def test_a_model_that_may_say_no_answer_is_said_to_be_scored_as_one_that_answers(
    model_folder, tmp_path, capsys, version_2
):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    save_settings(AnswerSettings(48, 12, 12, version_2=version_2), folder)
    data = write_json(tmp_path / "data.json", make_rows(6))
    assert commands.evaluate(["--model", str(folder), "--data", data]) == 0
    note = "every question of {} has an answer, so that {} is scored as a model that always answers"
    assert (note.format(data, folder) in capsys.readouterr().out) == version_2


def test_a_length_that_the_model_has_no_positions_for_is_refused(misplaced, model_folder):
    with pytest.raises(InputError, match=r"--max_length 100000: the model has \d+ positions"):
        commands.evaluate(["--model", model_folder, "--data", str(misplaced), "--max_length", "100000"])


def test_rows_that_cannot_be_scored_are_left_out_with_the_flag_that_the_error_names(files, capsys):
    predictions, data = files()
    rows = json.loads(data.read_text())
    data.write_text(json.dumps([*rows, {**rows[0], "id": "bad", "question": ""}]))
    with pytest.raises(InputError, match=r"--on_bad_rows skip") as caught:
        evaluate(predictions, data)
    assert "--data.on_bad_rows" not in str(caught.value)
    assert "repair" not in str(caught.value)  # a wrong offset makes no row bad here
    for flag in ("--on_bad_rows", "--data.on_bad_rows", "--on-bad-rows"):
        assert evaluate(predictions, data, flag, "skip") == 0
        out = capsys.readouterr().out
        assert printed(out)["total"] == "4"
        assert "left out 1 bad row, the first: " in out


def test_what_a_model_is_run_with_goes_with_a_model(files, capsys):
    with pytest.raises(SystemExit):
        evaluate(*files(), "--doc_stride", 3, "--max_length", 9, "--dtype", "bfloat16", "--batch_size", 7)
    assert capsys.readouterr().err == (
        "error: --batch_size, --dtype, --max_length, --doc_stride: only for --model; --predictions runs no model\n"
    )


def test_no_more_than_five_missing_ids_are_listed(tmp_path, capsys):
    rows = [
        {"id": f"n{number}", "question": "?", "context": "x", "answers": [{"text": "x", "answer_start": 0}]}
        for number in range(1200)
    ]
    (tmp_path / "questions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "predictions.json").write_text("{}")
    assert evaluate(tmp_path / "predictions.json", tmp_path / "questions.jsonl") == 0
    assert "no answer for 1,200 of the 1,200 questions of" in (out := capsys.readouterr().out)
    assert "the first: n0, n1, n2, n3, n4\n" in out


def test_predictions_with_a_byte_order_mark_are_read_as_data_files_are(files):
    paths = files(b"\xef\xbb\xbf" + json.dumps(ANSWERS).encode())
    assert score_file(paths[0], str(paths[1])).metrics == pytest.approx(V20, rel=0, abs=1e-9)


@pytest.mark.parametrize("number", ["0", "-1"])
def test_a_number_of_questions_below_one_is_refused(files, number, capsys):
    with pytest.raises((InputError, SystemExit)) as caught:
        evaluate(*files(), "--max-examples", number)
    assert "--max_examples" in str(caught.value) + capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--data", "x.json"], "give either --model or --predictions"),
        (["--predictions", "x.json"], "--data: required"),
        (["--predictions", "x.json", "--model", "m", "--data", "x.json"], "give either --model or --predictions"),
    ],
)
def test_flags_that_do_not_fit_together_end_with_status_2(args, words, capsys):
    with pytest.raises(SystemExit) as caught:
        commands.evaluate(args)
    assert caught.value.code == 2
    assert words in capsys.readouterr().err


# --- the comparison with the published scorer ---


class Scorer:
    """A stand-in for the scorer that ``evaluate.load`` downloads: keeps its arguments, returns the given scores."""

    def __init__(self, scores):
        self.scores = scores

    def compute(self, predictions, references):
        self.given = predictions, references
        return self.scores


@pytest.fixture
def official(monkeypatch):
    """A function that makes ``evaluate.load`` return a scorer or raise an error; it returns the names asked for."""

    def answer(with_what):
        asked = []

        def load(name):
            asked.append(name)
            if isinstance(with_what, Exception):
                raise with_what
            return with_what

        monkeypatch.setattr("evaluate.load", load)
        return asked

    return answer


@pytest.mark.parametrize(
    ("questions", "scores", "name", "extra"),
    [
        (["q1", "q2", "q3"], V11, "squad", {}),
        (["q1", "q2", "q3", "q4"], {**V20, "best_exact": 1.0}, "squad_v2", {"no_answer_probability": 0.0}),
    ],
)
def test_official_asks_the_published_scorer_about_the_same_answers(
    files, official, capsys, questions, scores, name, extra
):
    scorer = Scorer(scores)
    asked = official(scorer)
    assert evaluate(*files(questions=questions), "--official") == 0
    assert asked == [name]
    predictions, references = scorer.given
    assert predictions == [{"id": key, "prediction_text": ANSWERS[key], **extra} for key in questions]
    assert [(item["id"], item["answers"]["text"]) for item in references] == [(key, GOLDS[key]) for key in questions]
    assert all(set(item["answers"]) == {"text", "answer_start"} for item in references)
    assert f"evaluate.load('{name}') agrees on exact" in capsys.readouterr().out


@pytest.mark.parametrize("version_2", [False, True])
def test_official_is_asked_about_missing_answers_as_wrong_ones(files, official, version_2):
    questions = ["q1", "q2", "q4"] if version_2 else ["q1", "q2"]
    predictions, data = files({"q1": "Normans"}, questions)
    scorer = Scorer({})
    official(scorer)
    compare_with_official(score_file(predictions, str(data)))
    texts = {one["id"]: one["prediction_text"] for one in scorer.given[0]}
    assert list(texts) == questions
    metric = SquadMetric(version_2)
    metric.update([{"id": key, "prediction_text": text} for key, text in texts.items()], scorer.given[1])
    assert metric.compute() == score_file(predictions, str(data)).metrics


class Published(Scorer):
    """A stand-in that scores, and takes what the published scorer of that name takes."""

    def __init__(self, name):
        self.compute = {"squad": self._squad, "squad_v2": self._squad_v2}[name]

    def _squad(self, predictions, references):
        metric = SquadMetric()
        metric.update(predictions, references)
        return metric.compute()

    def _squad_v2(self, predictions, references, no_answer_threshold=1.0):
        texts, golds = [one["prediction_text"] for one in predictions], [one["answers"]["text"] for one in references]
        scores = [answer_scores(text, gold, Scoring(version_2=True)) for text, gold in zip(texts, golds, strict=True)]
        return squad_v2_metrics(
            *zip(*scores, strict=True),
            [bool(gold) for gold in golds],
            [one["no_answer_probability"] for one in predictions],
            no_answer_threshold,
            [not text for text in texts],
        )


@pytest.mark.parametrize(
    ("name", "threshold"), [("squad", 0.0), ("squad_v2", 0.0), ("squad_v2", -1000.0), ("squad_v2", 1000.0)]
)
def test_official_agrees_about_the_answers_of_a_model(model_folder, tmp_path, official, name, threshold):
    folder, version_2 = shutil.copytree(model_folder, tmp_path / "model"), name == "squad_v2"
    save_settings(AnswerSettings(48, 12, 12, version_2=version_2, null_score_diff_threshold=threshold), folder)
    context = CONTEXT + " A."
    golds = [*GOLDS.values(), ["A"], ["The", "."]][: None if version_2 else 3]  # the last two normalise to nothing
    answers = [{"text": gold, "answer_start": [context.index(text) for text in gold]} for gold in golds]
    rows = [
        {"id": f"q{number}", "question": "What?", "context": context, "answers": each}
        for number, each in enumerate(answers)
    ]
    data = tmp_path / "data.json"
    data.write_text(json.dumps(rows))
    assert official(Published(name)) == []
    assert commands.evaluate(["--model", str(folder), "--data", str(data), "--official"]) == 0


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        ({**V11, "f1": V11["f1"] + 2e-6}, ["f1: here 55.5", "there 55.5"]),
        ({**V11, "exact_match": 0.0, "f1": 0.0}, ["exact_match: here 33.3", "; f1: here 55.5", "there 0.0"]),
        pytest.param({**V11, "f1": float("nan")}, ["f1: here 55.5", "there nan"]),
        pytest.param({"exact_match": V11["exact_match"]}, ["f1: here 55.5", "there nothing"]),
    ],
    ids=["a little", "both", "nan", "absent"],
)
def test_official_that_disagrees_is_status_1_and_shows_both_values(files, official, capsys, scores, words):
    official(Scorer(scores))
    assert evaluate(*files(questions=["q1", "q2", "q3"]), "--official") == 1
    lines = capsys.readouterr().out
    assert [word for word in ("DISAGREES", *words) if word not in lines] == []
    assert "agrees on" not in lines


def test_official_within_rounding_agrees(files, official):
    official(Scorer({key: value + 1e-9 for key, value in V11.items()}))
    predictions, data = files(questions=["q1", "q2", "q3"])
    result = score_file(predictions, str(data))
    assert compare_with_official(result) == 0
    assert compare_with_official(result, tolerance=1e-10) == 1


@pytest.mark.parametrize("error", [ConnectionError("offline"), FileNotFoundError("no script"), RuntimeError("odd")])
def test_official_out_of_reach_is_said_and_is_no_agreement(files, official, capsys, error):
    official(error)
    assert evaluate(*files(), "--official") == 1
    out = capsys.readouterr().out
    assert f"evaluate.load('squad_v2') cannot be reached ({type(error).__name__}); nothing compared" in out
    assert printed(out)["exact"] == "50.0000"


def test_the_published_scorer_is_not_asked_for_unasked(files, official):
    asked = official(RuntimeError("asked for"))
    assert evaluate(*files()) == 0
    assert asked == []


# --- the exit status ---


def raising(error):
    def command():
        raise error

    return command


@pytest.mark.parametrize(
    ("command", "status", "message"),
    [
        (lambda: 0, 0, ""),
        (lambda: 1, 1, ""),
        (raising(InputError("x.json: no such file")), 2, "error: x.json: no such file\n"),
        (raising(InputError(["2 problems:", "first", "second"])), 2, "error: 2 problems:\nfirst\nsecond\n"),
        (raising(KeyboardInterrupt()), 130, ""),
    ],
    ids=["good", "disagrees", "input", "inputs", "interrupted"],
)
def test_a_command_ends_with_its_status_and_bad_input_with_one_message(command, status, message, capsys):
    with pytest.raises(SystemExit) as caught:
        commands.run_command(command)
    assert caught.value.code == status
    assert capsys.readouterr() == ("", message)


def test_a_diverged_training_ends_with_status_3_and_the_flag_to_lower(capsys):
    with pytest.raises(SystemExit) as caught:
        commands.run_command(raising(DivergedError("the loss is nan at step 7")))
    assert caught.value.code == 3
    assert capsys.readouterr().err.startswith("error: the loss is nan at step 7; lower --model.learning_rate")


def test_an_error_of_the_program_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        commands.run_command(lambda: 1 // 0)


def test_bad_input_to_the_command_line_is_one_message_without_a_traceback(files, monkeypatch, capsys):
    predictions, data = files(b"{")
    monkeypatch.setattr(sys, "argv", ["evaluate.py", "--predictions", str(predictions), "--data", str(data)])
    with pytest.raises(SystemExit) as caught:
        commands.run("evaluate")
    out, err = capsys.readouterr()
    assert (caught.value.code, out) == (2, "")
    assert err.startswith(f"error: --predictions {predictions}: cannot be read as JSON")
    assert err.count("error: ") == 1
    assert "Traceback" not in err


@pytest.mark.slow
def test_the_script_scores_a_file_in_a_process_of_its_own(files, tmp_path):
    predictions, data = files()
    flags = ["--predictions", predictions.name, "--data", data.name, "--output-dir", "results"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "evaluate.py"), *flags],
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert printed(done.stdout) == {
        key: f"{value:,}" if key.endswith("total") else f"{value:.4f}" for key, value in V20.items()
    }
    assert done.stdout.endswith("written to results: metrics.json, predictions.json\n")
    assert json.loads((tmp_path / "results" / "metrics.json").read_text()) == pytest.approx(V20, rel=0, abs=1e-9)


def test_columns_of_a_table_can_be_named(tmp_path, capsys) -> None:
    """By the flags of this command, and by those of training, which error messages name."""
    table = tmp_path / "questions.csv"
    table.write_text("id,frage,query,text,answer\n1,Who ?,x,Ben lives .,Ben\n", encoding="utf-8")
    predictions = tmp_path / "predictions.json"
    predictions.write_text('{"1": "Ben"}')
    given = ["--predictions", str(predictions), "--data", str(table)]
    for flag in ("--columns.question", "--data.columns.question"):
        assert commands.evaluate([*given, flag, "frage"]) == 0
        assert "exact_match    100.0000" in capsys.readouterr().out


def test_a_model_without_a_trained_head_is_not_scored(tmp_path, tokenizer) -> None:
    folder = tmp_path / "encoder"
    BertModel(small_config(len(tokenizer))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    data = write_json(tmp_path / "data.json", make_rows(3))
    with pytest.raises(InputError, match="no trained question answering head"):
        score_model(str(folder), data)


def test_a_model_is_scored_in_half_precision_if_asked(model_folder, tmp_path) -> None:
    data = write_json(tmp_path / "data.json", make_rows(24, long=2))
    exact, half = (score_model(model_folder, data, dtype=dtype) for dtype in ("float32", "bfloat16"))
    scores = [np.array([answers[0]["probability"] for answers in result.n_best.values()]) for result in (exact, half)]
    assert not np.array_equal(*scores)
    np.testing.assert_allclose(*scores, atol=0.02)
    assert half.metrics["f1"] == pytest.approx(score_model(model_folder, data, 7, dtype="bfloat16").metrics["f1"])
    with pytest.raises(InputError, match="--dtype is 'half'; it must be one of float32, bfloat16 or float16"):
        score_model(model_folder, data, dtype="half")


def test_half_precision_is_that_of_predict(tmp_path, monkeypatch) -> None:
    """The frequencies of rotary embeddings stay in float32 there."""
    folder, seen = save(FAMILIES["modernbert"], tmp_path / "model"), []
    rows = make_rows(8, long=2)
    data = write_json(tmp_path / "data.json", rows)
    validated = scoring._validated
    monkeypatch.setattr(scoring, "_validated", lambda *given: seen.append(validated(*given)) or seen[0])
    scored = score_model(folder, data, dtype="bfloat16")
    kinds = {name: buffer.dtype for name, buffer in seen[0].model.named_buffers() if "inv_freq" in name}
    assert kinds
    assert set(kinds.values()) == {torch.float32}
    assert {parameter.dtype for parameter in seen[0].model.parameters()} == {torch.bfloat16}
    reader = Reader.from_pretrained(folder, dtype=torch.bfloat16)
    for row in rows:
        (best, *_), (answer,) = scored.n_best[row["id"]], reader.answer([row["question"]], [row["context"]])
        assert best["probability"] == pytest.approx(answer.score, abs=1e-3)


def test_nothing_that_is_read_is_replaced(files, tmp_path, capsys, monkeypatch):
    predictions, data = files()
    before = predictions.read_bytes()
    monkeypatch.setattr("qa_lightning.evaluation.file.score_file", None)  # not reached
    with pytest.raises(SystemExit):
        evaluate(predictions, data, "--output_dir", tmp_path)
    told = f"--output_dir {tmp_path}: predictions.json in it is what --predictions reads, and would be replaced"
    assert told in capsys.readouterr().err
    assert predictions.read_bytes() == before


def test_memory_that_runs_out_is_one_line(model_folder, tmp_path, monkeypatch) -> None:
    def full(*_, **__) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Trainer, "validate", full)
    data = write_json(tmp_path / "dev.json", make_rows(4))
    words = r"^--model .*: out of memory with --batch_size 32; pass --batch_size 16 or another --dtype, or a device"
    with pytest.raises(InputError, match=words):
        commands.evaluate(["--model", model_folder, "--data", data, "--batch_size", "32"])
