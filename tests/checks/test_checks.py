"""The data check finds what is wrong, says where, counts it, and knows what helps."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from qa_lightning import SquadDataModule
from qa_lightning.checks.report import check_prepared, check_source, short_lines, show
from qa_lightning.checks.rows import ROW_FINDINGS, Report, RowCheck, script_of, short_hash
from qa_lightning.checks.tokens import TOKEN_FINDINGS
from qa_lightning.data.columns import Columns
from qa_lightning.errors import InputError
from qa_lightning.features.windows import WindowSettings
from qa_lightning.models.loading import load_tokenizer
from tests.helpers import commands
from tests.helpers.data import make_rows, write_json
from tests.helpers.models import small_tokenizer

SETTINGS = WindowSettings(48, 12, 12)


def row(number: int, **changes) -> dict:
    return make_rows(number + 1)[number] | changes


def found(report: Report) -> dict[str, int]:
    return {finding.kind: finding.count for finding in report.findings}


def answers(text: str, start: object) -> dict:
    return {"text": [text], "answer_start": [start]}


CASES: dict[str, list[dict]] = {
    "columns": [{"id": "q1", "question": "Who ?", "context": "Ben ."}],
    "empty": [row(1, question=" "), row(2, context=None), row(3, id="")],
    "type": [row(1, question=5), row(2, answers=answers("Paris", -1)), row(3, answers=answers("Paris", 1.5))],
    "text": [row(1, context="\ud800 x")],
    "duplicate_id": [row(1, id="q0"), row(2, id="q0")],
    "answers": [row(1, answers="Paris"), row(2, answers={"text": ["a"], "answer_start": []})],
    "misplaced": [row(1, answers=answers("Rome", 0)), row(2, answers=answers("Berlin", 0))],
    "unplaced": [row(1, answers=answers("lives", None))],
    "contradiction": [row(1, is_impossible=True), row(2, answers=None, is_impossible=False)],
    "several_places": [row(1, answers=answers("lives in", row(1)["context"].index("lives in")))],
    "asked_twice": [row(0, id="again", answers=answers("Rome", row(0)["context"].index("Rome")))],
}


@pytest.mark.parametrize("kind", CASES)
def test_each_kind_is_found_counted_and_shown_with_place_and_id(tmp_path, kind) -> None:
    rows = [row(0), *CASES[kind]]
    report = check_source(write_json(tmp_path / "data.json", rows))
    assert found(report)[kind] == len(CASES[kind])
    assert {other for other in found(report) if ROW_FINDINGS[other][0] == "error"} <= {kind}
    (finding,) = (one for one in report.findings if one.kind == kind)
    assert finding.rows[0]["place"].startswith(f"{tmp_path}/data.json row ")
    assert finding.rows[0]["id"] == str(CASES[kind][0]["id"])
    assert finding.rows[0]["what"]
    assert (report.errors > 0) == (finding.severity == "error")


def test_kinds_of_rows_are_all_tried() -> None:
    assert set(CASES) | {"leakage"} == set(ROW_FINDINGS)


def test_data_that_is_right_has_no_findings(tmp_path, model_folder) -> None:
    path = write_json(tmp_path / "data.json", make_rows(4, unanswerable=1)[1:])  # their numbers are known words
    report = check_source(path, tokenizer=load_tokenizer(model_folder), settings=SETTINGS)
    assert report.findings == []
    assert report.facts["rows"] == 3
    assert report.facts["unanswerable"] == 1
    assert report.facts["scripts"] == {"Latin": 3}
    assert report.facts["ceiling"] == {"exact_match": 100.0, "f1": 100.0}


def test_contexts_on_both_sides_are_counted_once_each(tmp_path) -> None:
    train = write_json(tmp_path / "train.json", [*make_rows(4), row(1, id="another", question="Where ?")])
    validation = write_json(tmp_path / "validation.json", [row(1, id="v1"), row(3, id="v3")])
    report = check_source(train, validation)
    assert found(report) == {"leakage": 2}
    assert [one["id"] for one in report.findings[0].rows] == ["q1", "q3"]


def test_what_a_tokenizer_does_is_counted_from_the_windows(tmp_path, model_folder) -> None:
    filler = "The baker works at the city . " * 20
    long = f"{filler}Anna lives in Paris . {filler}"
    rows = [
        row(1),
        {"id": "cut", "question": "Who " * 30, "context": "Ben .", "answers": answers("Ben", 0)},
        {"id": "unknown", "question": "Who ?", "context": "Ben \u2603 .", "answers": answers("Ben", 0)},
        {"id": "part", "question": "Who ?", "context": "the bakers .", "answers": answers("bak", 4)},
        {"id": "longest", "question": "Who ?", "context": long, "answers": answers(long[90:150], 90)},
        {"id": "unheld", "question": "Who ?", "context": long, "answers": answers(long[3:480], 3)},
    ]
    path = write_json(tmp_path / "data.json", rows)
    report = check_source(path, tokenizer=load_tokenizer(model_folder), settings=SETTINGS, max_answer_length=10)
    by_kind = {finding.kind: finding for finding in report.findings}
    for kind, name in (
        ("cut_question", "cut"),
        ("unknown", "unknown"),
        ("long_answer", "longest"),
        ("unheld", "unheld"),
    ):
        assert by_kind[kind].count == 1, kind
        assert by_kind[kind].rows[0]["id"] == name
        assert by_kind[kind].rows[0]["place"].startswith(f"{tmp_path}/data.json row ")
    assert "--data.max_question_length; the longest has 30 tokens" in by_kind["cut_question"].cure
    assert report.facts["unknown"] == {"\u2603": 1}
    assert set(by_kind) <= set(TOKEN_FINDINGS) | set(ROW_FINDINGS)
    tokenizer = small_tokenizer()
    lengths = [len(tokenizer(one["context"], add_special_tokens=False)["input_ids"]) for one in rows]
    assert report.facts["tokens"]["context"]["max"] == max(lengths)
    assert report.facts["tokens"]["context"]["min"] == min(lengths)
    assert report.facts["ceiling"]["exact_match"] == 50.0  # not the long, the unheld and the part of a token


@pytest.mark.parametrize(("longest", "findings", "f1"), [(3, {}, 100.0), (2, {"long_answer": 1}, 0.0)])
def test_an_answer_of_exactly_the_longest_length_can_be_given(tmp_path, model_folder, longest, findings, f1) -> None:
    context = "Ben lives at the city ."
    rows = [{"id": "a", "question": "Who ?", "context": context, "answers": answers("at the city", 10)}]
    report = check_source(
        write_json(tmp_path / "data.json", rows),
        tokenizer=load_tokenizer(model_folder),
        settings=SETTINGS,
        max_answer_length=longest,
    )
    assert found(report) == findings
    assert report.facts["tokens"]["answer"]["max"] == 3
    assert report.facts["ceiling"]["f1"] == f1


def test_texts_are_told_apart_that_are_the_same_end_to_end(tmp_path) -> None:
    """Question and context, and one answer and the next."""
    rows = [
        {"id": "1", "question": "ab", "context": "c d ab c a bc", "answers": answers("d", 2)},
        {"id": "2", "question": "a", "context": "bc d ab c a bc", "answers": answers("bc", 0)},
        {"id": "3", "question": "Who", "context": "c ab", "answers": {"text": ["ab", "c"], "answer_start": [2, 0]}},
        {"id": "4", "question": "Who", "context": "c ab", "answers": {"text": ["a", "b"], "answer_start": [2, 3]}},
        {"id": "5", "question": "Where", "context": "x a bc", "answers": {"text": ["a", "bc"], "answer_start": [2, 4]}},
        {"id": "6", "question": "Where", "context": "x a bc", "answers": {"text": ["a bc"], "answer_start": [2]}},
    ]
    report = check_source(write_json(tmp_path / "data.json", rows))
    (finding,) = (one for one in report.findings if one.kind == "asked_twice")
    assert [one["id"] for one in finding.rows] == ["4", "6"]
    assert len({short_hash(*texts) for texts in (("ab", "c"), ("a", "bc"), ("abc",), ("", "abc"), ("abc", ""))}) == 5


def test_answers_that_end_within_a_token_lower_the_ceiling(tmp_path, tokenizer, model_folder) -> None:
    context = "Ben lives at the city ."
    rows = [{"id": "a", "question": "Who ?", "context": context, "answers": answers("cit", context.index("city"))}]
    report = check_source(
        write_json(tmp_path / "data.json", rows), tokenizer=load_tokenizer(model_folder), settings=SETTINGS
    )
    assert found(report) == {"altered": 1}
    assert report.findings[0].rows[0]["what"] == "'cit' comes back as 'city'"
    assert report.facts["ceiling"] == {"exact_match": 0.0, "f1": 0.0}


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("The baker", "Latin"),
        ("Пекарь живёт", "Cyrillic"),
        ("面包师住在", "CJK"),
        ("يعيش الخباز", "Arabic"),
        ("ช่างทำขนมปัง", "Thai"),
        ("12 . !", "none"),
    ],
)
def test_scripts_are_told_by_most_letters(text, script) -> None:
    assert script_of(text) == script


def test_languages_are_guessed_on_a_sample(tmp_path) -> None:
    german = "Der Bäcker wohnt in Wien und arbeitet jeden Tag in der kleinen Bäckerei an der Ecke."
    spanish = "El panadero vive en Madrid y trabaja todos los días en la pequeña panadería de la esquina."
    rows = [
        {"id": str(number), "question": "?", "context": f"{text} {number}", "answers": None}
        for number, text in enumerate([german] * 3 + [spanish] * 2)
    ]
    assert check_source(write_json(tmp_path / "data.json", rows)).facts["languages"] == {"de": 3, "es": 2}


def test_rows_that_are_listed_are_few_and_counts_are_whole(tmp_path) -> None:
    rows = [row(0, id=f"r{number}", question="") for number in range(20)]
    report = check_source(write_json(tmp_path / "data.json", rows), most=3)
    assert report.findings[0].count == 20
    assert len(report.findings[0].rows) == 3


def test_a_report_survives_json_and_is_shown_with_counts_first(tmp_path, model_folder) -> None:
    path = write_json(tmp_path / "data.json", [*make_rows(3), row(1, id="x", question="[bold]"), row(2, question="")])
    report = check_source(path, tokenizer=load_tokenizer(model_folder), settings=SETTINGS)
    assert Report.of_json(json.loads(json.dumps(report.as_json()))) == report
    output = io.StringIO()
    show(report, Console(file=output, width=200))
    lines = output.getvalue().splitlines()
    assert lines[1].startswith("questions")
    assert lines[1].split()[1] == "5"
    printed = output.getvalue()
    assert printed.index("count") < printed.index("the first 1 of 1")
    assert str(path) in printed


def test_the_command_prints_writes_and_tells_by_its_status(tmp_path, model_folder, capsys) -> None:
    sizes = ["--max-length", "48", "--doc-stride", "12", "--max-question-length", "12"]
    bad = write_json(tmp_path / "bad.json", [row(0), row(1, answers=answers("Rome", 0))])
    target = tmp_path / "report.json"
    assert commands.check_data([bad, "--model", model_folder, *sizes, "--json", str(target)]) == 1
    assert "answers that are not at their answer_start" in capsys.readouterr().out
    assert json.loads(target.read_text())["findings"][0]["kind"] == "misplaced"
    assert commands.check_data([write_json(tmp_path / "good.json", make_rows(3)), *sizes]) == 0
    assert "nothing was found that is wrong" in capsys.readouterr().out
    with pytest.raises(InputError, match="no such file"):
        commands.check_data([str(tmp_path / "none.json")])


def test_named_columns_are_passed_on(tmp_path) -> None:
    (tmp_path / "data.csv").write_text("frage,text,answer\nWho ?,Ben .,Ben\n", encoding="utf-8")
    report = check_source(str(tmp_path / "data.csv"), columns=Columns(question="frage"))
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
    assert any("train: 1 validation contexts that are trained on too (the first: id q3" in line for line in lines)
    assert any("raise --model.max_answer_length; the longest has 14 tokens" in line for line in lines)
    assert any("score EM 50.00" in line for line in lines)

    def never(self, rows):
        raise AssertionError("looked at twice")

    monkeypatch.setattr(RowCheck, "valid", never)
    assert list(short_lines(check_prepared(data.splits(), max_answer_length=10))) == lines  # from what was kept
