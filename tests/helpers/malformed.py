"""Malformed inputs: the cases of the tables in tests/data/malformed/, and the contents that must be built in code.

Each case has ``expected``, texts that its error message must contain, and these keys:

    source     the name of the file; or, with {folder} (the test's folder) in it, the whole source. {long} stands for
               5,000 letters
    text       the content of the file, in ``encoding`` (default UTF-8)
    paragraph  or: changes to the paragraph of the second article of a SQuAD file; null removes a key
    built      or: a name in BUILT
               with none of these three, no file is written

A case of bad_rows.yaml has no source but ``changes`` to a good row, or a whole ``row``.
"""

from __future__ import annotations

import gzip
import json
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from datasets import Dataset

from tests.helpers.forms import (
    ROWS,
    as_arrow,
    as_json,
    as_lines,
    as_parquet,
    as_table,
    as_workbook,
    nested,
    row,
    workbook,
    write,
)
from tests.helpers.paths import ROOT

TABLES = ROOT / "tests" / "data" / "malformed"
REFUSED = ("names", "encodings", "damaged", "empty", "json", "csv")  # tables of files that are refused as a whole

HEADER = b"id,question,context,answer_text,answer_start\n"
GOOD = b"q1,Who?,Ada is here.,Ada,0\n"


@dataclass(frozen=True)
class Case:
    """An input and its error.

    Attributes:
        source: the name of a file in the test's folder; or, with {folder} in it, the whole source.
        content: of that file; or a function that writes it; or None for no file.
        expected: texts that the error message contains.
        rows: True: single rows are bad, and ``skip`` leaves them out. False: the file is refused.
    """

    source: str
    content: bytes | Callable[[Path], object] | None
    expected: list[str]
    rows: bool

    def make(self, folder: Path) -> str:
        """Write the input; return the source."""
        whole = "{folder}" in self.source
        path = folder / ("q" if whole else self.source)
        if callable(self.content):
            self.content(path)
        elif self.content is not None:
            path.write_bytes(self.content)
        return self.source.format(folder=folder) if whole else str(path) if self.source.strip() else self.source


def load_cases() -> dict[str, Case]:
    """All cases by name, in the order of the tables."""
    found = [(name, _file(case, rows=False)) for table in REFUSED for name, case in _table(table)]
    found += [(name, _row(case)) for name, case in _table("bad_rows")]
    found += [(name, _file(case, rows=True)) for name, case in _table("bad_lines")]
    if sys.version_info < (3, 11):  # its csv module refuses the whole file
        found = [(name, case) for name, case in found if name != "a NUL in a row"]
    return dict(found)


def _table(name: str) -> list[tuple[str, dict[str, Any]]]:
    return list(yaml.safe_load((TABLES / f"{name}.yaml").read_text(encoding="utf-8")).items())


def _file(case: dict[str, Any], rows: bool) -> Case:
    content = BUILT[case["built"]] if "built" in case else None
    if "text" in case:
        content = case["text"].encode(case.get("encoding", "utf-8"))
    if "paragraph" in case:
        content = _squad_with(case["paragraph"])
    return Case(case["source"].replace("{long}", "x" * 5000), content, case["expected"], rows)


def _row(case: dict[str, Any]) -> Case:
    """A file of JSON lines whose line 2 is the bad row."""
    bad = BUILT_ROWS[case["built"]] if "built" in case else row(**case["changes"]) if "changes" in case else case["row"]
    lines = "\n".join(map(json.dumps, [ROWS[0], bad, ROWS[3]])).encode()
    return Case("q.jsonl", lines, ["q.jsonl line 2", *case["expected"]], rows=True)


def _squad_with(changes: dict[str, Any]) -> bytes:
    data = nested(ROWS)
    paragraph = data["data"][1]["paragraphs"][0] | changes
    data["data"][1]["paragraphs"][0] = {key: value for key, value in paragraph.items() if value is not None}
    return as_json(data)


def _beside(path: Path, **files: bytes) -> None:
    for name, content in files.items():
        write(path.parent, name.replace("_", "."), content)


