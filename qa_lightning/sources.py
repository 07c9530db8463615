"""Any source -> raw rows, streamed, each with the place where it stands.

Sources: the embedded dataset (``synthetic``), official nested SQuAD JSON (v1.1 and v2.0), flat JSON, JSON lines,
Parquet, and a dataset of the Hugging Face Hub. A ``.json`` file is read whole, which the format asks for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from qa_lightning import synthetic
from qa_lightning.errors import InputError

Split = Literal["train", "validation"]
FILE_SUFFIXES = (".json", ".jsonl", ".ndjson", ".parquet")
_OTHER_SUFFIXES = (".csv", ".tsv", ".txt", ".gz", ".zip", ".arrow", ".xlsx")  # surely no names on the Hub either
EMBEDDED = "synthetic"
EMBEDDED_SIZES = {"train": 10_000, "validation": 500}
EMBEDDED_VERSION = 1  # raise it when synthetic.py gives other rows
COLUMNS = ("id", "question", "context", "answers")

PlacedRow = tuple[str, dict[str, Any]]  # where the row stands, for messages, and the row


def source_kind(source: str) -> Literal["embedded", "file", "hub"]:
    """Tell what ``source`` names.

    Raises:
        InputError: it looks like a file, and there is none.
    """
    if source == EMBEDDED:
        return "embedded"
    try:
        path = Path(source).expanduser()
        is_file, is_folder = path.is_file(), path.is_dir()
    except (RuntimeError, OSError) as error:  # no such user, a name that is too long
        raise InputError(f"{source}: not a usable path ({error})") from None
    if is_file:
        if path.suffix not in FILE_SUFFIXES:
            raise InputError(
                f"{source}: cannot tell the format from the ending '{path.suffix}'; "
                f"known are {', '.join(FILE_SUFFIXES)}"
            )
        return "file"
    if is_folder:
        raise InputError(f"{source}: is a folder; name a file ({', '.join(FILE_SUFFIXES)}) in it")
    if path.suffix in FILE_SUFFIXES + _OTHER_SUFFIXES or source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise InputError(
            f"{source}: no such file (looked in {Path.cwd()}); give the path of a SQuAD JSON, "
            "JSON lines or Parquet file, or the name of a dataset on the Hub"
        )
    return "hub"


def read_rows(source: str, split: Split) -> Iterator[PlacedRow]:
    """Stream the raw rows of ``source`` with the place of each; a file has no splits, so ``split`` is not looked at.

    Raises:
        InputError: the source cannot be reached or read at all. Bad rows are found by `check_row`.
    """
    kind = source_kind(source)
    if kind == "embedded":
        rows = synthetic.generate_examples(split, EMBEDDED_SIZES[split])
        return ((f"synthetic row {number}", row) for number, row in enumerate(rows, 1))
    if kind == "hub":
        dataset = _hub_split(source, split)
        return ((f"{source} [{split}] row {number}", row) for number, row in enumerate(dataset, 1))
    path = Path(source).expanduser()
    if path.suffix == ".parquet":
        return _read_parquet(path)
    return _read_json(path) if path.suffix == ".json" else _read_json_lines(path)


def source_fingerprint(source: str, split: Split) -> str:
    """A key of the source's content: equal for equal rows, other when the file or dataset changed."""
    kind = source_kind(source)
    if kind == "embedded":
        return f"synthetic-{EMBEDDED_VERSION}-{split}-{EMBEDDED_SIZES[split]}"
    if kind == "hub":
        return f"hub-{_hub_split(source, split)._fingerprint}"
    path = Path(source).expanduser().resolve()
    state = path.stat()
    return f"file-{path.suffix}-{_digest(path, state.st_size, state.st_mtime_ns)}"


@cache
def _digest(path: Path, size: int, modified: int) -> str:
    """SHA-256 of a file, read once a process for each state that its size and time of change tell apart."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def has_split(source: str, split: Split) -> bool:
    """Whether ``source`` brings ``split`` itself; a single file brings only the split that it is given for."""
    kind = source_kind(source)
    if kind == "hub":
        return split in _load_from_hub(source)
    return kind == "embedded"


def shown(value: Any, limit: int = 60) -> str:
    """A value for a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _read_json(path: Path) -> Iterator[PlacedRow]:
    try:
        data = json.loads(path.read_bytes().decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        hint = "; a file of one object a line is named .jsonl" if error.msg == "Extra data" else ""
        raise InputError(
            f"{path}: not valid JSON (line {error.lineno}, column {error.colno}: {error.msg}){hint}"
        ) from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except (ValueError, RecursionError) as error:  # a number or a nesting beyond what Python reads
        raise InputError(f"{path}: not valid JSON that can be read ({error})") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    articles = data.get("data") if isinstance(data, dict) else data
    if not isinstance(articles, list) or not all(isinstance(article, dict) for article in articles):
        raise InputError(
            f'{path}: not a SQuAD file; expected {{"data": [articles with paragraphs]}} '
            f"or a list of rows with {', '.join(COLUMNS)}"
        )
    for number, article in enumerate(articles, 1):
        if "paragraphs" in article:
            yield from _read_paragraphs(f"{path} article {number}", article["paragraphs"])
        else:
            yield f"{path} row {number}", article


def _read_paragraphs(place: str, paragraphs: Any) -> Iterator[PlacedRow]:
    try:
        for number, paragraph in enumerate(paragraphs, 1):
            for question_number, qa in enumerate(paragraph["qas"], 1):
                yield (
                    f"{place} paragraph {number} question {question_number}",
                    {**qa, "context": paragraph["context"]},
                )
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{place}: not SQuAD's layout ({type(error).__name__}: {error}); expected paragraphs with "
            "'context' and 'qas', each of these with 'id', 'question' and 'answers'"
        ) from None


def _read_json_lines(path: Path) -> Iterator[PlacedRow]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8-sig"))
            except (ValueError, RecursionError) as error:
                raise InputError(f"{path} line {number}: not one JSON object in UTF-8 ({error})") from None
            if not isinstance(row, dict):
                raise InputError(f"{path} line {number}: {shown(row)} is not a JSON object with {', '.join(COLUMNS)}")
            yield f"{path} line {number}", row


def _read_parquet(path: Path) -> Iterator[PlacedRow]:
    try:
        number = 0
        for batch in pq.ParquetFile(path).iter_batches(batch_size=1000):
            for row in batch.to_pylist():
                number += 1
                yield f"{path} row {number}", row
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # the footer, or a page further on
        raise InputError(f"{path}: not a readable Parquet file ({error})") from None


@cache
def _load_from_hub(name: str) -> Any:
    """All splits of a Hub dataset, from the network or the client's own cache."""
    from datasets import load_dataset  # imported late: --help does not wait for it

    try:
        return load_dataset(name)
    except Exception as error:  # the client raises a dozen kinds; each means "not to be had"
        reason = str(error).strip().split("\n")[0][:200]
        raise InputError(
            f"dataset {name!r} is neither a file here nor cached, and the Hugging Face Hub did not give it "
            f"({type(error).__name__}: {reason}). Check the name and the network; without a network pass "
            "--data.dataset FILE (SQuAD JSON, JSON lines, Parquet), or run `make quickstart`, which needs none"
        ) from None


def _hub_split(name: str, split: Split) -> Any:
    splits = _load_from_hub(name)
    if split not in splits:
        raise InputError(f"dataset {name!r} has no split {split!r}; it has {', '.join(map(repr, splits))}")
    return splits[split]
