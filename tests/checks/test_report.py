"""The report: on a terminal, as JSON, as the command's exit status, and as lines before a training run."""

from __future__ import annotations

import io
import json
import os
import re

import pytest
from datasets import Dataset, DatasetDict
from rich.console import Console

from qa_lightning import SquadDataModule
from qa_lightning.checks.bad_rows import Report, RowCheck
from qa_lightning.checks.report import check_prepared, check_source, print_report, short_lines
from qa_lightning.data.columns import Columns, ReadSettings
from qa_lightning.errors import InputError
from qa_lightning.models.loading import load_tokenizer
from tests.helpers import commands
from tests.helpers.checks import SETTINGS, answers, row
from tests.helpers.data import make_rows, write_json


def test_data_that_is_right_has_no_findings(tmp_path, model_folder) -> None:
    path = write_json(tmp_path / "data.json", make_rows(4, unanswerable=1)[1:])  # these rows have no unknown word
    report = check_source(path, tokenizer=load_tokenizer(model_folder), settings=SETTINGS)
    assert report.findings == []
    assert report.facts["rows"] == 3
    assert report.facts["unanswerable"] == 1
    assert report.facts["scripts"] == {"Latin": 3}
    assert report.facts["ceiling"] == {"exact_match": 100.0, "f1": 100.0}


def test_a_report_survives_json_and_is_shown_with_counts_first(tmp_path, model_folder) -> None:
    path = write_json(tmp_path / "data.json", [*make_rows(3), row(1, id="x", question="[bold]"), row(2, question="")])
    report = check_source(path, tokenizer=load_tokenizer(model_folder), settings=SETTINGS)
    assert Report.of_json(json.loads(json.dumps(report.as_json()))) == report
    output = io.StringIO()
    print_report(report, Console(file=output, width=200))
    lines = output.getvalue().splitlines()
    assert lines[1].startswith("questions")
    assert lines[1].split()[1] == "5"
    printed = output.getvalue()
    assert printed.index("count") < printed.index("empty or null fields: the row")
    assert str(path) in printed


@pytest.mark.parametrize(("count", "words"), [(1, "the row"), (3, "all 3"), (4, "the first 3 of 4")])
def test_the_listed_rows_are_counted(tmp_path, count, words) -> None:
    rows = [*make_rows(2), *(row(2, id=f"bad{number}", question="") for number in range(count))]
    output = io.StringIO()
    print_report(check_source(write_json(tmp_path / "data.json", rows), max_rows=3), Console(file=output, width=200))
    assert f"empty or null fields: {words}\n" in re.sub(r" +\n", "\n", output.getvalue())


def test_the_command_prints_writes_and_tells_by_its_status(tmp_path, model_folder, capsys) -> None:
    sizes = ["--max-length", "48", "--doc-stride", "12", "--max-question-length", "12"]
    bad = write_json(tmp_path / "bad.json", [row(0), row(1, answers=answers("Rome", 0))])
    target = tmp_path / "report.json"
    assert commands.check_data([bad, "--model", model_folder, *sizes, "--json", str(target)]) == 1
    assert "answers that are not at their answer_start" in capsys.readouterr().out
    assert json.loads(target.read_text())["findings"][0]["kind"] == "misplaced"
    assert commands.check_data([write_json(tmp_path / "good.json", make_rows(3))]) == 0
    assert "nothing was found that is wrong" in capsys.readouterr().out
    with pytest.raises(InputError, match="no such file"):
        commands.check_data([str(tmp_path / "none.json")])


def test_a_report_says_why_tokens_were_not_checked(tmp_path, model_folder, capsys) -> None:
    bad, target = write_json(tmp_path / "bad.json", [row(0, question=""), row(1, context="")]), tmp_path / "report.json"
    for flags, reason in (
        (["--model", model_folder], "no row is without an error"),
        ([], "name a model with --model"),
    ):
        assert commands.check_data([bad, *flags, "--json", str(target)]) == 1
        assert f"not checked; {reason}" in " ".join(capsys.readouterr().out.split())
        assert json.loads(target.read_text())["facts"]["tokens_unchecked"] == reason
    good = write_json(tmp_path / "good.json", make_rows(3))
    assert "tokens_unchecked" not in check_source(good, tokenizer=load_tokenizer(model_folder)).facts


