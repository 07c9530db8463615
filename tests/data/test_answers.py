"""Answers with a wrong offset: what messages say, what is repaired, and what is not."""

from __future__ import annotations

import json
import logging

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from qa_lightning import SquadDataModule
from qa_lightning.data.answers import NEAR, miscounted, occurrences, repaired_start, where
from qa_lightning.errors import InputError
from tests.helpers.data import make_rows, write_json
from tests.helpers.forms import ASTRAL, CONTEXT, as_json, read, row, write

FAR = "x" * 50


@pytest.mark.parametrize(
    ("text", "start", "context", "right"),
    [
        pytest.param("Ada", 5, "Ada is here.", 0, id="one place"),
        pytest.param("Ada", 10**30, "Ada is here.", 0, id="one place, a start beyond the context"),
        pytest.param("Ada", -1, f"{FAR}Ada", 50, id="one place, a negative start"),
        pytest.param("Ada", None, f"{FAR}Ada", 50, id="one place, no start"),
        pytest.param("Ada", "five", f"{FAR}Ada", 50, id="one place, a start that is no number"),
        pytest.param("Ada", 3, f"Ada{FAR}Ada", 0, id="two places, one of them near"),
        pytest.param("Ada", 20, f"Ada{FAR}Ada", 0, id="just near enough"),
        pytest.param("Ada", 21, f"Ada{FAR}Ada", None, id="just too far"),
        pytest.param("Ada", 3, "Ada Ada", 4, id="two near, one nearer"),
        pytest.param("Ada", 2, "Ada Ada", None, id="a tie"),
        pytest.param("aa", 2, "aa baaa", None, id="a tie of one with an overlapping one"),
        pytest.param("aa", 3, "aa baaa", 4, id="overlapping places, the nearest"),
        pytest.param("Ada", -1, "Ada Ada", None, id="two places, a negative start"),
        pytest.param("Ada", None, "Ada Ada", None, id="two places, no start"),
        pytest.param("Ada", 0.5, "Ada Ada", None, id="two places, a fractional start"),
        pytest.param("Ada", True, "Ada Ada", None, id="two places, a start of true"),
        pytest.param("Bob", 0, "Ada is here.", None, id="no place"),
        pytest.param("ada", 0, "Ada is here.", None, id="no place but in another case"),
        pytest.param("caf\u00e9", 0, "cafe\u0301", None, id="no place but in another form"),
        pytest.param("Ada", 0, "Ada Ada", 0, id="where it is said to be"),
        pytest.param("Ada", 8, "éé “Ada” Ada.", None, id="bytes tell of another place than the nearest"),
        pytest.param("Ada", 6, "éé Ada und “Ada”.", 3, id="no unit tells of another place than the nearest"),
        pytest.param("Ada", 5, "éé Ada " + FAR + "Ada.", 3, id="bytes tell of the nearest"),
        pytest.param("Ada", 6, "🚀🚀🚀Ada, Ada", None, id="UTF-16 units tell of another place than the nearest"),
    ],
)
def test_an_answer_is_moved_to_where_it_can_only_be_meant(text, start, context, right):
    assert repaired_start(text, start, context) == right


def oracle(text, start, context):
    """The right repair, found by trying every offset and counting the bytes and UTF-16 units before it."""
    places = [place for place in range(len(context)) if context[place : place + len(text)] == text]
    if len(places) == 1:
        return places[0]
    if start in places:
        return start
    near = [place for place in places if abs(place - start) <= NEAR]
    nearest = [place for place in near if abs(place - start) == min(abs(other - start) for other in near)]
    for size, encoding in ((1, "utf-8"), (2, "utf-16-le")):
        nearest += [place for place in places if len(context[:place].encode(encoding)) == start * size]
    return nearest[0] if len(set(nearest)) == 1 and set(nearest) & set(near) else None


