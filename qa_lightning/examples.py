"""Raw rows of any source -> validated examples ``id, question, context, answers{text, answer_start}``.

Sources: the embedded dataset (``synthetic``), official nested SQuAD JSON (v1.1 and v2.0), flat JSON, JSON lines,
Parquet, and a dataset of the Hugging Face Hub. A question without an answer has empty ``answers`` (v2.0's
``is_impossible`` is read, and held against the answers). Rows are streamed, but for a nested or flat ``.json``
file, which the format makes one read whole; ids are remembered to find duplicates (about 150 bytes a row).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypedDict

import pyarrow as pa
import pyarrow.parquet as pq

from qa_lightning import synthetic
from qa_lightning.errors import InputError

Split = Literal["train", "validation"]
OnBadRows = Literal["error", "skip"]
FILE_SUFFIXES = (".json", ".jsonl", ".ndjson", ".parquet")
_OTHER_SUFFIXES = (".csv", ".tsv", ".txt", ".gz", ".zip", ".arrow", ".xlsx")  # surely no names on the Hub either
EMBEDDED = "synthetic"
EMBEDDED_SIZES = {"train": 10_000, "validation": 500}
EMBEDDED_VERSION = 1  # raise it when synthetic.py gives other rows
COLUMNS = ("id", "question", "context", "answers")
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("question", pa.string()),
        ("context", pa.string()),
        ("answers", pa.struct([("text", pa.list_(pa.string())), ("answer_start", pa.list_(pa.int32()))])),
    ]
)


class Answers(TypedDict):
    """Gold answers: equally long lists, empty for a question without an answer."""

    text: list[str]
    answer_start: list[int]


class Example(TypedDict):
    """One question; ``answer_start`` counts characters (code points) of ``context``."""

    id: str
    question: str
    context: str
    answers: Answers


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
    digest = hashlib.sha256()
    with Path(source).expanduser().open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return f"file-{Path(source).suffix}-{digest.hexdigest()}"


def has_split(source: str, split: Split) -> bool:
    """Whether ``source`` brings ``split`` itself; a single file brings only the split that it is given for."""
    kind = source_kind(source)
    if kind == "hub":
        return split in _load_from_hub(source)
    return kind == "embedded"


def in_validation(context: str, fraction: float, seed: int) -> bool:
    """Put a context, with all of its questions, into the held-out part with probability ``fraction``.

    A hash of seed and context decides, so the split is the same whatever the order or number of rows.
    """
    digest = hashlib.sha256(f"{seed}\n{context}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64


def check_row(place: str, row: dict[str, Any]) -> tuple[Example | None, list[str]]:
    """Turn a raw row into an `Example`, or say all that is wrong with it."""
    missing = [column for column in COLUMNS if column not in row]
    if missing == ["answers"] and row.get("is_impossible") is True:
        missing = []
    if missing:
        return None, [f"{place}: no column {', '.join(map(repr, missing))}; it has {', '.join(map(repr, row))}"]
    problems = []
    for column in ("question", "context"):
        value = row[column]
        if not isinstance(value, str):
            problems.append(f"{place}: {column} is {_shown(value)}, not a text")
        elif not value.strip():
            problems.append(f"{place}: {column} is empty; fill it in or leave the row out")
        elif has_surrogates(value):
            problems.append(f"{place}: {column} holds half of a surrogate pair; save the file as valid UTF-8")
    if not isinstance(row["id"], (str, int)) or isinstance(row["id"], bool) or row["id"] == "":
        problems.append(f"{place}: id is {_shown(row['id'])}; give every question a text or number of its own")
    elif has_surrogates(str(row["id"])):
        problems.append(f"{place}: id holds half of a surrogate pair; save the file as valid UTF-8")
    if problems:
        return None, problems
    place = f"{place} (id {row['id']})"
    answers, problems = _check_answers(place, row.get("answers"), row["context"])
    is_impossible = row.get("is_impossible")
    if is_impossible is not None and not isinstance(is_impossible, bool):
        problems.append(f"{place}: is_impossible is {_shown(is_impossible)}, neither true nor false")
    if not problems and is_impossible is True and answers["text"]:
        problems.append(f"{place}: is_impossible is true, yet there are answers; correct one of the two")
    if not problems and is_impossible is False and not answers["text"]:
        problems.append(f"{place}: is_impossible is false, yet there is no answer; correct one of the two")
    if problems:
        return None, problems
    return Example(id=str(row["id"]), question=row["question"], context=row["context"], answers=answers), []


def has_surrogates(text: str) -> bool:
    """Whether ``text`` holds half of a surrogate pair, which no UTF-8 file can hold."""
    return any("\ud800" <= character <= "\udfff" for character in text)


def read_examples(
    rows: Iterable[PlacedRow],
    on_bad_rows: OnBadRows,
    skipped: list[str],
    keep: Callable[[Example], bool] = lambda _: True,
    most: int | None = None,
    cure: str = "correct them, or pass --data.on_bad_rows skip to leave such rows out",
) -> Iterator[Example]:
    """Stream valid examples.

    Args:
        rows: what `read_rows` gives.
        on_bad_rows: ``error`` raises, ``skip`` leaves bad rows out.
        skipped: with ``skip``, what is wrong with each row left out is appended here, one line a row.
        keep: which of the valid examples are wanted.
        most: stop reading after so many wanted ones.
        cure: what a person can do about bad rows.

    Raises:
        InputError: with ``error``, after the last row, listing all problems; for both, when no row was valid.
    """
    problems: list[str] = []
    bad_rows: list[str] = []
    place_of_id: dict[str, str] = {}
    found = valid = 0
    for place, row in rows:
        if found == most:
            break
        example, wrong = check_row(place, row)
        if example is not None:
            first = place_of_id.setdefault(example["id"], place)
            if first != place:
                wrong = [f"{place}: id {example['id']!r} stands already at {first}; ids must be unique"]
        if wrong:
            problems += wrong
            bad_rows.append("; ".join(wrong))
        elif example is not None:
            valid += 1
            if keep(example):
                found += 1
                yield example
    if problems and (on_bad_rows == "error" or not valid):
        count = f"{len(problems):,} problem{'s' if len(problems) > 1 else ''} in the data"
        raise InputError([f"{count} ({cure}):", *problems])
    if not found:
        raise InputError("the data has no questions")
    skipped += bad_rows


def write_examples(examples: Iterable[Example], path: Path, batch_rows: int = 1000) -> int:
    """Write an Arrow stream that ``datasets.Dataset.from_file`` maps from disk; return the number of rows."""
    rows = iter(examples)
    count = 0
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, SCHEMA) as writer:
        while batch := list(islice(rows, batch_rows)):
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=SCHEMA))
            count += len(batch)
    return count


def _check_answers(place: str, answers: Any, context: str) -> tuple[Answers, list[str]]:
    """Check both usual shapes: ``{"text": [...], "answer_start": [...]}`` and ``[{"text", "answer_start"}, ...]``."""
    result = Answers(text=[], answer_start=[])
    if answers is None:
        return result, []
    if isinstance(answers, dict):
        if not all(isinstance(answers.get(key), list) for key in ("text", "answer_start")):
            return result, [f"{place}: answers is {_shown(answers)}; it needs the lists 'text' and 'answer_start'"]
        if len(answers["text"]) != len(answers["answer_start"]):
            return result, [
                f"{place}: {len(answers['text'])} answer texts but "
                f"{len(answers['answer_start'])} answer_start values; they go in pairs"
            ]
        pairs = list(zip(answers["text"], answers["answer_start"], strict=True))
    elif isinstance(answers, list) and all(isinstance(answer, dict) for answer in answers):
        pairs = [(answer.get("text"), answer.get("answer_start")) for answer in answers]
    else:
        return result, [f"{place}: answers is {_shown(answers)}, not a list of answers"]
    problems = []
    for text, start in pairs:
        if not isinstance(text, str) or not text.strip():
            problems.append(f"{place}: answer text is {_shown(text)}; an unanswerable question has no answers at all")
        elif not isinstance(start, int) or isinstance(start, bool) or start < 0:
            problems.append(f"{place}: answer_start is {_shown(start)}; it counts characters from 0")
        elif context[start : start + len(text)] != text:
            problems.append(
                f"{place}: answer {_shown(text)} is not at answer_start {start} "
                f"(there: {_shown(context[start : start + len(text)])}); {_where(text, context)}"
            )
        else:
            result["text"].append(text)
            result["answer_start"].append(start)
    return result, problems


def _where(text: str, context: str) -> str:
    places: list[str] = []
    place = context.find(text)
    while place >= 0 and len(places) < 3:
        places.append(str(place))
        place = context.find(text, place + 1)
    return f"it stands at {', '.join(places)}" if places else "the context does not hold it"


def _shown(value: Any, limit: int = 60) -> str:
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
                raise InputError(f"{path} line {number}: {_shown(row)} is not a JSON object with {', '.join(COLUMNS)}")
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
