"""Answers of rows: no answer in every spelling, wrong offsets, repairs and what is left out, in files and in runs."""

from __future__ import annotations

import json
import math
from decimal import Decimal

import numpy as np
import pytest

from qa_lightning import SquadDataModule
from qa_lightning.data.answers import check_answers
from qa_lightning.data.cells import answers_of, whole_number
from qa_lightning.data.examples import check_row
from qa_lightning.errors import InputError
from tests.helpers.data import make_rows, write_json
from tests.helpers.forms import CONTEXT, as_json, as_lines, as_parquet, as_table, read, row, write

FAR = " x" * 25 + " "


# --- no answer, however it is written ---

NOTHING = {
    "null": None,
    "NaN": math.nan,
    "an empty text": "",
    "an empty list": [],
    "an empty object": {},
    "empty lists": {"text": [], "answer_start": []},
    "an object of nulls": {"text": None, "answer_start": None},
    "an object of NaN": {"text": math.nan, "answer_start": math.nan},
    "an object of an empty text": {"text": "", "answer_start": -1},
    "lists of an empty text at -1": {"text": [""], "answer_start": [-1]},
    "lists of an empty text at 0": {"text": [""], "answer_start": [0]},
    "lists of a blank text without an offset": {"text": [" \u00a0"], "answer_start": [None]},
    "lists of null": {"text": [None], "answer_start": [None]},
    "lists of NaN": {"text": [math.nan], "answer_start": [-1.0]},
    "an answer of an empty text": [{"text": "", "answer_start": 0}],
    "an answer of null": [{"text": None, "answer_start": None}],
    "an answer of nothing": [{}],
    "a list of null": [None],
    "two of them": [{"text": "", "answer_start": "-1"}, {"text": None, "answer_start": 0}],
}


@pytest.mark.parametrize("answers", NOTHING.values(), ids=NOTHING)
def test_no_answer_is_no_answer_however_it_is_written(answers) -> None:
    for said in ({}, {"is_impossible": None}, {"is_impossible": True}):
        checked = check_row("row 1", row(answers=answers, **said))
        assert checked.problems == checked.left_out == []
        assert checked.example["answers"] == {"text": [], "answer_start": []}
    (problem,) = check_row("row 1", row(answers=answers, is_impossible=False)).problems
    assert problem == "row 1 (id q1): is_impossible is false, yet there is no answer; correct one of the two"


def test_an_offset_without_a_text_is_an_error_where_nothing_says_that_there_is_no_answer() -> None:
    lost = [{"text": "", "answer_start": 40}]
    (problem,) = check_row("row 1", row(answers=lost)).problems
    assert "answer text is '', yet answer_start is 40" in problem
    assert check_row("row 1", row(answers=lost, is_impossible=True)).problems == []


def test_an_annotator_who_saw_no_answer_costs_the_others_nothing() -> None:
    answers = [{"text": "", "answer_start": -1}, {"text": "Ada", "answer_start": 0}, {"text": None}]
    checked = check_row("row 1", row(answers=answers, is_impossible=False))
    assert checked.example["answers"] == {"text": ["Ada"], "answer_start": [0]}
    assert checked.left_out == []
    (problem,) = check_row("row 1", row(answers=answers, is_impossible=True)).problems
    assert problem.kind == "contradiction"


@pytest.mark.parametrize(
    ("written", "number"),
    [
        *[(one, 40) for one in (40, "40", " 40 ", "40.0", "40.", 40.0, np.int64(40), np.float64(40))],
        *[(Decimal(one), 40) for one in ("40", "40.0", "4E+1")],
        *[(one, None) for one in ("", "null", "NaN", math.nan, None, Decimal("NaN"), Decimal("sNaN"))],
        *[(one, one) for one in (True, "1e3", 0.5, "0.5", "four", math.inf, [4], Decimal("0.5"), Decimal("Infinity"))],
        *[("-1", -1), ("+3", 3)],
    ],
)
def test_a_whole_number_is_read_however_it_is_written(written, number) -> None:
    found = whole_number(written)
    assert (found, type(found)) == (number, type(number))


def test_columns_of_decimals_are_read_as_numbers(tmp_path) -> None:
    item = {"id": Decimal(7), "question": "When?", "context": CONTEXT, "title": Decimal("3.0")}
    rows = [
        item | {"answer": "1843", "start": Decimal(40), "impossible": Decimal(0)},
        item | {"id": Decimal(8), "answer": None, "start": None, "impossible": Decimal("1.0")},
    ]
    first, second = read(write(tmp_path, "q.parquet", as_parquet(rows)), titles=True)
    assert (first["id"], first["title"], first["answers"]) == ("7", "3", {"text": ["1843"], "answer_start": [40]})
    assert (second["id"], second["answers"]["text"]) == ("8", [])


