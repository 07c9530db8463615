"""What a cell of answers may hold: one text, several, JSON, what numpy prints, pairs of offsets."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qa_lightning.data.cells import answer_between, answers_of, parsed_cell, unplaced_hint
from qa_lightning.data.columns import Columns, ReadSettings
from qa_lightning.data.examples import check_row
from qa_lightning.errors import InputError
from tests.helpers.forms import as_lines, as_parquet, as_table, as_workbook, read, row, write

DUET = "Kofi plays the cello. Elena plays the oboe."
CELLO, OBOE, KOFI = ("the cello", 11), ("the oboe", 34), ("Kofi", 0)


def understood(cell, start=None, context=DUET, separator=None):
    """The answers that a cell holds, as pairs; None for no answer."""
    usual = {"id": "1", "question": "?", "context": context, "answers": answers_of(cell, start, context, separator)}
    example = check_row("row 1", usual).example
    assert example is not None
    return list(zip(example["answers"]["text"], example["answers"]["answer_start"], strict=True))


CELLS = {
    "a text": "the cello",
    "a list of texts": ["the cello"],
    "JSON of a text in a list": '["the cello"]',
    "an object": {"text": "the cello", "answer_start": 11},
    "an object as JSON": '{"text": "the cello", "answer_start": "11"}',
    "an object without an offset": {"text": ["the cello"]},
    "other names": [{"answer": "the cello", "start": 11, "end": 20}],
    "numpy 2, scalars": "{'text': ['the cello'], 'answer_start': [np.int64(11)]}",
    "numpy 2, texts": "{'text': [np.str_('the cello')], 'answer_start': [numpy.int32(11)]}",
    "numpy 2, arrays": "{'text': np.array(['the cello'], dtype=object), 'answer_start': np.array([11])}",
    "numpy 1": "{'text': array(['the cello'], dtype=object), 'answer_start': array([11], dtype=int32)}",
    "an array of objects": "[{'text': 'the cello', 'answer_start': 11}]",
    "an array of objects, typed": "array([{'answer_start': np.int64(11), 'text': 'the cello'}], dtype=object)",
    "tuples": "{'text': ('the cello',), 'answer_start': (np.int64(11),)}",
    "a tuple of text and offset": "('the cello', 11)",
    "text and offset in a list": [["the cello", 11]],
    "two offsets": [11, 20],
    "two offsets as a tuple": "(11, 20)",
    "two offsets as pandas makes them": [11.0, 20.0],
    "text and an offset in quotes": [["the cello", "11"]],
    "pairs of offsets": [[11, 20]],
    "pairs of offsets as JSON": "[[11, 20]]",
    "regions": [{"start": 11, "end": 20}],
    "a region of lists": {"start": [11], "end": [20]},
    "a region without its text": {"text": None, "start": 11, "end": 20},
    "a region as pandas makes it": [{"text": float("nan"), "start": 11.0, "end": 20.0}],
    "regions without their texts": {"text": [None], "start": [11], "end": [20]},
    "arrays themselves": {"text": np.array(["the cello"], object), "answer_start": np.array([11])},
}


@pytest.mark.parametrize("cell", [pytest.param(cell, id=name) for name, cell in CELLS.items()])
def test_an_answer_is_understood_however_it_is_written(cell):
    if cell == "('the cello', 11)":
        cell = f"[{cell}]"
    assert understood(cell) == [CELLO]


SEVERAL = {
    "JSON": json.dumps(["Kofi", "the oboe"]),
    "Python": "['Kofi', 'the oboe']",
    "numpy's own": "['Kofi' 'the oboe']",
    "pairs": [[0, 4], [34, 42]],
    "objects that numpy prints": "[{'text': 'Kofi', 'answer_start': 0}\n {'text': 'the oboe', 'answer_start': 34}]",
    "objects without offsets": [{"text": "Kofi"}, {"text": "the oboe"}],
}


@pytest.mark.parametrize("cell", [pytest.param(cell, id=name) for name, cell in SEVERAL.items()])
def test_several_answers_are_understood(cell):
    assert understood(cell) == [KOFI, OBOE]


@pytest.mark.parametrize("start", ["[0 34]", "[0, 34]", "(0, 34)", [0, 34], np.array([0, 34]), "array([ 0, 34])"])
def test_offsets_in_a_cell_of_their_own_go_with_the_texts(start):
    assert understood("['Kofi' 'the oboe']", start) == [KOFI, OBOE]


@pytest.mark.parametrize(
    ("separator", "cell"), [("|", "Kofi | the oboe"), (";", "Kofi;the oboe; "), ("//", "Kofi//the oboe")]
)
def test_a_separator_that_is_given_divides_a_cell(separator, cell):
    assert understood(cell, separator=separator) == [KOFI, OBOE]
    for whole in ([{"text": cell}], [cell], json.dumps([cell]), {"text": [cell]}):
        assert understood(whole, separator=separator) == [KOFI, OBOE]
    assert understood(cell, f"0 {separator} 34", separator=separator) == [KOFI, OBOE]


def test_what_the_context_holds_as_it_stands_is_that_text():
    code = 'Write ["a", "b"] or x | y; the list [] is empty, and [1, 2] is not.'
    code += " An object {} or (0) is, too, as is False in np.False_."
    for text in ('["a", "b"]', "x | y", "{}", "(0)", "np.False_"):
        assert understood(text, code.index(text), code) == [(text, code.index(text))]
        assert understood(text, context=code, separator="|") == [(text, code.index(text))]
    assert understood("[]", context=code) == []
    numbers = "From 11 to 20."
    assert understood(["11", "20"], context=numbers) == [("11", 5), ("20", 11)]
    assert understood([["11", 5]], context=numbers) == [("11", 5)]


@pytest.mark.parametrize("text", ["(1990,  1991)", "[sic]  Kofi", "{1}\n{2}"])
def test_a_text_in_brackets_that_differs_in_white_space_alone_is_a_text(text):
    context = f"It was {' '.join(text.split())} then."
    usual = {"id": "1", "question": "?", "context": context, "answers": answers_of(text, None, context, None)}
    (problem,) = check_row("row 1", usual).problems
    assert (problem.kind, "the context holds it except for white space" in problem) == ("unplaced", True)


@pytest.mark.parametrize("cell", [None, "", "  ", "null", "None", "NaN", float("nan"), [], "[]", "()"])
def test_an_empty_cell_is_no_answer(cell):
    assert understood(cell) == []


@pytest.mark.parametrize(
    "answer",
    [
        {"text": None, "start": None, "end": None},
        {"text": None, "start": 0, "end": 0},
        {"text": "", "start": 0, "end": 4},
    ],
)
def test_a_null_text_beside_a_span_that_is_none_is_no_answer_and_so_is_an_empty_text(answer):
    assert understood([answer]) == []


@pytest.mark.parametrize("word", ["None", "null", "nan"])
def test_a_word_for_nothing_is_an_answer_where_it_stands_at_its_offset(word):
    context = f"{word} is a value. Is {word}?"
    for offset in (0, context.rindex(word)):
        for start in (offset, str(offset), float(offset)):
            assert understood(word, start, context) == [(word, offset)]
    for start in (-1, "-1", 0, "nan", "None"):
        assert understood(word, start, f"It is {word}.") == []


@pytest.mark.parametrize("word", ["None", "Nan", "null", "NULL"])
@pytest.mark.parametrize("start", [None, "", float("nan")])
def test_a_word_for_nothing_without_an_offset_is_no_answer_whatever_the_context_holds(word, start):
    """Tables write it for questions without an answer far more often than somebody asks for it."""
    assert understood(word, start, f"{word} of the settlers stayed.") == []


def test_an_empty_list_is_a_text_where_it_stands_at_its_offset():
    assert understood("[]", "7", "It was [] at first.") == [("[]", 7)]
    for start in (None, "", 0, -1, "[]"):
        assert understood("[]", start, "It was [] at first.") == []


@pytest.mark.parametrize(
    ("start", "end"), [(0, 99), (-1, 5), ("abc", 5), (5, 5), (8, 3), (None, 5), (0, None), (0, "x"), (0, 1.5)]
)
def test_offsets_that_hold_no_answer_are_refused_and_not_taken_for_no_answer(start, end):
    usual = {"id": "1", "question": "?", "context": DUET, "answers": answer_between(start, end, DUET)}
    (problem,) = check_row("row 1", usual).problems
    assert problem == (
        f"row 1 (id 1): no answer stands from {start!r} to before {end!r} in a context of 43 characters; "
        "for no answer leave both out"
    )
    assert check_row("row 1", usual | {"is_impossible": True}).example is not None
    for nothing in ((None, None), (-1, -1), (0, 0), ("", ""), ("-1", -1.0)):
        usual["answers"] = answer_between(*nothing, DUET)
        assert check_row("row 1", usual).example is not None


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("Kofi | Elena", "; if '|' stands between several answers, pass --data.answer_separator '|', or write them as"),
        ("the cello; the oboe", "; if ';' stands between several answers"),
        ("Kofi || Elena", "; if '||' stands"),
        ("Kofi / Elena", "; if '/' stands"),
        ("N/A", "; if it means that there is no answer, leave the cell empty"),
        ("no answer", "; if it means that there is no answer"),
        ("Kofi | Marta", ""),
        ("Marta", ""),
        ("plays the", ""),
        ("Kofi |", ""),
    ],
)
def test_a_hint_says_how_several_answers_are_written_where_a_cell_looks_like_that(text, hint):
    found = unplaced_hint(text, DUET)
    assert found.startswith(hint)
    assert bool(found) == bool(hint)


MAKE = {
    ".csv": as_table,
    ".tsv": lambda rows: as_table(rows, "\t"),
    ".jsonl": as_lines,
    ".parquet": as_parquet,
    ".xlsx": as_workbook,
}


@pytest.mark.parametrize("suffix", MAKE)
@pytest.mark.parametrize("name", ["answers", "answer"])
def test_several_answers_in_a_cell_are_refused_with_the_fix_and_then_read(tmp_path, suffix, name):
    cells = ["Kofi | Elena", "the cello", "", "the oboe |Elena plays"]
    rows = [{"question": f"What {number}?", "context": DUET, name: cell} for number, cell in enumerate(cells)]
    path = write(tmp_path, f"q{suffix}", MAKE[suffix](rows))
    with pytest.raises(
        InputError, match=r"2 problems(?s:.)*pass --data\.answer_separator '\|', or write them as JSON:"
    ):
        read(path)
    told = []
    examples = read(path, told=told, reading=ReadSettings(answer_separator="|"))
    assert [item["answers"]["text"] for item in examples] == [
        ["Kofi", "Elena"],
        ["the cello"],
        [],
        ["the oboe", "Elena plays"],
    ]
    assert sum("answer_start from the context, if the answer occurs there once" in line for line in told) == 1


@pytest.mark.parametrize(("mark", "given"), [("\n", r"\n"), ("\t", r"\t"), ("\n- ", r"\n- "), ("\n", "\n")])
def test_a_line_end_or_a_tab_between_answers_is_given_as_a_shell_passes_it(tmp_path, mark, given):
    rows = [{"question": "Who?", "context": DUET, "answer": f"Kofi{mark}Elena"}]
    path = write(tmp_path, "q.jsonl", as_lines(rows))
    if given == r"\n":
        with pytest.raises(InputError, match=re.escape(r"pass --data.answer_separator '\n', or write them as JSON:")):
            read(path)
    reading = ReadSettings(answer_separator=given)
    assert read(path, reading=reading)[0]["answers"]["text"] == ["Kofi", "Elena"]
    assert reading == ReadSettings(answer_separator=mark)
    assert reading.problems() == []


def test_start_and_end_in_columns_give_the_answer(tmp_path):
    rows = [
        {"question": "Who?", "context": DUET, "start": 0, "end": 4},
        {"question": "?", "context": DUET, "start": "", "end": ""},
    ]
    told = []
    first, second = read(write(tmp_path, "q.csv", as_table(rows)), told=told)
    assert first["answers"] == {"text": ["Kofi"], "answer_start": [0]}
    assert second["answers"]["text"] == []
    assert "answers between two offsets, the second one after the last character" in told[0]
    named = [{"question": "Who?", "context": DUET, "von": 0, "bis": 4}]
    reading = ReadSettings(Columns(answer_start="von", answer_end="bis"))
    assert read(write(tmp_path, "n.csv", as_table(named)), reading=reading)[0]["answers"]["text"] == ["Kofi"]
    wrong = [{"question": "Who?", "context": DUET, "start": 4, "end": end} for end in (400, 4, "x")]
    with pytest.raises(InputError, match="3 problems"):
        read(write(tmp_path, "w.csv", as_table(wrong)))
    # a text is surer than its end
    rows = [{"question": "Who?", "context": DUET, "answer": "Kofi", "start": 0, "end": 3}]
    assert read(write(tmp_path, "t.csv", as_table(rows)))[0]["answers"]["text"] == ["Kofi"]


def test_a_separator_that_divides_nothing_is_refused():
    for separator in ("", "and", "7"):
        (problem,) = ReadSettings(answer_separator=separator).problems()
        assert problem.startswith(f"--data.answer_separator {separator!r} cannot stand between answers")
    assert ReadSettings(answer_separator=" / ").problems() == []


@given(st.lists(st.text(), max_size=4))
def test_texts_come_back_from_every_way_of_printing_them(texts):
    expected = texts if texts else []
    for printed in (json.dumps(texts), repr(texts), repr(tuple(texts)), f"array({texts!r}, dtype=object)"):
        assert parsed_cell(printed) == expected
    if len(texts) > 1:
        spaced = "[" + "\n ".join(map(repr, texts)) + "]"  # as numpy prints an array of texts
        assert parsed_cell(spaced) == expected


@pytest.mark.parametrize(
    "text", ["(__import__('os').getcwd(), 1)", "np.array(open('x'))", "np.load('x')", "array(1, 2)"]
)
def test_no_call_is_made_and_such_a_text_stays(text):
    assert parsed_cell(text) == text


def test_answers_in_both_shapes_have_the_same_made_id(tmp_path):
    item = {key: value for key, value in row().items() if key != "id"}
    forms = [item, item | {"answers": "Ada Lovelace"}, item | {"answers": [["Ada Lovelace", 0]]}]
    ids = {read(write(tmp_path, f"{number}.jsonl", as_lines([one])))[0]["id"] for number, one in enumerate(forms)}
    assert len(ids) == 1
