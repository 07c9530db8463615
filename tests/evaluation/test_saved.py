"""Answers are read to be scored as `predict` writes them, and as other tools save them again."""

from __future__ import annotations

import gzip
import json

import pandas as pd
import pytest

from qa_lightning.errors import InputError
from qa_lightning.evaluation.saved import read_predictions

ROWS = [
    {"row": 1, "id": "10", "answer": "Marta", "start": 0, "end": 5, "score": 0.25},
    {"row": 2, "id": "11", "answer": "", "start": 0, "end": 0, "score": 0.5},
    {"row": 4, "id": "12", "answer": 'a "b"\nc, {d} é\u2028', "start": 3, "end": 9, "score": 1e-7},
]
WANTED = {row["id"]: row["answer"] for row in ROWS}
TABLE = pd.DataFrame(ROWS)


def lines(rows=ROWS, **options) -> str:
    return "".join(f"{json.dumps(row, **options)}\n" for row in rows)


SAVED = {
    "as predict writes it": ("a.jsonl", lines(ensure_ascii=False)),
    "one object": ("a.json", json.dumps(WANTED)),
    "indented, one object": ("a.json", json.dumps(WANTED, indent=2)),
    "without blanks": ("a.jsonl", lines(separators=(",", ":"))),
    "keys in another order": ("a.jsonl", lines(sort_keys=True)),
    "fewer keys": ("a.jsonl", lines([{"answer": row["answer"], "id": row["id"]} for row in ROWS])),
    "under another name": ("answers.txt", lines()),
    "indented, one after the other": ("a.jsonl", lines(indent=4)),
    "all on one line": ("a.json", lines().replace("\n", " ")),
    "Windows line ends": ("a.jsonl", lines().replace("\n", "\r\n")),
    "blank lines and a byte order mark": ("a.jsonl", "\ufeff\n" + lines().replace("\n", "\n\n")),
    "no line end at the end": ("a.jsonl", lines().rstrip("\n")),
    "a list": ("a.json", json.dumps(ROWS)),
    "a list for the evaluate library": (
        "a.json",
        json.dumps([{"prediction_text": row["answer"], "id": row["id"]} for row in ROWS]),
    ),
    "numbers as ids": ("a.jsonl", lines([{**row, "id": int(row["id"])} for row in ROWS])),
    "fractions as ids": ("a.jsonl", lines([{**row, "id": float(row["id"])} for row in ROWS])),
    "pandas, lines": ("a.jsonl", TABLE.to_json(orient="records", lines=True)),
    "pandas, records": ("a.json", TABLE.to_json(orient="records")),
    "pandas, columns": ("a.json", TABLE.to_json()),
    "pandas, split": ("a.json", TABLE.to_json(orient="split")),
    "pandas, index": ("a.json", TABLE.to_json(orient="index")),
    "pandas, index of ids": ("a.json", TABLE.set_index("id")[["answer", "score"]].to_json(orient="index")),
    "pandas, table": ("a.json", TABLE.to_json(orient="table")),
    "lists of columns": ("a.json", json.dumps(TABLE.to_dict(orient="list"))),
    "pandas, CSV": ("a.csv", TABLE.to_csv()),
    "pandas, TSV": ("a.tsv", TABLE.to_csv(sep="\t", index=False)),
}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize(("name", "content"), SAVED.values(), ids=SAVED)
def test_answers_are_read_whatever_tool_saved_them(tmp_path, name, content, packed) -> None:
    data = content.encode()
    path = tmp_path / (name + (".gz" if packed else ""))
    path.write_bytes(gzip.compress(data) if packed else data)
    assert read_predictions(path) == WANTED


@pytest.mark.parametrize(
    ("name", "content"),
    [SAVED["one object"], SAVED["as predict writes it"], SAVED["pandas, CSV"]],
    ids=lambda one: one[:8],
)
def test_a_byte_order_mark_says_the_encoding_and_all_else_is_utf_8(tmp_path, name, content) -> None:
    content = content.replace("\\u00e9", "é").replace("\u2028", "").replace("\\u2028", "")
    path = tmp_path / name
    path.write_bytes(content.encode("utf-16"))
    assert read_predictions(path) == {key: text.replace("\u2028", "") for key, text in WANTED.items()}
    path.write_bytes(content.encode("cp1252"))
    with pytest.raises(InputError, match=r"--predictions .* not UTF-8 \(byte .* is 0xe9\); save it as UTF-8$"):
        read_predictions(path)
    path.write_bytes(b'\xef\xbb\xbf{"q": "\xe9"}')
    with pytest.raises(InputError, match=r"not UTF-8 \(byte 10 is 0xe9\)"):
        read_predictions(path)


