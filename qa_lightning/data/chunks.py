"""Checks rows in chunks, in several processes, and writes the examples in the order of the rows.

One process checks chunks in the same way, so the files do not depend on the number of processes. This process reads
the rows, and knows what is true of all of them: ids that repeat, problems, changes. In the others, rows are checked and
become a batch of Arrow, which costs most. Each of them has at most two chunks.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path

import pyarrow as pa

from qa_lightning.data.examples import SCHEMA, CheckedRow, Example, ExampleSettings, Merged, RowChanges, check_row
from qa_lightning.data.formats import PlacedRow
from qa_lightning.errors import InputError
from qa_lightning.workers import forked

_ROWS = 1000  # of a chunk
_CHARACTERS = 1 << 22  # of contexts, after which a chunk ends earlier
RowChunk = list[PlacedRow]


@dataclass(frozen=True)
class CheckedChunk:
    """The rows of a chunk after their check.

    Attributes:
        rows: checked; their examples have no texts.
        batch: the examples with their texts, as a serialized batch of Arrow.
    """

    rows: list[CheckedRow]
    batch: bytes


def write_checked(
    rows: Iterable[PlacedRow],
    path: Path,
    settings: ExampleSettings,
    changes: RowChanges,
    keep: Callable[[Example], bool],
    workers: int,
    what: str,
) -> int:
    """Write the valid examples of some rows as an Arrow stream, as `examples.write_examples` does.

    Args:
        rows, changes, keep: see `examples.read_examples`.
        path: of the file.
        settings: how bad rows are dealt with.
        workers: number of processes; one checks in this process.
        what: one of them, for the message that it has ended.

    Returns:
        The number of examples.

    Raises:
        InputError: see `examples.read_examples`; or a process died.
    """

    def check(job: bytes | RowChunk | None) -> CheckedChunk | None:
        return None if job is None else checked_chunk(pickle.loads(job) if isinstance(job, bytes) else job, settings)

    broken: list[InputError] = []
    chunks = _chunks(rows, broken)
    first = list(islice(chunks, workers))
    count = min(workers, len(first))  # few rows need few processes
    jobs = ((chunk, _pickled(chunk) if count > 1 else chunk) for chunk in chain(first, chunks))
    with (
        forked(check, count, what) as check_in_order,
        closing(Merged(settings, changes, keep)) as merged,
        pa.OSFile(str(path), "wb") as file,
        pa.ipc.new_stream(file, SCHEMA) as writer,
    ):
        for chunk, found in check_in_order(jobs):
            done = checked_chunk(chunk, settings) if found is None else found
            wanted = _merge(merged, chunk, done.rows)
            if any(wanted):
                batch = pa.ipc.read_record_batch(pa.py_buffer(done.batch), SCHEMA)
                writer.write_batch(batch if all(wanted) else batch.filter(pa.array(wanted)))
        if broken:
            raise InputError([*broken[0].problems, *merged.told_at_a_break])
        merged.end()
    return merged.found


def _merge(merged: Merged, chunk: RowChunk, checked: list[CheckedRow]) -> list[bool]:
    """Merge the checked rows of a chunk; returns, for each example, whether it is wanted."""
    wanted = []
    for (place, row), one in zip(chunk, checked, strict=True):
        if one.example is None:
            merged.refuse(one)
        else:
            one.example["context"] = row["context"]  # which was not sent back
            wanted.append(merged.takes(place, row, one))
    return wanted


def checked_chunk(chunk: RowChunk, settings: ExampleSettings) -> CheckedChunk:
    """Check the rows of a chunk."""
    checked = [check_row(place, row, settings.policy) for place, row in chunk]
    examples = [one.example for one in checked if one.example is not None]
    batch = pa.RecordBatch.from_pylist(examples, schema=SCHEMA)
    light = [
        replace(one, example=one.example and Example(id=one.example["id"], answers=one.example["answers"]))
        for one in checked
    ]
    return CheckedChunk(light, batch.serialize().to_pybytes())


def _pickled(chunk: RowChunk) -> bytes | None:
    """A chunk for another process; None if it holds what cannot be sent there, such as a generator in a cell."""
    try:
        return pickle.dumps(chunk, pickle.HIGHEST_PROTOCOL)
    except Exception:  # whatever objects of somebody's raise
        return None


def _chunks(rows: Iterable[PlacedRow], broken: list[InputError]) -> Iterator[RowChunk]:
    """Rows in chunks; ``broken`` gets the error of a source that breaks off, after whose last row a chunk ends."""
    chunk: RowChunk = []
    characters = 0
    try:
        for place, row in rows:
            chunk.append((place, row))
            context = row.get("context")
            characters += len(context) if isinstance(context, str) else 0
            if len(chunk) == _ROWS or characters > _CHARACTERS:
                yield chunk
                chunk, characters = [], 0
    except InputError as error:
        broken.append(error)
    if chunk:
        yield chunk