@pytest.mark.parametrize("start", ["40", 40.0, "40.0", np.int32(40)])
def test_an_offset_may_be_a_number_of_another_type(start) -> None:
    checked = check_answers("row 1", {"text": ["1843"], "answer_start": [start]}, CONTEXT)
    assert checked.good == {"text": ["1843"], "answer_start": [40]}
    assert type(checked.good["answer_start"][0]) is int


# --- objects whose parts have other names ---


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
@pytest.mark.parametrize("names", [("value", "start"), ("span", "position"), ("foo", "answer_start")])
def test_an_answer_whose_text_has_an_unknown_name_is_a_problem_and_not_no_answer(tmp_path, suffix, names) -> None:
    make = {".jsonl": as_lines, ".csv": as_table, ".parquet": as_parquet}[suffix]
    given = [dict(zip(names, ["1843", 40], strict=True))]
    rows = [row(answers=given), row(id="no answer", answers=[dict.fromkeys(names)])]
    path = write(tmp_path, f"q{suffix}", make(rows))
    with pytest.raises(InputError) as caught:
        read(path)
    (problem,) = caught.value.problems[1:]
    assert f"has no text under a known name, only '{names[0]}', '{names[1]}'; name its parts text" in problem


def test_names_of_parts_may_be_written_as_names_of_columns() -> None:
    for names in (("Text", "Answer_start"), ("answerText", "answerStart"), ("TEXT", "START"), ("text", "Start-Char")):
        given = [dict(zip(names, ["1843", 40], strict=True))]
        assert answers_of(given, None, f"1843{FAR}, {CONTEXT}", None) == [{"text": "1843", "answer_start": 40}]
        assert answers_of(given[0], None, None, None) == [{"text": "1843", "answer_start": 40}]


def test_one_answer_that_cannot_be_understood_costs_the_others_nothing() -> None:
    given = [{"text": "Ada", "answer_start": 0}, {"answer": "1843"}, {"foo": "y"}, None]
    checked = check_row("row 1", row(answers=answers_of(given, None, CONTEXT, None)))
    assert checked.example["answers"] == {"text": ["Ada", "1843"], "answer_start": [0, 40]}
    (problem,) = checked.left_out
    assert (problem.kind, "answer {'foo': 'y'} has no text" in problem) == ("answers", True)
    # a table of objects has each name in all of them
    given = [{"text": "Ada", "answer": None, "answer_start": 0}, {"text": None, "answer": "1843", "answer_start": 40}]
    checked = check_row("row 1", row(answers=answers_of(given, None, CONTEXT, None)))
    assert checked.example["answers"] == {"text": ["Ada", "1843"], "answer_start": [0, 40]}


# --- in files ---

BROKEN = [
    row(id="one place", answers={"text": ["1843"], "answer_start": [0]}),
    row(id="right"),
    row(
        id="several answers",
        answers={"text": ["Ada Lovelace", "1843", "in 1843"], "answer_start": [0, 41, 36]},
    ),
    row(id="no start", answers=[{"text": "Babbage"}]),
    row(id="case", answers=[{"text": "ada lovelace", "answer_start": 0}]),
    row(id="blanks", answers=[{"text": "the  first ", "answer_start": 0}]),
]
MOVED = [
    "row 1 (id one place): answer '1843' moved from answer_start 0 (there: 'Ada ') to 40",
    "row 3 (id several answers): answer '1843' moved from answer_start 41 (there: '843,') to 40",
    "row 3 (id several answers): answer 'in 1843' moved from answer_start 36 (there: ' in 184') to 37",
    "row 5 (id case): answer 'ada lovelace' at answer_start 0 replaced by 'Ada Lovelace', the context's own text",
    "row 6 (id blanks): answer 'the  first ' moved from answer_start 0 (there: 'Ada Lovelac') to 19, "
    "and replaced by 'the first', the context's own text",
]
UNREPAIRABLE = [
    (row(id="tie", context="Ada Ada", answers={"text": ["Ada"], "answer_start": [2]}), "it occurs at 0, 4"),
    (row(id="far", context=f"Ada{FAR}Ada", answers={"text": ["Ada"], "answer_start": [25]}), "it occurs at 0, 54"),
    (
        row(id="in a word", answers={"text": ["program"], "answer_start": [9]}, context="The programs ran."),
        "inside of a",
    ),
    (row(id="none", answers={"text": ["Bob"], "answer_start": [0]}), "the context does not hold it"),
    (row(id="question", question="", answers={"text": ["1843"], "answer_start": [0]}), "question is empty"),
    (row(id="empty", answers={"text": [""], "answer_start": [4]}), "answer text is ''"),
]