@settings(max_examples=2000, deadline=None)
@given(
    st.one_of(st.text("ab", max_size=60), st.text("aé🚀", max_size=40), st.text("ab \n", max_size=30)),
    st.integers(0, 70),
    st.data(),
)
def test_repairs_agree_with_trying_every_place(context, start, data):
    assume(context)
    begin = data.draw(st.integers(0, len(context) - 1), "begin")
    text = context[begin : begin + data.draw(st.integers(1, 3), "length")]
    assert repaired_start(text, start, context) == oracle(text, start, context)


@settings(max_examples=300)
@given(st.text(), st.text(min_size=1), st.integers(-5, 60))
def test_a_text_that_is_not_there_is_never_moved(context, text, start):
    assert text in context or repaired_start(text, start, context) is None


@given(st.text("ab", max_size=30), st.text("ab", min_size=1, max_size=3), st.integers(1, 4))
def test_occurrences_are_all_places_and_at_most_so_many(context, text, most):
    places = [place for place in range(len(context)) if context[place : place + len(text)] == text]
    assert occurrences(text, context) == places
    assert occurrences(text, context, most) == places[:most]


@pytest.mark.parametrize(
    ("text", "start", "context", "hint"),
    [
        ("«Ada»", len("𝔸da 🚀 flew. Ⅳ — naïve ".encode()), ASTRAL, "; answer_start counts bytes, not characters"),
        ("«Ada»", 24, ASTRAL, "; answer_start counts UTF-16 units, as JavaScript and Java do, not characters"),
        ("«Ada»", 23, ASTRAL, "; answer_start is one too many, as if it counted from 1"),
        ("1843", 41, CONTEXT, "; answer_start is one too many, as if it counted from 1"),
        ("1843", 42, CONTEXT, ""),
        ("Ada", 0, "x Ada", ""),
        ("Ada", 10**30, "é Ada", ""),
    ],
)
def test_what_a_wrong_place_counts_is_told(text, start, context, hint):
    assert miscounted(text, start, context) == hint


@pytest.mark.parametrize(
    ("text", "context", "words"),
    [
        ("a", "banana", "it occurs at 1, 3, 5"),
        ("a", "bananarama", "it occurs at 1, 3, 5 and elsewhere"),
        ("Ada", "ADA", "the context holds it except for upper and lower case"),
        (
            "a b",
            "a\u00a0b",
            "the context holds it except for white space (around it, line ends, tabs, no-break spaces)",
        ),
        (
            "a\nb ",
            "a\r\nb",
            "the context holds it except for white space (around it, line ends, tabs, no-break spaces)",
        ),
        (
            "e\u0301",
            "\u00e9",
            "the context holds it except for the form of its characters (composed or not, NFC or NFD)",
        ),
        ("Ada", "Bob", "the context does not hold it"),
    ],
)
def test_where_an_answer_stands_is_told(text, context, words):
    assert where(text, context) == words


# --- in files ---

BROKEN = [
    row(id="one place", answers={"text": ["1843"], "answer_start": [0]}),
    row(id="right"),
    row(
        id="several answers",
        answers={"text": ["Ada Lovelace", "1843", "in 1843"], "answer_start": [0, 41, 36]},
    ),
    row(id="no start", answers=[{"text": "Babbage"}]),
]
MOVED = [
    "row 1 (id one place): answer '1843' moved from answer_start 0 to 40",
    "row 3 (id several answers): answer '1843' moved from answer_start 41 to 40",
    "row 3 (id several answers): answer 'in 1843' moved from answer_start 36 to 37",
]
UNREPAIRABLE = [
    (row(id="tie", context="Ada Ada", answers={"text": ["Ada"], "answer_start": [2]}), "it occurs at 0, 4"),
    (row(id="far", context=f"Ada{FAR}Ada", answers={"text": ["Ada"], "answer_start": [25]}), "it occurs at 0, 53"),
    (row(id="none", answers={"text": ["Bob"], "answer_start": [0]}), "the context does not hold it"),
    (
        row(id="one of two", answers={"text": ["1843", "Bob"], "answer_start": [0, 0]}),
        "answer 'Bob' is not at answer_start 0",
    ),
    (row(id="question", question="", answers={"text": ["1843"], "answer_start": [0]}), "question is empty"),
    (row(id="empty", answers={"text": [""], "answer_start": [0]}), "answer text is ''"),
]


