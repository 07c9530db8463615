"""Problems of rows are found, counted, and listed with the row's place and id."""

from __future__ import annotations

import json

import pytest

from qa_lightning.checks.bad_rows import OR_SKIP, ROW_FINDINGS, short_hash
from qa_lightning.checks.languages import languages_of, script_of
from qa_lightning.checks.report import check_source
from tests.helpers.checks import answers, found, row
from tests.helpers.data import make_rows, write_json

CASES: dict[str, list[dict]] = {
    "columns": [{"id": "q1", "question": "Who ?", "context": "Ben ."}],
    "empty": [row(1, question=" "), row(2, context=None), row(3, id="")],
    "type": [row(1, question=5), row(2, answers=answers("Paris", -2)), row(3, answers=answers("Paris", 1.5))],
    "text": [row(1, context="\ud800 x")],
    "duplicate_id": [row(1, id="q0"), row(2, id="q0")],
    "answers": [row(1, answers=[1]), row(2, answers={"text": ["a"], "answer_start": []})],
    "misplaced": [row(1, answers=answers("Rome", 0)), row(2, answers=answers("Berlin", 0))],
    "left_out": [row(1, answers={"text": ["Ben", "Berlin"], "answer_start": [row(1)["context"].index("Ben"), -1]})],
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
    assert set(CASES) | {"leakage", "same_row", "fields", "line", "marker"} == set(ROW_FINDINGS)


def test_lines_that_are_no_objects_stand_beside_other_findings(tmp_path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(["{", json.dumps(row(0)), "7", json.dumps(row(1, question="")), '{"qas": null}']))
    report = check_source(str(path))
    assert found(report) == {"line": 3, "empty": 1}
    (finding,) = (one for one in report.findings if one.kind == "line")
    assert finding.fix.startswith("write on each line one whole JSON object: a row, or a context with a list")
    assert [one["place"] for one in finding.rows] == [f"{path} line 1", f"{path} line 3", f"{path} line 5"]


def test_a_row_of_a_table_with_too_many_fields_is_called_so(tmp_path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("id,question,context,answers\n1,Who?,Ben .,\n2,Who, else?,Ben .,\n3,Who?\n")
    (finding,) = check_source(str(path)).findings
    assert finding.title == "rows with more or fewer fields than the header"
    assert [one["place"].rsplit(" ", 1)[-1] for one in finding.rows] == ["3", "4"]
    assert "double quotes" in finding.fix


def test_contexts_on_both_sides_are_counted_once_each(tmp_path) -> None:
    train = write_json(tmp_path / "train.json", [*make_rows(4), row(1, id="another", question="Where ?")])
    validation = write_json(tmp_path / "validation.json", [row(1, id="v1"), row(3, id="v3")])
    report = check_source(train, validation)
    assert found(report) == {"leakage": 2}
    assert [one["id"] for one in report.findings[0].rows] == ["q1", "q3"]


def test_texts_are_told_apart_that_are_the_same_end_to_end(tmp_path) -> None:
    """Joined texts may be equal where question and context, or two answers, are split at another character."""
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


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("The baker", "Latin"),
        ("Пекарь живёт", "Cyrillic"),
        ("面包师住在", "CJK"),
        ("ひらがなカタカナの", "Japanese"),
        ("東京都は日本国の首都", "Japanese"),
        ("ｶﾞｷﾞｸﾞ", "Japanese"),
        ("서울은 수도", "Hangul"),
        ("The word さくら is Japanese", "Latin"),
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
    assert check_source(write_json(tmp_path / "data.json", rows)).facts["languages"] == {"German": 3, "Spanish": 2}


SENTENCES = [
    "Kofi plays the cello. Elena plays the oboe.",
    "Marta lives in Lisbon and works in a bakery.",
    "The letter was written by Ines in May.",
    "The bridge is 300 years old, the tower is younger.",
    "Omar sold his boat and bought a horse.",
    "Ada has a cat.",
    "No.",
    "Fatima met Jan.",
]


@pytest.mark.parametrize("count", range(1, len(SENTENCES) + 1))
def test_a_few_sentences_are_in_one_language_that_is_named(count) -> None:
    assert languages_of(SENTENCES[:count]) == {"English": count}


def test_kana_is_japanese_and_hangul_is_korean() -> None:
    texts = [
        "ひらがなカタカナの",
        "東京は日本の首都です。",
        "서울은 수도이다",
        "12 345",
        "北京是中国的首都，人口很多。",
    ]
    assert languages_of(texts) == {"Japanese": 2, "Korean": 1, "Chinese": 1}
    assert languages_of([]) == {}


def test_rows_of_too_many_fields_get_a_fix_that_helps(tmp_path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("q,text,answer\nWho ?,Ben .,Ben\nWho ?,Ben, of Rome .,Ben\n", encoding="utf-8")
    (finding,) = check_source(str(path)).findings
    assert (finding.kind, finding.rows[0]["place"]) == ("fields", f"{path} row 3")
    assert finding.fix == "put texts that hold separators or line breaks in double quotes"


def test_contexts_of_bad_rows_count_too(tmp_path) -> None:
    rows = [row(0), row(1, answers=answers("Berlin", 0)), row(2, question=""), row(3, context=None)]
    facts = check_source(write_json(tmp_path / "data.json", rows)).facts
    assert (facts["rows"], facts["contexts"], facts["scripts"]) == (4, 3, {"Latin": 3})


def test_a_row_that_stands_there_twice_is_said_with_both_places(tmp_path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("q,text,answer\nWho ?,Ben .,Ben\nWhen ?,May .,May\nWho ?,Ben .,Ben\n", encoding="utf-8")
    (finding,) = check_source(str(path)).findings
    assert (finding.kind, finding.fix) == ("same_row", f"leave one of the two out{OR_SKIP}")
    assert finding.rows[0]["place"] == f"{path} row 4"
    assert finding.rows[0]["what"] == f"the same as {path} row 2"


def test_rows_that_are_listed_are_few_and_counts_are_whole(tmp_path) -> None:
    rows = [row(0, id=f"r{number}", question="") for number in range(20)]
    report = check_source(write_json(tmp_path / "data.json", rows), max_rows=3)
    assert report.findings[0].count == 20
    assert len(report.findings[0].rows) == 3