def test_repairs_are_made_and_said(tmp_path):
    path = write(tmp_path, "questions.json", as_json(BROKEN))
    examples, repairs = read(path, "repair")
    assert [item["answers"]["answer_start"] for item in examples] == [[40], [0], [0, 40, 37], [71], [0], [19]]
    for item in examples:
        for text, start in zip(item["answers"]["text"], item["answers"]["answer_start"], strict=True):
            assert item["context"][start : start + len(text)] == text
    assert repairs == [f"{path} {line}" for line in MOVED]


def test_without_repair_nothing_is_moved(tmp_path):
    path = write(tmp_path, "questions.json", as_json(BROKEN))
    with pytest.raises(InputError) as caught:
        read(path)
    said = caught.value.problems[0]
    assert said.startswith(
        "3 problems in the data (correct them, or pass --data.on_bad_rows skip to leave such rows out"
    )
    assert "repair to repair answers whose right offset is certain, or repair_or_skip for both" in said
    examples, skipped = read(path, "skip")
    assert [(item["id"], item["answers"]["text"]) for item in examples] == [
        ("right", ["Ada Lovelace"]),
        ("several answers", ["Ada Lovelace"]),
        ("no start", ["Babbage"]),  # an offset that is not given is found, not repaired
    ]
    assert len(skipped) == 3


@pytest.mark.parametrize(("bad", "words"), [pytest.param(*case, id=case[0]["id"]) for case in UNREPAIRABLE])
def test_what_cannot_be_repaired_is_still_an_error(tmp_path, bad, words):
    path = write(tmp_path, "questions.json", as_json([*BROKEN, bad]))
    with pytest.raises(InputError) as caught:
        read(path, "repair")
    summary, problem = caught.value.problems
    assert summary == (
        "1 problem in the data (correct them, or pass --data.on_bad_rows repair_or_skip to leave such rows out):"
    )
    assert problem.startswith(f"{path} row 7")
    assert words in problem
    examples, skipped, repairs, left_out = read(path, "repair_or_skip")
    assert len(examples) == len(BROKEN)
    assert skipped == [problem]
    assert repairs == [f"{path} {line}" for line in MOVED]
    assert left_out == []


ANNOTATORS = [
    row(id="absent", answers={"text": ["Ada", "Nobody here"], "answer_start": [0, -1]}),
    row(id="absent first", answers={"text": ["Nobody here", "Ada"], "answer_start": [0, 0]}),
    row(id="no text", answers={"text": [5, "1843"], "answer_start": [0, 40]}),
    row(id="one repaired", answers={"text": ["Ada", "1843", "Bob"], "answer_start": [0, 0, 0]}),
]


@pytest.mark.parametrize("on_bad_rows", ["error", "skip", "repair", "repair_or_skip"])
def test_a_bad_answer_never_costs_the_question_while_another_is_good(tmp_path, on_bad_rows):
    path = write(tmp_path, "questions.json", as_json(ANNOTATORS))
    left_out: list[str] = []
    found = read(path, on_bad_rows, left_out=left_out)
    examples = found if on_bad_rows == "error" else found[0]
    repairs = on_bad_rows in ("repair", "repair_or_skip")
    assert [item["answers"]["text"] for item in examples] == [
        ["Ada"],
        ["Ada"],
        ["1843"],
        ["Ada", "1843"] if repairs else ["Ada"],
    ]
    told = [line.split(": ")[0].removeprefix(f"{path} ") for line in left_out]
    numbers = [1, 2, 3, 4] if repairs else [1, 2, 3, 4, 4]
    assert told == [f"row {number} (id {ANNOTATORS[number - 1]['id']})" for number in numbers]


def test_skip_without_a_good_row_does_not_advise_skip(tmp_path):
    path = write(tmp_path, "questions.json", as_json([row(question=""), row(id="two", answers=[{"text": "Bob"}])]))
    for on_bad_rows, advice in (
        ("skip", "no row is left; correct them, or pass --data.on_bad_rows repair to repair answers"),
        ("repair_or_skip", "no row is left; correct them)"),
    ):
        with pytest.raises(InputError) as caught:
            read(path, on_bad_rows)
        assert caught.value.problems[0].startswith("2 problems in the data (" + advice)


def test_only_repairs_of_wanted_rows_are_listed(tmp_path):
    broken = [{**one, "context": f"{one['context']} {one['id']}"} for one in BROKEN]
    path = write(tmp_path, "questions.json", as_json(broken))
    _, repairs = read(path, "repair", keep=lambda context, _: context.endswith("several answers"))
    assert repairs == [f"{path} {line}" for line in MOVED[1:3]]


