"""Data as people have it: what each command says of the same file, from repair to the score."""

from __future__ import annotations

import json
import logging

import pytest

from qa_lightning import SquadDataModule
from qa_lightning.checks.report import check_source
from qa_lightning.errors import InputError
from qa_lightning.features.windows import WindowSettings
from qa_lightning.models.loading import load_tokenizer
from tests.helpers import commands
from tests.helpers.forms import as_lines, read, row
from tests.helpers.paths import SHARED, needs_data


@pytest.fixture(autouse=True)
def fresh_log(monkeypatch):
    logger = logging.getLogger("qa_lightning")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "propagate", True)


SIZES = ["--data.max_length", "48", "--data.doc_stride", "12", "--data.max_question_length", "12"]


@pytest.mark.parametrize("name", ["header.csv", "header.tsv", "header and blanks.csv", "empty list.json"])
def test_data_without_a_question_ends_every_command_alike(tmp_path, model_folder, capsys, name) -> None:
    content = {"header.tsv": "question\tcontext\tanswer\n", "empty list.json": "[]"}
    path = tmp_path / name
    path.write_text(content.get(name, "question,context,answer\n" + (" , ,\n\n" if "blanks" in name else "")))
    (tmp_path / "predictions.json").write_text("{}")
    for command in (
        lambda: commands.check_data([str(path)]),
        lambda: commands.check_data([str(path), "--model", model_folder]),
        lambda: commands.evaluate(["--predictions", str(tmp_path / "predictions.json"), "--data", str(path)]),
        lambda: commands.train(["--data.dataset", str(path), "--model.model_name", model_folder, *SIZES]),
    ):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            commands.run_command(command)
        assert ended.value.code == 2
        assert "the data has no questions" in capsys.readouterr().err


def test_offsets_in_quotes_are_numbers_in_every_format(tmp_path) -> None:
    quoted = row(answers=[{"text": "1843", "answer_start": "40"}])
    nested = {"data": [{"paragraphs": [{"context": quoted["context"], "qas": [quoted]}]}]}
    files = {
        "rows.json": json.dumps([quoted]),
        "nested.json": json.dumps(nested),
        "lines.jsonl": json.dumps(quoted),
        "table.csv": f'id,question,context,answer,start\nq1,{quoted["question"]},"{quoted["context"]}",1843,"40"\n',
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content)
        (example,) = read(tmp_path / name)
        assert example["answers"] == {"text": ["1843"], "answer_start": [40]}


MEASURES = "The road is 12\u00a0km long, the other 12 km. In 2012 it was closed by Mayor May in may."


