"""The same rows in every format and layout that can be read, and a function that reads them."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qa_lightning.data.columns import Columns, ReadSettings, with_usual_columns
from qa_lightning.data.examples import SKIPPING, RowChanges, read_examples
from qa_lightning.data.sources import read_rows

CONTEXT = "Ada Lovelace wrote the first program in 1843, for a machine of Charles Babbage."
ASTRAL = "𝔸da 🚀 flew. Ⅳ — naïve «Ada» e\u0301te\u0301."
ROWS = [
    {
        "id": "several golds",
        "question": "When was the first program written?",
        "context": CONTEXT,
        "answers": {"text": ["1843", "in 1843", "1843"], "answer_start": [40, 37, 40]},
    },
    {
        "id": "one gold",
        "question": "Who wrote it?",
        "context": CONTEXT,
        "answers": {"text": ["Ada Lovelace"], "answer_start": [0]},
    },
    {
        "id": "code points, not UTF-16 units or bytes",
        "question": "Qu’est-ce que «Ada» ?",
        "context": ASTRAL,
        "answers": {"text": ["«Ada»", "e\u0301te\u0301"], "answer_start": [22, 28]},
    },
    {
        "id": "no answer",
        "question": "Who landed? ",
        "context": ASTRAL,
        "answers": {"text": [], "answer_start": []},
    },
]


def row(**changes: Any) -> dict[str, Any]:
    return {**ROWS[1], "id": "q1", **changes}


def read(source: Path | str, on_bad_rows: str = "error", told: list[str] | None = None, **options: Any) -> Any:
    """The examples of a source; with ``skip`` also the problems of the skipped rows, with ``repair`` the repairs; with
    ``repair_or_skip`` both, and the answers that were left out.

    Lines about guessed columns are appended to ``told``. Titles of articles, which only SQuAD's own layout has, are
    removed unless ``titles=True`` is among the options.
    """
    changes = RowChanges(left_out=options.pop("left_out", []))
    titles = options.pop("titles", False)
    reading = options.pop("reading", ReadSettings(options.pop("columns", Columns())))
    told = told if told is not None else []
    raw = read_rows(str(source), "train", reading)
    rows = with_usual_columns(raw, reading, told.append, skips=on_bad_rows in SKIPPING)
    examples = list(read_examples(rows, on_bad_rows, changes, **options))
    for example in examples if not titles else []:
        example.pop("title", None)
    skipped, repaired = changes.skipped, changes.repaired
    found = {"error": examples, "skip": (examples, skipped), "repair": (examples, repaired)}
    return (found | {"repair_or_skip": (examples, skipped, repaired, changes.left_out)})[on_bad_rows]


def write(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(content, 1) if path.suffix == ".gz" else content)
    return path


def cases(table: dict[str, Any]) -> list[Any]:
    """Turn {name: arguments} into pytest parameters with the names as ids."""
    return [pytest.param(*values, id=name) for name, values in table.items()]


def nested(rows: list[dict], version: str | None = None, titles: bool = True) -> dict[str, Any]:
    """Rows in SQuAD's official nested layout; ``version="v2.0"`` adds the extra keys of v2.0."""
    paragraphs: dict[str, list[dict]] = {}
    for item in rows:
        answers = listed_answers(item)
        qa = {"id": item["id"], "question": item["question"], "answers": answers}
        if version == "v2.0":
            qa["is_impossible"] = not answers
            qa |= {} if answers else {"plausible_answers": [{"text": "flew", "answer_start": 7}]}
        paragraphs.setdefault(item["context"], []).append(qa)
    articles = [
        {"title": f"article {context[:3]}", "paragraphs": [{"context": context, "qas": qas}]}
        for context, qas in paragraphs.items()
    ]
    if not titles:
        articles = [{"paragraphs": article["paragraphs"]} for article in articles]
    return {"version": version, "data": articles}


def listed_answers(item: dict) -> list[dict]:
    """The answers of a row in the other usual layout: ``[{"text", "answer_start"}, ...]``."""
    pairs = zip(item["answers"]["text"], item["answers"]["answer_start"], strict=True)
    return [{"text": text, "answer_start": start} for text, start in pairs]


def with_listed_answers(rows: list[dict]) -> list[dict]:
    return [item | {"answers": listed_answers(item)} for item in rows]


def as_json(data: Any) -> bytes:
    return json.dumps(data, ensure_ascii=False).encode()


def as_lines(rows: list[dict], between: bytes = b"\n") -> bytes:
    return between.join(as_json(item) for item in rows)


def as_parquet(rows: list[dict]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink, row_group_size=3)
    return sink.getvalue().to_pybytes()


def as_arrow(rows: list[dict], kind: str = "stream") -> bytes:
    """Arrow's stream, as `datasets` writes it, or its file format."""
    table, sink = pa.Table.from_pylist(rows), pa.BufferOutputStream()
    with (pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file)(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def as_workbook(rows: list[dict]) -> bytes:
    """A workbook of one sheet; what is no text or number is JSON."""
    plain = (str, int, float, type(None))
    cells = [[one if isinstance(one, plain) else json.dumps(one) for one in item.values()] for item in rows]
    return workbook({"Sheet": [list(rows[0]), *cells]})


def workbook(sheets: dict[str, list[list[Any]]], hidden: tuple[str, ...] = ()) -> bytes:
    """A workbook of sheets with these cells."""
    book = openpyxl.Workbook()
    for sheet in book.worksheets:
        book.remove(sheet)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        sheet.sheet_state = "hidden" if name in hidden else "visible"
        for cells in rows:
            sheet.append(cells)
    sink = io.BytesIO()
    book.save(sink)
    return sink.getvalue()


def changed_workbook(content: bytes, part: str, *changes: tuple[bytes, bytes], added: dict[str, bytes] = {}) -> bytes:  # noqa: B006
    """A workbook of which a part has other content in some places, old and new, and to which parts were added."""
    sink, good = io.BytesIO(), zipfile.ZipFile(io.BytesIO(content))
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as bad:
        for name in good.namelist():
            held = good.read(name)
            for old, new in changes if name == part else ():
                assert old in held
                held = held.replace(old, new)
            bad.writestr(name, held)
        for name, held in added.items():
            bad.writestr(name, held)
    return sink.getvalue()


def as_table(rows: list[dict], separator: str = ",", **options: Any) -> bytes:
    """CSV as Python's csv module writes it; answers are JSON texts."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), delimiter=separator, **options)
    writer.writeheader()
    for item in rows:
        writer.writerow({name: value if isinstance(value, str) else json.dumps(value) for name, value in item.items()})
    return text.getvalue().encode()
