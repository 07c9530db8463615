"""Whatever a file holds: it is read, or it is one error that names the place, the value and the cure."""

from __future__ import annotations

import gzip
import json
import logging
import sys
import zipfile
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qa_lightning.data.formats import SUFFIXES
from qa_lightning.data.sources import source_fingerprint
from qa_lightning.errors import InputError
from tests.helpers import commands
from tests.helpers.forms import (
    ASTRAL,
    CONTEXT,
    ROWS,
    as_json,
    as_lines,
    as_parquet,
    as_table,
    cases,
    nested,
    read,
    row,
    with_listed_answers,
    write,
)

HEADER = b"id,question,context,answer_text,answer_start\n"
GOOD = b"q1,Who?,Ada is here.,Ada,0\n"
ASK = "--data.columns."


def damaged_parquet():
    content = bytearray(as_parquet([row(id=number) for number in range(50)]))
    content[4:40] = b"\xff" * 36  # the first page; the footer stays
    return bytes(content)


def damaged_gzip():
    content = bytearray(gzip.compress(as_lines(ROWS)))
    content[10] = 0xFF  # the head of the first block, of a kind that there is not
    return bytes(content)


def parquet_of(**columns):
    def build(path):
        pq.write_table(pa.table({name: pa.array(values) for name, values in columns.items()}), path)

    return build


def parquet_with_a_column_twice(path):
    arrays = [pa.array(["x"])] * 5
    pq.write_table(pa.Table.from_arrays(arrays, ["id", "question", "context", "context", "answers"]), path)


