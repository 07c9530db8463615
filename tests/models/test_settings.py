"""The ``qa_lightning`` block of a model's config.json: what cannot be right is refused by all that reads it."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qa_lightning import Reader, pipeline
from qa_lightning.errors import InputError
from qa_lightning.export.card import model_card
from qa_lightning.models.settings import AnswerSettings, setting_problems
from tests.helpers import commands
from tests.helpers.data import make_rows, write_json

GOOD = {"max_length": 48, "doc_stride": 12, "max_question_length": 12, "max_answer_length": 8, "version_2": False}
NAN, INF = float("nan"), float("inf")


def _predict_file(folder: Path) -> None:
    data = write_json(folder.parent / "rows.json", make_rows(3))
    commands.predict(["--model", str(folder), "--input", data, "--output", str(folder.parent / "answers.jsonl")])


READERS: dict[str, Callable[[Path], Any]] = {
    "Reader": lambda folder: Reader.load(str(folder)),
    "pipeline": lambda folder: pipeline(str(folder)),
    "predict one": lambda folder: commands.predict(
        ["--model", str(folder), "--question", "Who?", "--context", "Anna lives in Rome ."]
    ),
    "predict file": _predict_file,
    "evaluate": lambda folder: commands.evaluate(
        ["--model", str(folder), "--data", write_json(folder.parent / "rows.json", make_rows(3))]
    ),
    "export": lambda folder: commands.export(["--model", str(folder), "--format", "onnx"]),
    "card": lambda folder: model_card(folder, "user/name"),
}


@pytest.fixture
def saved(model_folder, tmp_path) -> Callable[[Any], Path]:
    """A copy of the small model whose config has a given block."""

    def make(block: Any) -> Path:
        folder = tmp_path / "model"
        shutil.copytree(model_folder, folder, dirs_exist_ok=True)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"qa_lightning": block}))
        return folder

    return make


@pytest.mark.parametrize("reads", READERS.values(), ids=READERS)
def test_whatever_reads_a_bad_block_names_the_file_and_every_key(saved, reads) -> None:
    folder = saved(GOOD | {"temperature": 0, "max_answer_length": -1, "null_score_diff_threshold": INF, "fitted_to": 7})
    with pytest.raises(InputError) as caught:
        reads(folder)
    assert caught.value.problems == [
        f"{folder}/config.json: qa_lightning.max_answer_length is -1; it must be at least 1",
        f"{folder}/config.json: qa_lightning.null_score_diff_threshold is inf; it must be finite",
        f"{folder}/config.json: qa_lightning.temperature is 0; it must be from 0.001 to 1000, 1 changes nothing",
        f"{folder}/config.json: qa_lightning.fitted_to is 7; it must be a text",
    ]


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ({"temperature": -1.5}, "temperature is -1.5; it must be from 0.001"),
        ({"temperature": 1e-320}, "temperature is 1e-320; it must be from 0.001"),
        ({"temperature": 1e308}, "temperature is 1e+308; it must be from 0.001"),
        ({"temperature": 10**400}, "temperature is 1"),
        ({"null_score_diff_threshold": 10**400}, "null_score_diff_threshold is 1"),
        ({"temperature": NAN}, "temperature is nan; it must be from 0.001"),
        ({"scores_at_precision": [0.9]}, "scores_at_precision is [0.9]; it must be an object of numbers"),
        (
            {"scores_at_precision": {"0.9": 1.5}},
            "scores_at_precision is {'0.9': 1.5}; it must give a score from 0 to 1",
        ),
        (
            {"scores_at_precision": {"high": 0.5}},
            "scores_at_precision is {'high': 0.5}; it must give a score",
        ),
        ({"calibrator": {"span": {"bias": 0.1}}}, "calibrator is {'span': {'bias': 0.1}}; it must give all weights"),
        ({"calibrator": 1}, "calibrator is 1; it must be an object of weights"),
        ({"temperature": INF}, "temperature is inf; it must be from 0.001"),
        ({"temperature": "1"}, "temperature is '1'; it must be a number"),
        ({"temperature": True}, "temperature is True; it must be a number"),
        ({"null_score_diff_threshold": -INF}, "null_score_diff_threshold is -inf; it must be finite"),
        ({"null_score_diff_threshold": None}, "null_score_diff_threshold is None; it must be a number"),
        ({"max_length": 48.5}, "max_length is 48.5; it must be a whole number"),
        ({"max_length": -48}, "max_length is -48; it must be at least 1"),
        ({"max_length": 129}, "max_length is 129; the model has 128 positions"),
        ({"max_question_length": 0}, "max_question_length is 0; it must be at least 1"),
        ({"doc_stride": -1}, "doc_stride is -1; it must be at least 0"),
        ({"doc_stride": 33}, "doc_stride is 33; it must be smaller than the room for context, 33 tokens"),
        ({"version_2": "false"}, "version_2 is 'false'; it must be true or false"),
        ({"version_2": 1}, "version_2 is 1; it must be true or false"),
        ({"temperatures": 2.0}, "temperatures is no setting; did you mean temperature?"),
    ],
)
def test_each_value_that_cannot_be_right_is_one_line(saved, block, words) -> None:
    folder = saved(GOOD | block)
    with pytest.raises(InputError) as caught:
        Reader.load(str(folder))
    (problem,) = caught.value.problems
    assert problem.startswith(f"{folder}/config.json: qa_lightning.{words}")


@pytest.mark.parametrize("block", [5, "settings", [1]])
def test_a_block_that_is_no_object_is_one_line(saved, block) -> None:
    with pytest.raises(InputError, match=r"config\.json: qa_lightning is .*; it must be an object of settings"):
        Reader.load(str(saved(block)))


def test_a_newer_versions_keys_are_passed_over_with_one_warning(saved, monkeypatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(logging.getLogger("qa_lightning"), "warning", said.append)
    folder = saved(GOOD | {"ensemble": 3, "reranker": "x", "temperature": 2.0})
    for reads in (Reader.load, pipeline, Reader.load):
        reads(str(folder))
    assert Reader.load(str(folder)).settings.temperature == 2.0
    (line,) = said
    assert line.startswith(f"{folder}/config.json: qa_lightning: ignored ensemble, reranker, which qa-lightning")


def test_an_older_versions_block_gets_the_defaults_for_what_it_lacks(saved) -> None:
    settings = Reader.load(str(saved({"temperature": 2.0}))).settings
    assert settings == AnswerSettings(max_length=128, doc_stride=42, temperature=2.0)
    assert Reader.load(str(saved({}))).settings == AnswerSettings(max_length=128, doc_stride=42)


def test_the_defaults_are_right_themselves() -> None:
    assert setting_problems(vars(AnswerSettings())) == []


def test_an_answer_length_beyond_any_window_costs_no_more_than_the_window(saved) -> None:
    """It is bounded where spans are decoded: unbounded, memory for 10^9 ends is asked for."""
    rows = make_rows(4, long=3)
    asked = [row["question"] for row in rows], [row["context"] for row in rows]
    longest = Reader.load(str(saved(GOOD | {"max_answer_length": 48}))).answer(*asked)
    assert Reader.load(str(saved(GOOD | {"max_answer_length": 10**9}))).answer(*asked) == longest
    ask = pipeline(str(saved(GOOD)))
    item = {"question": asked[0][0], "context": asked[1][0]}
    assert ask(item, max_answer_len=10**9) == ask(item, max_answer_len=48)