def test_a_file_is_repaired_where_that_is_certain_and_the_rest_is_listed(tmp_path, model_folder, capsys) -> None:
    rows = [
        row(id="blank", context=MEASURES, answers=[{"text": "12 km", "answer_start": 12}]),
        row(id="case", context=MEASURES, answers=[{"text": "May", "answer_start": 79}]),
        row(id="word", context=MEASURES, answers=[{"text": "may", "answer_start": -2}]),
        row(id="part", context=MEASURES, answers=[{"text": "ayor", "answer_start": 0}]),
        row(
            id="two",
            context=MEASURES,
            answers=[{"text": "road", "answer_start": 4}, {"text": "Rome", "answer_start": 4}],
        ),
    ]
    path = tmp_path / "data.jsonl"
    path.write_bytes(as_lines(rows))
    assert commands.check_data([str(path)]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "5 about 1 context; 1 answer" in out
    assert "bad answers of questions that have others; they are left out" in out
    examples, skipped, repairs, left_out = read(path, "repair_or_skip")
    assert [(one["id"], one["answers"]["text"], one["answers"]["answer_start"]) for one in examples] == [
        ("blank", ["12\u00a0km"], [12]),
        ("case", ["may"], [79]),
        ("word", ["may"], [79]),
        ("two", ["road"], [4]),
    ]
    assert [line.split(" (id ")[1].split(")")[0] for line in (*repairs, *skipped, *left_out)] == [
        *("blank", "case", "word"),
        "part",
        "two",
    ]
    data = SquadDataModule(
        str(path), str(path), model_folder, 48, 12, 12, on_bad_rows="repair_or_skip", cache_dir=str(tmp_path)
    )
    data.prepare_data()
    data.setup("fit")
    assert data.train_set.examples["id"][:] == ["blank", "case", "word", "two"]


def test_contexts_are_counted_over_all_rows(tmp_path) -> None:
    rows = [row(id="a"), row(id="b", context="Only here.", question=""), row(id="c", context="And here.", answers=[])]
    (tmp_path / "data.jsonl").write_bytes(as_lines(rows))
    facts = check_source(str(tmp_path / "data.jsonl")).facts
    assert (facts["rows"], facts["contexts"], facts["unanswerable"]) == (3, 3, 1)


@pytest.mark.parametrize(
    ("flags", "f1"), [([], 0.0), (["--mixed_script", "kana"], 80.0), (["--mixed_script=mlqa"], 0.0)]
)
def test_one_setting_reaches_the_scores_of_a_file_and_the_best_threshold(tmp_path, capsys, flags, f1) -> None:
    rows = [
        row(id="a", context="とてもながいはし", answers=[{"text": "ながいはし", "answer_start": 3}]),
        row(id="n", context="とてもながいはし", answers=[]),
    ]
    (tmp_path / "data.jsonl").write_bytes(as_lines(rows))
    (tmp_path / "answers.json").write_text(json.dumps({"a": "いはし", "n": "x"}))
    (tmp_path / "odds.json").write_text(json.dumps({"a": -1.0, "n": 1.0}))
    files = ["--predictions", str(tmp_path / "answers.json"), "--null_odds", str(tmp_path / "odds.json")]
    assert commands.evaluate([*files, "--data", str(tmp_path / "data.jsonl"), *flags]) == 0
    scores = dict(line.split() for line in capsys.readouterr().out.splitlines() if len(line.split()) == 2)
    expected = 75.0 if f1 == 80.0 else f1  # 3 of 5 kana
    assert float(scores["HasAns_f1"]) == expected
    assert float(scores["best_f1"]) == (expected + 100) / 2


def test_rules_that_nobody_knows_are_refused(tmp_path, capsys) -> None:
    for command, words in (
        (commands.evaluate, ["--predictions", "p", "--data", "d", "--mixed_script", "korean"]),
        (commands.check_data, ["d", "--mixed_script", "korean"]),
    ):
        with pytest.raises(SystemExit) as ended:
            command(words)
        assert ended.value.code == 2
        assert capsys.readouterr().err == "error: --mixed_script: korean is none of mlqa, kana, korquad\n"
    with pytest.raises(SystemExit):
        commands.train(["--model.mixed_script", "korean"])
    assert "--model.mixed_script" in (err := capsys.readouterr().err)
    assert len(err.splitlines()) == 1


# --- the same kinds of files, as somebody else made them ---

CASES = SHARED.parent / "cases"
needs_cases = pytest.mark.skipif(not CASES.is_dir(), reason="the folder of cases is absent")


@needs_data
@needs_cases
def test_repair_of_cases() -> None:
    for name, start in (("case-differs.json", 11), ("no-break-space.json", 6), ("start-in-quotes.json", 34)):
        ((example,), _) = read(CASES / name, "repair")
        assert example["answers"]["answer_start"] == [start]
    with pytest.raises(InputError) as caught:
        read(CASES / "inside-a-word.json", "repair")
    assert len(caught.value.problems) == 3
    assert [one["answers"]["text"] for one in read(CASES / "one-annotator-absent.json")] == [["Kofi"], ["Elena"]]
    assert [len(one["answers"]["text"]) for one in read(CASES / "no-answer-as-empty-text.jsonl")] == [1, 0, 0]


@needs_data
@needs_cases
@pytest.mark.parametrize(
    ("data", "predictions", "exact"),
    [
        ("one-annotator-absent.json", "one-annotator-absent.predictions.json", 100.0),
        ("one-id-missing.json", "one-id-missing.predictions.json", 50.0),
        ("one-annotator-absent.json", "answers-saved-again.jsonl", 100.0),
    ],
)
def test_scores_of_cases(data, predictions, exact, capsys) -> None:
    assert commands.evaluate(["--data", str(CASES / data), "--predictions", str(CASES / predictions)]) == 0
    assert f"exact_match    {exact:.4f}" in capsys.readouterr().out


@needs_cases
def test_the_other_cases(model_folder, tmp_path, capsys) -> None:
    with pytest.raises(InputError, match="the data has no questions"):
        commands.check_data([str(CASES / "header-only.csv")])
    sizes = WindowSettings(96, 20, 12)
    for length, cost in ((30, 0.0), (50, 0.0)):  # the second annotator's answer is short
        facts = check_source(
            str(CASES / "long-first-answer.json"),
            tokenizer=load_tokenizer(model_folder),
            settings=sizes,
            max_answer_length=length,
        ).facts
        assert (facts["ceiling"]["exact_match"], facts["limits"]["max_answer_length"]["exact_match"]) == (100.0, cost)
    (tmp_path / "kana.json").write_text(json.dumps({"1": "ひらがなカタカナの"}))
    flags = ["--data", str(CASES / "kana.jsonl"), "--predictions", str(tmp_path / "kana.json")]
    for more, f1 in (([], 0.0), (["--mixed_script", "kana"], 100 * 16 / 17)):
        assert commands.evaluate([*flags, *more]) == 0
        assert f"f1             {f1:.4f}" in capsys.readouterr().out