def test_answers_are_read_from_parquet(tmp_path) -> None:
    TABLE.to_parquet(tmp_path / "a.parquet")
    assert read_predictions(tmp_path / "a.parquet") == WANTED


def test_one_answer_in_a_line_is_a_row_not_an_object_of_answers(tmp_path) -> None:
    (tmp_path / "a.jsonl").write_text(lines(ROWS[:1]))
    assert read_predictions(tmp_path / "a.jsonl") == {"10": "Marta"}
    (tmp_path / "a.json").write_text("[]")
    assert read_predictions(tmp_path / "a.json") == {}


BAD = {
    "a half line": (lines(ROWS[:2]) + '{"row": 3, "id"', ["line 3: cannot be read as JSON"]),
    "two bad lines": (
        '{"id": 1}\n' + lines(ROWS[:1]) + "[]\n",
        ["line 1: {'id': 1} is no object with", "line 3: [] is"],
    ),
    "null": (
        lines([{"id": "1", "answer": None}, ROWS[0]]),
        ["line 1: the prediction for id '1' is None; it must be a"],
    ),
    "a number": (lines([ROWS[0], {"id": "1", "answer": 7}]), ["line 2: the prediction for id '1' is 7"]),
    "null, alone": ('{"id": 7, "answer": null}', ["line 1: the prediction for id '7' is None"]),
    "an id of null": (lines([{"id": None, "answer": "x"}, ROWS[0]]), ["line 1: id is None; it must be a text or a"]),
    "an id of true": (lines([{"id": True, "answer": "x"}, ROWS[0]]), ["line 1: id is True"]),
    "an id twice": (lines([ROWS[0], {**ROWS[1], "id": "10"}]), ["line 2: id '10' has another answer in a row before"]),
    "a list of texts": ('["x", "y"]', ["item 1: 'x' is no object with id and answer", "item 2: 'y' is no object"]),
    "a null in a list": ('[{"id": "1", "answer": null}]', ["item 1: the prediction for id '1' is None"]),
    "a text": (
        '"x"',
        [': expected one object {"id": "answer", ...} with texts as answers, or rows with id and answer'],
    ),
    "nothing": ("", [": cannot be read as JSON (it is empty)"]),
    "prose": ("Marta", [": cannot be read as JSON (Expecting value"]),
}


@pytest.mark.parametrize(("content", "words"), BAD.values(), ids=BAD)
def test_what_is_no_answer_is_named_by_line_and_id(tmp_path, content, words) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(InputError) as caught:
        read_predictions(path)
    assert len(caught.value.problems) == len(words)
    for problem, expected in zip(caught.value.problems, words, strict=True):
        assert problem.startswith(f"--predictions {path}")
        assert expected in problem


def test_a_table_without_the_columns_is_refused_with_its_row(tmp_path) -> None:
    (tmp_path / "a.csv").write_text("id,text\n1,x\n")
    with pytest.raises(InputError, match=r"^--predictions .*a\.csv .* is no object with id and answer"):
        read_predictions(tmp_path / "a.csv")
    (tmp_path / "a.parquet").write_text("PAR1")
    with pytest.raises(InputError, match=r"^--predictions .*a\.parquet: not a readable Parquet file"):
        read_predictions(tmp_path / "a.parquet")


def test_answers_that_are_formulas_without_a_saved_value_are_refused(tmp_path) -> None:
    pd.DataFrame({"id": ["1", "2"], "answer": ["Ada", '=CONCATENATE("B","ob")']}).to_excel(
        tmp_path / "a.xlsx", index=False
    )
    with pytest.raises(InputError, match=r"a\.xlsx row 3: column 'answer' holds a formula without a saved value"):
        read_predictions(tmp_path / "a.xlsx")