def _zip_file(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("xl/workbook.xml", "<workbook/>")


def _dataset_without_data(path: Path) -> None:
    Dataset.from_list(ROWS).save_to_disk(str(path))
    for part in path.glob("*.arrow"):
        part.write_bytes(part.read_bytes()[:100])


def _parquet_of(names: list[str], *columns: list[Any] | pa.Array) -> Callable[[Path], None]:
    return lambda path: pq.write_table(pa.Table.from_arrays([pa.array(column) for column in columns], names), path)


def _overwritten(content: bytes, begin: int, other: bytes) -> bytes:
    return content[:begin] + other + content[begin + len(other) :]


JSON, LINES, TABLE, PARQUET = as_json(ROWS), as_lines(ROWS), as_table(ROWS), as_parquet(ROWS)
SHEET = [["question", "context", "answer"], ["Who?", "Ada is here.", "Ada"]]
FIFTY_ROWS = as_parquet([row(id=number) for number in range(50)])
WIDE = b",".join(b"column %d" % number for number in range(20_000)) + b"\n" + b"," * 19_998 + b"x,x\n"

BUILT: dict[str, bytes | Callable[[Path], object]] = {
    # names
    "a folder": lambda path: path.mkdir(),
    "ok.json": lambda path: _beside(path, ok_json=JSON),
    "ok.json and the folder sub": lambda path: (_beside(path, ok_json=JSON), (path.parent / "sub").mkdir()),
    "ok.json and notes.txt": lambda path: _beside(path, ok_json=JSON, notes_txt=b"x"),
    "a zip file": _zip_file,
    "a saved dataset without its data": _dataset_without_data,
    # encodings
    "JSON in UTF-16, no mark": json.dumps(ROWS).encode("utf-16-le"),
    "CSV in UTF-16, no mark": TABLE.decode().encode("utf-16-be"),
    "CSV with Latin-1 in line 5002": HEADER
    + b"".join(b"q%d,Who?,Ada,Ada,0\n" % number for number in range(5000))
    + b"q,Qu\xe9?,Ada,Ada,0\n",
    # gzip
    "gzip": gzip.compress(b"[]"),
    "gzip of JSON": gzip.compress(JSON),
    "truncated gzip of JSON": gzip.compress(JSON)[:-30],
    "truncated gzip of lines": gzip.compress(LINES)[:-30],
    "truncated gzip of CSV": gzip.compress(TABLE)[:-30],
    "truncated gzip of Parquet": gzip.compress(PARQUET)[:-30],
    "damaged gzip": _overwritten(gzip.compress(LINES), 10, b"\xff"),  # an invalid type of the first block
    "gzip with a wrong checksum": gzip.compress(LINES)[:-8] + b"\0" * 8,
    # Parquet
    "Parquet": PARQUET,
    "truncated Parquet": PARQUET[:-50],
    "damaged Parquet": _overwritten(FIFTY_ROWS, 4, b"\xff" * 36),  # overwrites the first page; the footer stays valid
    "Parquet with a column name that is no UTF-8": PARQUET.replace(b"question", b"\xff\xffestion"),
    "Parquet with a text that is no UTF-8": as_parquet([row(question="Whose?")]).replace(b"Whose?", b"Who\xff\xff?"),
    "Parquet with a column twice": _parquet_of(["id", "question", "context", "context", "answers"], *[["x"]] * 5),
    "Parquet without rows": _parquet_of(["id"], pa.array([], pa.string())),
    "Parquet with columns of the wrong type": _parquet_of(
        ["id", "question", "context", "answers"], ["a", "b"], [1, 2], [1.5, 2.5], [True, False]
    ),
    "Parquet with a question as bytes": _parquet_of(
        ["id", "question", "context", "answer_text", "answer_start"], [1], [b"Who?"], ["Ada"], ["Ada"], [0]
    ),
    # workbooks and Arrow
    "half a workbook": (WORKBOOK := as_workbook(ROWS))[: len(WORKBOOK) // 2],
    "a workbook of one column": as_workbook([{"notes": "x"}, {"notes": "y"}]),
    "a workbook with a title": lambda path: path.write_bytes(workbook({"May": [["Questions of May"], *SHEET]})),
    "a workbook with a name twice": lambda path: path.write_bytes(workbook({"May": [["context"] * 2, ["x", "y"]]})),
    "half an Arrow file": (ARROW := as_arrow(ROWS))[: len(ARROW) // 2],
    # JSON
    "JSON": JSON,
    "indented JSON": json.dumps(ROWS, indent=1).encode(),
    "truncated JSON": as_json(nested(ROWS))[:-20],
    "rows and null as JSON": as_json([*ROWS, None]),
    "two JSON lines and half of one": as_lines(ROWS[:2]) + b'\n{"id": 1',
    "200,000 brackets": b"[" * 200_000,
    "a number of 5,000 digits": b"9" * 5000,
    "a number of 5,000 digits in a list": b"[" + b"9" * 5000 + b"]",
    "500 NUL bytes": b"\0" * 500,
    # CSV
    "9,999 lines of a blank": b" \n" * 9999,
    "CSV with an unclosed quote": HEADER + GOOD + b'q2,Who?,"Ada is here.,Ada,0\n' + GOOD * 500,
    "CSV with 20,000 columns": WIDE,
    "CSV with a NUL in row 201": HEADER + GOOD * 200 + b"q2,Who?,Ada\0,Ada,0\n",
    "CSV with answers that are no JSON": as_table([ROWS[0], row(answers="{'text': [")])
    .replace(b'"""{', b'"{')
    .replace(b'[""",', b'[",'),
}

BUILT_ROWS = {
    "a row with answers nested deep": row(answers=json.loads("[" * 500 + "]" * 500)),
    "a row with a question of 500 letters in a list": row(question=["x" * 500]),
}