# --- in a run ---

SMALL = {"max_length": 48, "doc_stride": 12, "max_question_length": 12, "on_bad_rows": "repair"}


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("QA_LIGHTNING_CACHE", str(tmp_path / "cache"))


def shifted(rows, by):
    for item in rows[:3]:
        item["answers"]["answer_start"] = [item["answers"]["answer_start"][0] + by]
    return rows


def test_a_run_writes_what_it_moved_and_says_it_in_one_line(tmp_path, model_folder, said):
    path = write_json(tmp_path / "train.json", shifted(make_rows(10), 2))
    data = SquadDataModule(path, path, model_folder, **SMALL)
    data.prepare_data()
    data.setup("fit")
    assert list(data.train_set.examples["answers"][:]) == [item["answers"] for item in make_rows(10)]
    (listed,) = (data.prepared("train").examples_folder).glob("repaired.txt")
    lines = listed.read_text(encoding="utf-8").splitlines()
    assert [line.split(":")[0] for line in lines] == [f"{path} row {n} (id q{n - 1})" for n in (1, 2, 3)]
    assert all("moved from answer_start" in line for line in lines)
    summary = json.loads((listed.parent / "summary.json").read_text())
    assert summary["repaired"] == lines
    told = [record.getMessage() for record in said.records if "repaired" in record.getMessage()]
    assert told == [
        f"{split}: repaired 3 answers (all are listed in {data.prepared(split).examples_folder / 'repaired.txt'}), "
        f"the first: {lines[0]}"
        for split in ("train", "validation")
    ]
    said.clear()
    SquadDataModule(path, path, model_folder, **SMALL).prepare_data()  # from the cache, and still said
    assert sum("repaired 3 answers" in record.getMessage() for record in said.records) == 2


def test_parts_of_one_file_each_list_their_own_repairs(tmp_path, model_folder, said):
    path = write_json(tmp_path / "train.json", [row(id=str(n), context=f"{n} {CONTEXT}") for n in range(40)])
    data = SquadDataModule(path, None, model_folder, validation_fraction=0.3, **SMALL)
    data.prepare_data()
    lines = {
        split: (data.prepared(split).examples_folder / "repaired.txt").read_text().splitlines()
        for split in data._splits()
    }
    assert sum(map(len, lines.values())) == 40
    assert not set(lines["train"]) & set(lines["validation"])


def test_a_run_without_repairs_writes_and_says_nothing_of_them(tmp_path, model_folder, said):
    path = write_json(tmp_path / "train.json", make_rows(10))
    data = SquadDataModule(path, path, model_folder, **SMALL)
    data.prepare_data()
    assert not list((tmp_path / "cache").rglob("repaired.txt"))
    assert "repaired" not in said.text


def test_a_run_stops_at_what_cannot_be_repaired(tmp_path, model_folder, said):
    rows = shifted(make_rows(10), 2)
    rows[7]["answers"] = {"text": ["Berlin"], "answer_start": [0]}
    path = write_json(tmp_path / "train.json", rows)
    with pytest.raises(InputError) as caught:
        SquadDataModule(path, path, model_folder, **SMALL).prepare_data()
    assert len(caught.value.problems) == 2
    assert "row 8 (id q7): answer 'Berlin' is not at answer_start 0" in caught.value.problems[1]
    assert not list((tmp_path / "cache").rglob("repaired.txt"))


def test_a_run_lists_what_it_repaired_and_what_it_left_out(tmp_path, model_folder, said):
    rows = shifted(make_rows(10), 2)
    rows[7]["answers"] = {"text": ["Berlin"], "answer_start": [0]}
    rows[8]["answers"]["text"].append("Berlin")
    rows[8]["answers"]["answer_start"].append(-1)
    path = write_json(tmp_path / "train.json", rows)
    data = SquadDataModule(path, path, model_folder, **{**SMALL, "on_bad_rows": "repair_or_skip"})
    data.prepare_data()
    folder = data.prepared("train").examples_folder
    assert len((folder / "repaired.txt").read_text(encoding="utf-8").splitlines()) == 3
    lines = (folder / "left_out.txt").read_text(encoding="utf-8").splitlines()
    assert [line.split(" is not at")[0] for line in lines] == [
        f"{path} row 8 (id q7): answer 'Berlin'",
        f"{path} row 9 (id q8): answer 'Berlin' has no answer_start, and the context does not hold it",
    ]
    for words in ("left out 1 bad row (all", "left out 1 bad answer of questions that have others (all"):
        assert f"train: {words} are listed in {folder / 'left_out.txt'}), the first: {path}" in said.text