def divided(path, train, validation) -> str:
    """A file with two splits."""
    path.write_text(json.dumps({"train": train, "validation": validation}))
    return str(path)


@pytest.mark.parametrize("how", ["a file of splits", "a file for validation", "a saved folder"])
def test_the_validation_part_is_checked_too(tmp_path, capsys, how) -> None:
    good, bad = make_rows(3), [row(5), row(6, answers=answers("Rome", 0)), row(5)]
    flags = []
    if how == "a saved folder":
        data, place = str(tmp_path / "saved"), "saved [validation] row"
        DatasetDict(train=Dataset.from_list(good), validation=Dataset.from_list(bad)).save_to_disk(data)
    elif how == "a file of splits":
        data, place = divided(tmp_path / "q.json", good, bad), "q.json [validation] row"
    else:
        data, place = write_json(tmp_path / "train.json", good), "other.json row"
        flags = ["--validation", write_json(tmp_path / "other.json", bad)]
    target = tmp_path / "report.json"
    assert commands.check_data([data, *flags, "--json", str(target)]) == 1
    report = Report.of_json(json.loads(target.read_text()))
    assert {one.kind: one.rows[0]["place"].rpartition("/")[2] for one in report.findings} == {
        "misplaced": f"{place} 2",
        "duplicate_id": f"{place} 3",
    }
    assert (report.facts["rows"], report.facts["validation"]["rows"]) == (3, 3)
    assert re.search(r"to validate on +3 about 2 contexts", capsys.readouterr().out)
    # those of training come first, and no more are listed than were asked for
    both = check_source(divided(tmp_path / "b.json", bad, bad), max_rows=1)
    (misplaced,) = [one for one in both.findings if one.kind == "misplaced"]
    assert (misplaced.count, len(misplaced.rows), "[train]" in misplaced.rows[0]["place"]) == (2, 1, True)


def test_a_file_whose_name_is_not_utf_8_is_checked_and_named(tmp_path, capsys) -> None:
    path, target = tmp_path / os.fsdecode(b"caf\xe9.jsonl"), tmp_path / "report.json"
    path.write_text("".join(json.dumps(one) + "\n" for one in [*make_rows(2), row(1)]))
    assert commands.check_data([str(path), "--json", str(target)]) == 1
    assert r"caf\udce9.jsonl" in "".join(capsys.readouterr().out.split("\n"))
    report = json.loads(target.read_text(encoding="utf-8"))
    assert report["source"] == str(path)
    assert report["findings"][0]["rows"][0]["what"] == f"is also the id of {path} line 2"


def test_named_columns_are_passed_on(tmp_path) -> None:
    (tmp_path / "data.csv").write_text("frage,text,answer\nWho ?,Ben .,Ben\n", encoding="utf-8")
    report = check_source(str(tmp_path / "data.csv"), reading=ReadSettings(Columns(question="frage")))
    assert report.findings == []
    assert "question from 'frage'" in report.facts["read"][0]
    assert commands.check_data([str(tmp_path / "data.csv"), "--columns.question", "frage"]) == 0


def test_training_begins_with_a_line_a_warning(tmp_path, model_folder, monkeypatch) -> None:
    train = write_json(tmp_path / "train.json", make_rows(12))
    validation = write_json(
        tmp_path / "validation.json",
        [row(3), {"id": "long", "question": "Who ?", "context": "Ben " * 15, "answers": answers("Ben " * 14, 0)}],
    )
    data = SquadDataModule(
        train, validation, model_folder, max_length=48, doc_stride=12, max_question_length=12, cache_dir=str(tmp_path)
    )
    data.prepare_data()
    data.setup("fit")
    lines = list(short_lines(check_prepared(data.splits(), max_answer_length=10)))
    assert any("train: validation contexts that are also trained on: 1 (the first: id q3" in line for line in lines)
    assert any("raise --model.max_answer_length; the longest has 14 tokens" in line for line in lines)
    assert (
        "validation: at best EM 100.00, F1 100.00 with this tokenizer and these windows; max_answer_length 10 costs "
        "EM 50.00, F1 8.33 of it (raise --model.max_answer_length)"
    ) in lines

    def never(self, rows):
        raise AssertionError("checked twice")

    monkeypatch.setattr(RowCheck, "valid", never)
    assert list(short_lines(check_prepared(data.splits(), max_answer_length=10))) == lines  # from the cached report