def spreadsheet(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("xl/workbook.xml", "<workbook/>")


def saved_without_data(path):
    Dataset.from_list(ROWS).save_to_disk(str(path))
    for part in path.glob("*.arrow"):
        part.write_bytes(part.read_bytes()[:100])


def deep(levels):
    return b'[{"id": "q1", "question": "Who?", "context": "Ada", "answers": ' + b"[" * levels + b"]" * levels + b"}]"


def nested_with(**changes):
    """SQuAD's layout; its second article's first paragraph changed, and without what is None."""
    data = nested(ROWS)
    paragraph = data["data"][1]["paragraphs"][0] | changes
    data["data"][1]["paragraphs"][0] = {key: value for key, value in paragraph.items() if value is not None}
    return as_json(data)


# What is wrong: the source, what it holds or what makes it, and words of the one error. The file is refused.
FILES = {
    # names
    "missing file": ("q.json", None, ["q.json: no such file", "looked in", "JSON lines, CSV, TSV or Parquet"]),
    "missing file, other form": ("q.parquet", None, ["q.parquet: no such file"]),
    "missing packed file": ("q.csv.gz", None, ["q.csv.gz: no such file"]),
    "a directory": ("q.json", lambda path: path.mkdir(), ["q.json: is a folder; name a file (.json", "q.json/*.json"]),
    "one missing file in a list": (
        "{0}/ok.json,{0}/absent.json,{0}/gone.csv",
        lambda path: write(path.parent, "ok.json", as_json(ROWS)),
        ["absent.json: no such file", "gone.csv: no such file"],
    ),
    "a directory in a list": (
        "{0}/ok.json,{0}/sub",
        lambda path: (write(path.parent, "ok.json", as_json(ROWS)), (path.parent / "sub").mkdir()),
        ["sub: is a folder; name a file"],
    ),
    "a pattern that nothing fits": ("{0}/part-*.json", None, ["part-*.json: no file fits this pattern (looked in"]),
    "a pattern that is none": ("{0}/**x.json", None, ["**x.json: not a usable path", "'**'"]),
    "a pattern that fits other files too": (
        "{0}/*",
        lambda path: (write(path.parent, "ok.json", as_json(ROWS)), write(path.parent, "notes.txt", b"x")),
        ["notes.txt: cannot read the format of the ending '.txt'; known are .json, .jsonl, .ndjson, .csv"],
    ),
    "a name of blanks": ("  ", None, ["'' names nothing; give a file, a folder or the name of a dataset"]),
    "a name too long for any file": ("{0}/" + "x" * 5000 + ".json", None, ["not a usable path", "too long"]),
    "no ending": ("squad", b"{}", ["squad: cannot read the format of the ending ''", "known are .json"]),
    "unknown ending": ("q.txt", b"id,question", ["q.txt", "ending '.txt'", ".csv, .tsv, .parquet, each also with .gz"]),
    "packed, and no ending": ("squad.gz", gzip.compress(b"[]"), ["does not tell what is packed; name it .json.gz"]),
    "a spreadsheet": ("q.xlsx", spreadsheet, ["q.xlsx", "ending '.xlsx'; save the sheet as CSV UTF-8"]),
    "an archive": ("q.zip", spreadsheet, ["q.zip", "ending '.zip'; unpack it"]),
    "an Arrow file": ("q.arrow", b"ARROW1", ["q.arrow", "name the folder that datasets saved it in"]),
    "a saved dataset that is not whole": ("saved", saved_without_data, ["saved: not a dataset that `datasets` saved"]),
    # encodings
    "JSON in UTF-16": ("q.json", json.dumps(ROWS).encode("utf-16"), ["q.json: not UTF-8, as it is UTF-16; save it as"]),
    "JSON in UTF-16, no mark": ("q.json", json.dumps(ROWS).encode("utf-16-le"), ["q.json: holds NUL bytes, as UTF-16"]),
    "JSON lines in UTF-16": ("q.jsonl", json.dumps(ROWS[0]).encode("utf-16"), ["q.jsonl: not UTF-8, as it is UTF-16"]),
    "CSV in UTF-16": ("q.csv", as_table(ROWS).decode().encode("utf-16"), ["q.csv: not UTF-8, as it is UTF-16; save"]),
    "CSV in UTF-16, no mark": ("q.csv", as_table(ROWS).decode().encode("utf-16-be"), ["q.csv: holds NUL bytes"]),
    "JSON in Latin-1": (
        "q.json",
        "[é".encode("latin-1"),
        ["q.json: not UTF-8", "byte 1 is 0xe9", "Latin-1", "save it as UTF-8"],
    ),
    "JSON lines in Latin-1": (
        "q.jsonl",
        b'\n{"id": "\xe9"}',
        ["q.jsonl line 2: not one JSON object in UTF-8 (byte 8 is 0xe9); save the file as UTF-8"],
    ),
    "CSV in Windows-1252": (
        "q.csv",
        HEADER + GOOD + b"q2,Who?,Ada \x96 here.,Ada,0\n",
        ["q.csv line 3: not UTF-8 (byte 12 is 0x96", "Windows-1252", "save it as UTF-8"],
    ),
    "CSV in Latin-1, far on": (
        "q.csv",
        HEADER + b"".join(b"q%d,Who?,Ada,Ada,0\n" % number for number in range(5000)) + b"q,Qu\xe9?,Ada,Ada,0\n",
        ["q.csv line 5002: not UTF-8 (byte 4 is 0xe9"],
    ),
    "half a character at the end": ("q.csv", HEADER + GOOD + b"q2,Who?,Ada \xc3", ["q.csv line 3: not UTF-8"]),
    "half surrogates as bytes": ("q.csv", HEADER + b"q,Who?,\xed\xa0\xbd,,\n", ["q.csv line 2: not UTF-8"]),
    # damaged, or something else
    "gzip that is none": ("q.json.gz", as_json(ROWS), ["q.json.gz: not a whole gzip file", "take .gz off its name"]),
    "gzip without .gz": ("q.json", gzip.compress(as_json(ROWS)), ["q.json: not UTF-8, as it is gzip; add .gz to"]),
    "truncated gzip": ("q.json.gz", gzip.compress(as_json(ROWS))[:-30], ["gzip file is cut off or damaged", "anew"]),
    "truncated gzip of lines": ("q.jsonl.gz", gzip.compress(as_lines(ROWS))[:-30], ["q.jsonl.gz", "is cut off"]),
    "truncated gzip of CSV": ("q.csv.gz", gzip.compress(as_table(ROWS))[:-30], ["q.csv.gz", "is cut off"]),
    "truncated gzip of Parquet": ("q.parquet.gz", gzip.compress(as_parquet(ROWS))[:-30], ["is cut off"]),
    "damaged gzip": ("q.jsonl.gz", damaged_gzip(), ["q.jsonl.gz", "damaged", "anew"]),
    "gzip with a wrong sum": (
        "q.jsonl.gz",
        gzip.compress(as_lines(ROWS))[:-8] + b"\0" * 8,
        ["q.jsonl.gz: not a whole gzip file (CRC check failed", "make or fetch it anew"],
    ),
    "gzip of nothing": ("q.json.gz", b"", ["q.json.gz: is empty"]),
    "not Parquet": ("q.parquet", as_json(ROWS), ["q.parquet: not a readable Parquet file", "anew"]),
    "empty Parquet file": ("q.parquet", b"", ["q.parquet: not a readable Parquet file"]),
    "truncated Parquet": ("q.parquet", as_parquet(ROWS)[:-50], ["q.parquet: not a readable Parquet file"]),
    "damaged Parquet": ("q.parquet", damaged_parquet(), ["q.parquet: not a readable"]),
    "Parquet with a name that is no text": (
        "q.parquet",
        as_parquet(ROWS).replace(b"question", b"\xff\xffestion"),
        ["q.parquet: not a readable Parquet file ('utf-8' codec"],
    ),
    "Parquet with a text that is none": (
        "q.parquet",
        as_parquet([row(question="Whose?")]).replace(b"Whose?", b"Who\xff\xff?"),
        ["q.parquet: not a readable Parquet file ('utf-8' codec"],
    ),
    "Parquet named .csv": ("q.csv", as_parquet(ROWS), ["q.csv: not UTF-8, as it is Parquet; end its name in .parquet"]),
    "spreadsheet named .csv": ("q.csv", spreadsheet, ["q.csv", "a spreadsheet", "save the sheet as CSV UTF-8"]),
    "Parquet with a column twice": ("q.parquet", parquet_with_a_column_twice, ["has the columns 'context' twice"]),
    "NUL bytes": ("q.json", b"\0" * 500, ["q.json: holds NUL bytes", "name the right file"]),
    # nothing
    "empty file": ("q.json", b"", ["q.json: is empty"]),
    "a file of white space": ("q.json", b" \n\t\r\n", ["q.json: is empty"]),
    "empty table": ("q.csv", b"", ["q.csv: is empty; its first line names the columns"]),
    "table of white space": ("q.tsv", b" \n" * 9999, ["q.tsv: is empty; its first line names the columns"]),
    "table of a byte-order mark": ("q.csv", b"\xef\xbb\xbf", ["q.csv: is empty; its first line names the columns"]),
    "table of separators": ("q.csv", b";;;\n;;;\n", ["q.csv: is empty; its first line names the columns"]),
    "header only": ("q.csv", HEADER, ["no questions"]),
    "no articles": ("q.json", b'{"data": []}', ["no questions"]),
    "no lines": ("q.jsonl", b"\n\n", ["no questions"]),
    "paragraphs without questions": ("q.json", as_json(nested([])), ["no questions"]),
    "Parquet without rows": ("q.parquet", parquet_of(id=pa.array([], pa.string())), ["no questions"]),
    # no row that is good
    "columns of the wrong type": (
        "q.parquet",
        parquet_of(id=["a", "b"], question=[1, 2], context=[1.5, 2.5], answers=[True, False]),
        ["row 1: question is 1, not a text", "row 1: context is 1.5, not a text", "row 2: question is 2", "4 problems"],
    ),
    "texts as bytes": (
        "q.parquet",
        parquet_of(id=[1], question=[b"Who?"], context=["Ada"], answer_text=["Ada"], answer_start=[0]),
        ["question is b'Who?', not a text"],
    ),
    # JSON
    "invalid JSON": ("q.json", b'[\n {"id": }]', ["q.json: not valid JSON", "line 2, column 9", "Expecting value"]),
    "truncated JSON": ("q.json", as_json(nested(ROWS))[:-20], ["q.json: not valid JSON"]),
    "a page of an error": ("q.json", b"<!DOCTYPE html>", ["not valid JSON", "it begins '<!DOCTYPE html>'"]),
    "JSON lines named .json": ("q.json", as_lines(ROWS), ["not valid JSON", "line 2", "is named .jsonl"]),
    "JSON named .jsonl": (
        "q.jsonl",
        json.dumps(ROWS, indent=1).encode(),
        ["q.jsonl line 1: not one JSON object in UTF-8", "one JSON text is named .json"],
    ),
    "a line feed within a text": (
        "q.json",
        b'[{"id": "a\nb"}]',
        ["not valid JSON (line 1, column 11: Invalid control"],
    ),
    "absurdly deep JSON": ("q.json", b"[" * 200_000, ["q.json: not valid JSON"]),
    "absurdly long number": ("q.json", b"[" + b"9" * 5000 + b"]", ["q.json: not valid"]),
    "absurdly deep line": ("q.jsonl", b"[" * 200_000, ["q.jsonl line 1"]),
    "absurdly long number in a line": ("q.jsonl", b"9" * 5000, ["q.jsonl line 1"]),
    "a number": ("q.json", b"3", ["q.json: not a SQuAD file; expected", "not 3"]),
    "a text": ("q.json", b'"data"', ["q.json: not a SQuAD file; expected", "not 'data'"]),
    "null": ("q.json", b"null", ["q.json: not a SQuAD file; expected", "not None"]),
    "not SQuAD's layout": (
        "q.json",
        b'{"questions": [], "version": 1}',
        ["not a SQuAD file", '{"data": [articles with paragraphs]}', "id, question", "an object with 'questions'"],
    ),
    "one row": ("q.json", as_json(ROWS[0]), ["not a SQuAD file", "a list of rows", "an object with 'id', 'question'"]),
    "no object at all": ("q.json", b"{}", ["not a SQuAD file", "an object with nothing"]),
    "columns, not rows": (
        "q.json",
        as_json({"data": {"id": ["q1"], "question": ["Who?"]}}),
        ["not a SQuAD file", "not with {'id': ['q1'], 'question': ['Who?']} as data"],
    ),
    "a list of texts": ("q.json", b'["a"]', ["q.json: not a SQuAD file", "number 1 is 'a'"]),
    "null among the rows": ("q.json", as_json([*ROWS, None]), ["q.json: not a SQuAD file", "number 5 is None"]),
    "paragraphs of no list": (
        "q.json",
        b'{"data": [{"paragraphs": null}]}',
        ["q.json article 1: not SQuAD's layout (paragraphs is None, not a list)"],
    ),
    "paragraph of no object": (
        "q.json",
        b'{"data": [{"paragraphs": ["Ada"]}]}',
        ["q.json article 1 paragraph 1: not SQuAD's layout (it is 'Ada', not an object)"],
    ),
    "paragraph without qas": (
        "q.json",
        nested_with(qas=None),
        ["article 2 paragraph 1: not SQuAD's layout (no 'qas'; it has 'context')", "'context' and 'qas'"],
    ),
    "paragraph without context": (
        "q.json",
        nested_with(context=None),
        ["article 2 paragraph 1: not SQuAD's layout (no 'context'; it has 'qas')"],
    ),
    "paragraph without anything": (
        "q.json",
        b'{"data": [{"paragraphs": [{}]}]}',
        ["no 'context', 'qas'; it has nothing"],
    ),
    "qas of no list": (
        "q.json",
        nested_with(qas={"id": "q1"}),
        ["article 2 paragraph 1: not SQuAD's layout (qas is {'id': 'q1'}, not a list)"],
    ),
    "question of no object": (
        "q.json",
        nested_with(qas=["Who?"]),
        ["article 2 paragraph 1 question 1: not SQuAD's layout (it is 'Who?', not an object)", "'id', 'question' and"],
    ),
    "broken line": ("q.jsonl", as_lines(ROWS[:2]) + b'\n{"id": 1', ["q.jsonl line 3: not one JSON object"]),
    "line of no object": ("q.jsonl", b"[1]", ["q.jsonl line 1: [1] is not a JSON object", "id, question"]),
    # tables
    "header with a name twice": (
        "q.csv",
        b"id,question,context,question\n",
        ["q.csv: its header names 'question' twice", "first line names columns"],
    ),
    "no header": (
        "q.csv",
        GOOD,
        ["no questions"],
    ),
    "no header, several rows": (
        "q.csv",
        GOOD * 2,
        ["q.csv row 1: no column 'question'; it has 'q1', 'Who?', 'Ada is here.', 'Ada', '0'", f"{ASK}question NAME"],
    ),
    "header of other names": (
        "q.csv",
        b"key,frage,absatz,antwort\n1,Wer?,Ada,Ada\n",
        [f"{ASK}question", f"{ASK}context", f"{ASK}answers", f"{ASK}answer_text", "it has 'key', 'frage', 'absatz'"],
    ),
    "another separator": (
        "q.csv",
        b"id|question|context\n1|Who?|Ada\n",
        ["no column 'question'; it has 'id|question|context'"],
    ),
    "an unclosed quote": (
        "q.csv",
        HEADER + GOOD + b'q2,Who?,"Ada is here.,Ada,0\n' + GOOD * 500,
        ["q.csv line 3: not valid CSV", "a quoted text that begins in this row has no end", "is doubled"],
    ),
    "a quote within quotes": (
        "q.csv",
        HEADER + GOOD * 3 + b'q2,Who?,"Ada "is" here.",Ada,0\n',
        ["q.csv line 5: not valid CSV", "each quote within it is doubled"],
    ),
    "an absurdly wide table": (
        "q.csv",
        b",".join(b"column %d" % number for number in range(20_000)) + b"\n" + b"," * 19_998 + b"x,x\n",
        ["no column 'question'; it has 'column 0', 'column 1', ", "'column 29' and 19970 more. Say which"],
    ),
}


def among(bad):
    """A bad row between good ones, as a file."""
    return "\n".join(map(json.dumps, [ROWS[0], bad, ROWS[3]])).encode()


def listed(text, start):
    return {"text": [text], "answer_start": [start]}


WITHOUT_ANSWERS = {"id": 1, "question": "q", "context": "x"}
ACCENTS = "éé “Ada” und Ada."

# What is wrong: a row, or a file of bad rows and at least one good one, and words of its problem. With `skip` the bad
# ones are left out.
BAD_ROWS = {
    # columns
    "no question": (
        {"id": 1, "context": "x", "answers": []},
        ["no column 'question'; it has 'id', 'context', 'answers'", f"{ASK}question"],
    ),
    "several columns": ({"question": "q"}, ["no column 'context'; it has 'question'", "no column 'answers'"]),
    "no column at all": ({}, ["no column 'question'; it has none"]),
    "no id, where others have one": ({"question": "q", "context": "x", "answers": []}, ["no column 'id', as others"]),
    "no answers": (WITHOUT_ANSWERS, ["no column 'answers'", f"{ASK}answers NAME", f"{ASK}answer_text NAME"]),
    "no answers, not impossible": (WITHOUT_ANSWERS | {"is_impossible": False}, ["no column 'answers'"]),
    # where answers stand
    "answer elsewhere": (
        row(answers=listed("1843", 41)),
        ["(id q1): answer '1843' is not at answer_start 41 (there: '843,')", "it stands at 40"],
    ),
    "answer at several places": (
        row(context="aa x aa y aa z aa", answers=listed("aa", 1)),
        ["answer 'aa' is not at answer_start 1 (there: 'a ')", "it stands at 0, 5, 10 and elsewhere"],
    ),
    "answer nowhere": (
        row(answers=listed("Grace Hopper", 0)),
        ["answer 'Grace Hopper' is not at answer_start 0 (there: 'Ada Lovelace')", "the context does not hold it"],
    ),
    "answer in another case": (
        row(answers=listed("ada lovelace", 0)),
        ["answer 'ada lovelace' is not at answer_start 0", "the context holds it but for upper and lower case"],
    ),
    "answer with other white space": (
        row(context="Ada\u00a0\r\nLovelace", answers=listed(" Ada\nLovelace", 0)),
        ["the context holds it but for white space (around it, line ends, tabs, no-break spaces)"],
    ),
    "answer composed otherwise": (
        row(context="cafe\u0301", answers=listed("caf\u00e9", 0)),
        ["the context holds it but for the form of its characters (composed or not, NFC or NFD)"],
    ),
    "answer past the end": (
        row(answers=listed("Babbage.", len(CONTEXT) - 3)),
        ["is not at answer_start", "(there: 'ge.')", f"it stands at {len(CONTEXT) - 8}"],
    ),
    "start in bytes": (
        row(context=ACCENTS, answers=listed("Ada", len("éé “".encode()))),
        ["answer 'Ada' is not at answer_start 8", "it stands at 4, 13; answer_start counts bytes, not characters"],
    ),
    "start in UTF-16 units": (
        row(context=ASTRAL, answers=listed("«Ada»", 24)),
        ["is not at answer_start 24", "it stands at 22; answer_start counts UTF-16 units, as JavaScript and Java do"],
    ),
    "start from 1": (
        row(answers=listed("1843", 41)),
        ["it stands at 40; answer_start counts from 1, not from 0"],
    ),
    "one of two answers": (
        row(answers={"text": ["1843", "Ada"], "answer_start": [40, 5]}),
        ["answer 'Ada' is not at answer_start 5"],
    ),
    "negative start": (row(answers=listed(".", -1)), ["answer_start is -1", "from 0"]),
    "fractional start": (row(answers=listed("Ada", 0.5)), ["answer_start is 0.5; it is a whole number", "from 0"]),
    "whole start with a point": (row(answers=listed("Ada", 0.0)), ["answer_start is 0.0", "from 0"]),
    "start that is not a number": (row(answers=listed("Ada", float("nan"))), ["answer_start is nan", "from 0"]),
    "bool start": (row(answers=listed("Ada", False)), ["answer_start is False", "from 0"]),
    "text start": (row(answers=[{"text": "Ada", "answer_start": "0"}]), ["answer_start is '0'", "from 0"]),
    "no start, one place": (row(answers=[{"text": "Ada"}]), ["answer 'Ada' has no answer_start, and it stands at 0"]),
    "no start, several places": (
        row(context="Ada, Ada", answers=[{"text": "Ada"}]),
        ["answer 'Ada' has no answer_start, and it stands at 0, 5"],
    ),
    "no start, no place": (
        row(answers=[{"text": "Bob"}]),
        ["'Bob' has no answer_start, and the context does not hold"],
    ),
    "huge start": (row(answers=listed("Ada", 10**30)), [f"not at answer_start {10**30}", "(there: '')"]),
    # answers of another shape
    "answer of no text": (row(answers=[{"text": 1843, "answer_start": 40}]), ["answer text is 1843, not a text"]),
    "answer of null": (row(answers=listed(None, 0)), ["answer text is None, not a text"]),
    "empty answer": (row(answers=listed("", 0)), ["answer text is ''", "unanswerable question has no answers at all"]),
    "blank answer": (row(answers=listed(" ", 3)), ["answer text is ' '"]),
    "unequal lists": (
        row(answers={"text": ["Ada"], "answer_start": [0, 40]}),
        ["1 answer texts but 2 answer_start values", "in pairs"],
    ),
    "answers of a text": (
        row(answers="1843"),
        ["answers is '1843', not a list of answers", f"texts alone with {ASK}answer_text"],
    ),
    "answers of texts": (
        row(answers=["1843"]),
        ["answers is ['1843'], not a list of answers", f"texts alone with {ASK}answer_text"],
    ),
    "answers of a number": (row(answers=1843), ["answers is 1843, not a list of answers"]),
    "answers of lists": (row(answers=[["1843", 40]]), ["answers is [['1843', 40]], not a list of answers"]),
    "answers nested deep": (row(answers=json.loads("[" * 500 + "]" * 500)), ["answers is [[[[", "not a list of"]),
    "one text": (row(answers={"text": "Ada", "answer_start": 0}), ["the lists 'text' and 'answer_start'"]),
    "answers without starts": (row(answers={"text": ["Ada"]}), ["the lists 'text' and 'answer_start'"]),
    "answers of nothing": (row(answers={}), ["answers is {}; it needs the lists 'text' and 'answer_start'"]),
    # other fields
    "empty context": (row(context=""), ["context is empty; fill it in or leave the row out"]),
    "blank context": (row(context=" \n\u00a0"), ["context is empty"]),
    "empty question": (row(question=""), ["question is empty; fill it in or leave the row out"]),
    "null context": (row(context=None), ["context is None, not a text"]),
    "null question": (row(question=None), ["question is None, not a text"]),
    "question of a list": (row(question=["Who?"]), ["question is ['Who?'], not a text"]),
    "long value": (row(question=["x" * 500]), ["question is ['" + "x" * 55 + "..., not a text"]),
    "surrogate in the context": (row(context="a \ud83d b"), ["context holds half of a surrogate pair", "UTF-8"]),
    "surrogate in the question": (row(question="\udc00?"), ["question holds half of a surrogate pair", "UTF-8"]),
    "surrogate in an answer": (
        row(answers=listed("\ud83d", 0)),
        ["answer text holds half of a surrogate pair", "UTF-8"],
    ),
    "surrogate in the id": (row(id="\ud83d"), ["id holds half of a surrogate pair", "UTF-8"]),
    "null id": (row(id=None), ["id is None; give every question a text or number of its own"]),
    "empty id": (row(id=""), ["id is ''"]),
    "blank id": (row(id=" "), ["id is ' '"]),
    "bool id": (row(id=True), ["id is True"]),
    "fractional id": (row(id=1.5), ["id is 1.5"]),
    "id of a list": (row(id=[]), ["id is []"]),
    "an id twice": (row(id=ROWS[0]["id"]), ["id 'several golds' stands already at", "line 1; ids must be unique"]),
    "impossible with answers": (row(is_impossible=True), ["(id q1): is_impossible is true, yet there are answers"]),
    "possible without": (row(is_impossible=False, answers=[]), ["is_impossible is false, yet there is no answer"]),
    "is_impossible of no truth": (row(is_impossible="maybe"), ["is_impossible is 'maybe', neither true nor false"]),
    "is_impossible of a list": (row(is_impossible=[True]), ["is_impossible is [True], neither true nor false"]),
}

BAD_TABLES = {
    "too few fields": (
        "q.csv",
        HEADER + GOOD + b"q2,Who?,Ada\n",
        ["q.csv row 2 (line 3): 3 fields where the header has 5"],
    ),
    "too many fields": (
        "q.csv",
        HEADER + GOOD + b"q2,Who?,Ada, who is here,Ada,0\n",
        ["q.csv row 2 (line 3): 6 fields where the header has 5; put texts that hold ',' or line breaks in double"],
    ),
    "too many fields in TSV": (
        "q.tsv",
        (HEADER + GOOD + b"q2,Who?,Ada\n").replace(b",", b"\t"),
        ["q.tsv row 2 (line 3): 3 fields", "that hold '\\t' or line breaks"],
    ),
    "a line break without quotes": (
        "q.csv",
        HEADER + b"q2,Who?,Ada is\nhere.,Ada,0\n" + GOOD,
        ["q.csv row 1 (line 2): 3 fields", "q.csv row 2 (line 3): 3 fields"],
    ),
    "after quoted line breaks": (
        "q.csv",
        HEADER + b'q2,Who?,"Ada\n\nis\nhere.",Ada,0\nq3,Who?\n',
        ["q.csv row 2 (line 6): 2 fields where the header has 5"],
    ),
    "a NUL in a row": (
        "q.csv",
        HEADER + GOOD * 200 + b"q2,Who?,Ada\0,Ada,0\n",
        ["row 201 (line 202): holds a NUL byte"],
    ),
    "a cell that is no number": (
        "q.csv",
        HEADER + GOOD + b'q2,Who?,Ada,Ada,zero\nq3,Who?,Ada,Ada,"1,5"\nq4,Who?,Ada,Ada,1_0\nq5,Who?,Ada,Ada,1e1\n',
        ["answer_start is 'zero'", "answer_start is '1,5'", "answer_start is '1_0'", "answer_start is '1e1'"],
    ),
    "a cell that is negative": (
        "q.csv",
        HEADER + GOOD + b"q2,Who?,Ada,Ada,-1.0\n",
        ["answer_start is -1; it is a whole"],
    ),
    "a cell that is a fraction": ("q.csv", HEADER + GOOD + b"q2,Who?,Ada,Ada,0.5\n", ["answer_start is '0.5'"]),
    "a place without a text": (
        "q.csv",
        HEADER + GOOD + b"q2,Who?,Ada,,17\n",
        ["answer text is ''", "has no answers at"],
    ),
    "an empty cell": (
        "q.csv",
        HEADER + GOOD + b"q2,Who?,,,\n,Who?,Ada,,\n",
        ["row 2: context is empty", "3: id is ''"],
    ),
    "answers that are no JSON": (
        "q.csv",
        as_table([ROWS[0], row(answers="{'text': [")]).replace(b'"""{', b'"{').replace(b'[""",', b'[",'),
        ["q.csv row 2 (id q1): answers is"],
    ),
    "nested, a bad question": (
        "q.json",
        nested_with(qas=[{"id": "q1", "question": "Who?", "answers": [{"text": "Bob", "answer_start": 0}]}]),
        ["article 2 paragraph 1 question 1 (id q1): answer 'Bob' is not at answer_start 0"],
    ),
    "nested, no id and no answers": (
        "q.json",
        nested_with(qas=[{"question": "Who?"}]),
        ["article 2 paragraph 1 question 1: no column 'answers'; it has 'question', 'context', 'title'"],
    ),
    "nested, a context of a list": (
        "q.json",
        nested_with(context=["Ada"]),
        ["article 2 paragraph 1 question 1: context is ['Ada'], not a text"],
    ),
}

if sys.version_info < (3, 11):  # whose csv module refuses the file
    del BAD_TABLES["a NUL in a row"]

# ONE table: source, content, words, whether it is rows that are bad.
MALFORMED = {
    **{name: (*case, False) for name, case in FILES.items()},
    **{name: ("q.jsonl", among(bad), ["q.jsonl line 2", *words], True) for name, (bad, words) in BAD_ROWS.items()},
    **{name: (*case, True) for name, case in BAD_TABLES.items()},
}


def made(folder, source, content):
    """Make the source; return its name."""
    path = folder / source
    if callable(content):
        content(path if "{0}" not in source else folder / "q")
    elif content is not None:
        path.write_bytes(content)
    return source.format(folder) if "{0}" in source else str(path) if source.strip() else source


@pytest.mark.parametrize(("source", "content", "words", "rows"), cases(MALFORMED))
def test_malformed_input_is_one_clear_error(tmp_path, source, content, words, rows):
    name = made(tmp_path, source, content)
    with pytest.raises(InputError) as caught:
        read(name)
    message = "\n".join(caught.value.problems)
    assert [word for word in words if word not in message] == []
    assert max(map(len, caught.value.problems)) < 2000 + len(str(tmp_path)) + 5 * len(source)
    if rows:
        assert "in the data (correct them, or pass --data.on_bad_rows skip" in caught.value.problems[0]
        assert all(problem.startswith(name) for problem in caught.value.problems[1:])


@pytest.mark.parametrize(("source", "content", "words", "rows"), cases(MALFORMED))
def test_skip_leaves_bad_rows_out_and_refuses_bad_files(tmp_path, source, content, words, rows):
    name = made(tmp_path, source, content)
    if not rows:
        with pytest.raises(InputError):
            read(name, "skip")
        return
    examples, skipped = read(name, "skip")
    assert examples
    left_out = "\n".join(skipped)
    assert [word for word in words if word not in left_out] == []


@pytest.mark.parametrize(("source", "content", "words", "rows"), cases(MALFORMED))
def test_commands_end_with_status_2_and_no_traceback(tmp_path, capsys, monkeypatch, source, content, words, rows):
    monkeypatch.setattr(logging.getLogger("qa_lightning"), "handlers", [])
    monkeypatch.setattr(logging.getLogger("qa_lightning"), "propagate", True)
    monkeypatch.setattr("sys.path", list(sys.path))
    name = made(tmp_path, source, content)
    predictions = write(tmp_path.parent, f"{tmp_path.name}-predictions.json", b"{}")
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        commands.run_command(lambda: commands.evaluate(["--predictions", str(predictions), "--data", name]))
    output = capsys.readouterr()
    assert ended.value.code == 2
    assert output.err.startswith("error: ")
    assert "Traceback" not in output.err
    assert len(output.err) < 50_000


@pytest.mark.parametrize("use", [read, lambda path: source_fingerprint(str(path), "train")])
def test_a_file_that_may_not_be_read_is_one_clear_error(tmp_path, monkeypatch, use):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    for suffix in (".json", ".jsonl", ".csv"):
        path = write(tmp_path, f"q{suffix}", b"x")
        with monkeypatch.context() as patch:
            patch.setattr(Path, "open", refuse)
            with pytest.raises(InputError, match=rf"q\{suffix}: cannot be read \(Permission denied\)$"):
                use(path)


def test_the_table_is_long():
    assert len(MALFORMED) >= 40
    assert (
        not (FILES.keys() & BAD_ROWS.keys())
        | (FILES.keys() & BAD_TABLES.keys())
        | (BAD_ROWS.keys() & BAD_TABLES.keys())
    )


# --- what nobody thought of ---

CONTENTS = {
    ".json": as_json(nested(ROWS, "v2.0")),
    ".jsonl": as_lines(ROWS),
    ".ndjson": as_lines(with_listed_answers(ROWS)),
    ".csv": as_table(ROWS),
    ".tsv": as_table(ROWS, "\t"),
    ".parquet": as_parquet(ROWS),
}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_to_a_file_is_read_or_refused(tmp_path, suffix, packed, data):
    content = gzip.compress(CONTENTS[suffix], 1, mtime=0) if packed else CONTENTS[suffix]
    for _ in range(data.draw(st.integers(1, 3), "damages")):
        place = data.draw(st.integers(0, len(content)), "place")
        length = data.draw(st.sampled_from([0, 1, 1, 5, 10**6]), "length")
        other = data.draw(
            st.sampled_from([b"", b"\0", b"\xff", b'"', b",", b"\n", b"}", b"[", b"9", b"\xed\xa0\x80"]), "other"
        )
        content = content[:place] + other + content[place + length :]
    path = tmp_path / f"q{suffix}{'.gz' if packed else ''}"
    path.write_bytes(content)
    for on_bad_rows in ("error", "skip", "repair"):
        with suppress(InputError):
            read(path, on_bad_rows)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 60)
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=5)
    | st.sampled_from(
        ["Ada", "1843", CONTEXT, "[]", "{}", "[1]", '{"text": ["Ada"], "answer_start": [0]}', "nan", "true"]
    ),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["text", "answer_start", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)
NAMES = st.sampled_from(
    [
        "id",
        "question",
        "context",
        "answers",
        "answer_text",
        "answer",
        "answer_start",
        "start",
        "is_impossible",
        "q",
        "x",
    ]
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.dictionaries(NAMES, VALUES, max_size=6)
        | st.dictionaries(NAMES, VALUES, max_size=3).map(lambda changes: row() | changes)
        | st.just(row()),
        max_size=4,
    )
)
def test_any_values_of_rows_are_read_or_refused(tmp_path, rows):
    path = tmp_path / "q.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    for on_bad_rows in ("error", "skip", "repair"):
        try:
            result = read(path, on_bad_rows)
        except InputError:
            continue
        for example in result if on_bad_rows == "error" else result[0]:
            for text, start in zip(example["answers"]["text"], example["answers"]["answer_start"], strict=True):
                assert example["context"][start : start + len(text)] == text


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(VALUES)
def test_any_json_is_read_or_refused(tmp_path, value):
    path = tmp_path / "q.json"
    for content in (
        value,
        {"data": value},
        {"data": [{"paragraphs": value}]},
        [{"paragraphs": [{"context": value, "qas": value}]}],
    ):
        path.write_text(json.dumps(content))
        with pytest.raises(InputError):
            read(path)