def test_repairs_are_made_and_said(tmp_path):
    path = write(tmp_path, "questions.json", as_json(BROKEN))
    examples, repairs = read(path, "repair")
    assert [item["answers"]["answer_start"] for item in examples] == [[40], [0], [0, 40, 37], [71]]
    for item in examples:
        for text, start in zip(item["answers"]["text"], item["answers"]["answer_start"], strict=True):
            assert item["context"][start : start + len(text)] == text
    assert repairs == [f"{path} {line}" for line in MOVED]


def test_without_repair_nothing_is_moved(tmp_path):
    path = write(tmp_path, "questions.json", as_json(BROKEN))
    with pytest.raises(InputError) as caught:
        read(path)
    assert caught.value.problems[0].startswith("3 problems in the data (correct them, or pass --data.on_bad_rows skip")
    assert "or repair to move answers whose right offset is certain" in caught.value.problems[0]
    assert [item["id"] for item in read(path, "skip")[0]] == [
        "right",
        "no start",
    ]  # an offset that is not given is found, not moved


@pytest.mark.parametrize(("bad", "words"), [pytest.param(*case, id=case[0]["id"]) for case in UNREPAIRABLE])
def test_what_cannot_be_repaired_is_still_an_error(tmp_path, bad, words):
    path = write(tmp_path, "questions.json", as_json([*BROKEN, bad]))
    with pytest.raises(InputError) as caught:
        read(path, "repair")
    summary, problem = caught.value.problems
    assert summary == "1 problem in the data (correct them, or pass --data.on_bad_rows skip to leave such rows out):"
    assert problem.startswith(f"{path} row 5")
    assert words in problem


def test_only_repairs_of_wanted_rows_are_listed(tmp_path):
    path = write(tmp_path, "questions.json", as_json(BROKEN))
    _, repairs = read(path, "repair", keep=lambda item: item["id"] == "several answers")
    assert repairs == [f"{path} {line}" for line in MOVED[1:3]]


# --- in a run ---

SMALL = {"max_length": 48, "doc_stride": 12, "max_question_length": 12, "on_bad_rows": "repair"}


@pytest.fixture
def said(caplog, monkeypatch, tmp_path):
    monkeypatch.setenv("QA_LIGHTNING_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(logging.getLogger("qa_lightning"), "propagate", True)
    caplog.set_level(logging.INFO, logger="qa_lightning")
    return caplog


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
    told = [record.getMessage() for record in said.records if "moved" in record.getMessage()]
    assert told == [
        f"{split}: moved 3 answers (all are listed in {data.prepared(split).examples_folder / 'repaired.txt'}), "
        f"the first: {lines[0]}"
        for split in ("train", "validation")
    ]
    said.clear()
    SquadDataModule(path, path, model_folder, **SMALL).prepare_data()  # from the cache, and still said
    assert sum("moved 3 answers" in record.getMessage() for record in said.records) == 2


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
    assert "moved" not in said.text


def test_a_run_stops_at_what_cannot_be_repaired(tmp_path, model_folder, said):
    rows = shifted(make_rows(10), 2)
    rows[7]["answers"] = {"text": ["Berlin"], "answer_start": [0]}
    path = write_json(tmp_path / "train.json", rows)
    with pytest.raises(InputError) as caught:
        SquadDataModule(path, path, model_folder, **SMALL).prepare_data()
    assert len(caught.value.problems) == 2
    assert "row 8 (id q7): answer 'Berlin' is not at answer_start 0" in caught.value.problems[1]
    assert not list((tmp_path / "cache").rglob("repaired.txt"))
