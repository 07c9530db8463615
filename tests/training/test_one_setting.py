"""One setting reaches every score: with --mixed-script, each line of `evaluate` counts ideographs one by one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import BertForQuestionAnswering, BertTokenizer

from qa_lightning.metrics.squad import SquadMetric
from tests.helpers import commands
from tests.helpers.data import write_json
from tests.helpers.models import small_config

LETTERS = "北京是中国的首都上海在东边人口多少呢天津港"


@pytest.fixture(scope="module")
def chinese_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An untrained BERT with some ideographs in its vocabulary: its answers are arbitrary, but always the same."""
    folder = tmp_path_factory.mktemp("chinese")
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(LETTERS), "?", "。"]
    tokenizer = BertTokenizer(vocab={piece: number for number, piece in enumerate(pieces)}, model_max_length=128)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        BertForQuestionAnswering(small_config(len(tokenizer), initializer_range=1.0)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def questions(tmp_path: Path) -> str:
    """Questions about one text, every third one without an answer; each answer is a long part of the text."""
    context = "北京是中国的首都。上海在东边。天津港"
    rows = []
    for number in range(12):
        start, end = number, number + 6
        answers = {"text": [context[start:end]], "answer_start": [start]} if number % 3 else {}
        rows.append(
            {
                "id": str(number),
                "question": "首都在" + LETTERS[number] + "?",
                "context": context,
                "answers": answers or {"text": [], "answer_start": []},
            }
        )
    return write_json(tmp_path / "questions.json", rows)


@pytest.mark.parametrize("mixed", [False, True, "kana", "korquad"])
def test_every_line_of_evaluate_counts_alike(chinese_model, questions, tmp_path, capsys, mixed: bool | str) -> None:
    flags = ["--model", chinese_model, "--data", questions, "--output-dir", str(tmp_path / "out")]
    named = [mixed] if isinstance(mixed, str) else []
    assert commands.evaluate([*flags, *(["--mixed-script", *named] if mixed else [])]) == 0
    printed = json.loads((tmp_path / "out" / "metrics.json").read_text())
    best = json.loads((tmp_path / "out" / "nbest_predictions.json").read_text())
    rows = json.loads(Path(questions).read_text())
    rows = rows if isinstance(rows, list) else rows["data"]

    def f1_of(texts: dict[str, str]) -> dict[str, float]:
        metric = SquadMetric(version_2=True, mixed_script=mixed)
        metric.update(
            [{"id": key, "prediction_text": text} for key, text in texts.items()],
            [{"id": row["id"], "answers": row["answers"]} for row in rows],
        )
        return metric.compute()

    given = json.loads((tmp_path / "out" / "predictions.json").read_text())
    for name, value in f1_of(given).items():
        assert printed[name] == pytest.approx(value)
    # The best threshold answers the questions whose null odds are lowest, each with its best span.
    odds = json.loads((tmp_path / "out" / "null_odds.json").read_text())
    spans = {key: next(one["text"] for one in candidates if one["text"]) for key, candidates in best.items()}
    ranked = sorted(odds, key=odds.__getitem__)
    every = [f1_of({key: spans[key] if key in ranked[:count] else "" for key in odds})["f1"] for count in range(13)]
    assert printed["best_f1"] == pytest.approx(max(every))
    if mixed:
        assert max(every) > f1_of(dict.fromkeys(odds, ""))["f1"]  # otherwise the threshold would not matter
