"""Parses and checks rows in chunks, in several processes, and writes the examples in the order of the rows.

One process checks chunks in the same way, so the files do not depend on the number of processes. This process reads
the rows, and knows what is true of all of them: ids that repeat, problems, changes. In the others, cells are parsed,
rows are checked and become a batch of Arrow, which costs most; what they send back beside it is about few rows. Each
of them has at most two chunks. Other hosts of a run may check chunks, too.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path

import pyarrow as pa

from qa_lightning.data.columns import usual_row
from qa_lightning.data.examples import SCHEMA, CheckedRow, ExampleSettings, Merged, RowChanges, check_row
from qa_lightning.data.formats import PlacedRow
from qa_lightning.errors import InputError
from qa_lightning.workers import Elsewhere, forked

_ROWS = 1000  # of a chunk
_CHARACTERS = 1 << 22  # of contexts, after which a chunk ends earlier
RowChunk = list[PlacedRow]


@dataclass(frozen=True)
class CheckJob:
    """A chunk to be checked, with all that this depends on.

    Attributes:
        chunk: its rows; pickled if another process checks them, None if they cannot be pickled.
        separator: see `columns.ReadSettings.answer_separator`.
        settings: how bad rows are dealt with.
    """

    chunk: RowChunk | bytes | None
    separator: str | None
    settings: ExampleSettings

    def done(self) -> CheckedChunk | None:
        """The rows after their check; None if there are none here."""
        chunk = pickle.loads(self.chunk) if isinstance(self.chunk, bytes) else self.chunk
        return None if chunk is None else checked_chunk(chunk, self.separator, self.settings)


@dataclass(frozen=True)
class CheckedChunk:
    """The rows of a chunk after their check.

    Attributes:
        names: id of each row's example; None for a row that cannot be used.
        answered: whether each row's example has an answer.
        notes: index of a row in the chunk -> its problems or changes, without its example; most rows have none.
        batch: the examples.
    """

    names: list[str | None]
    answered: list[bool]
    notes: dict[int, CheckedRow]
    batch: pa.RecordBatch


def write_checked(
    rows: Iterable[PlacedRow],
    separator: str | None,
    path: Path,
    settings: ExampleSettings,
    changes: RowChanges,
    keep: Callable[[str, bool], bool],
    workers: int,
    what: str,
    others: Sequence[Elsewhere] = (),
) -> int:
    """Write the valid examples of some rows as an Arrow stream, as `examples.write_examples` does.

    Args:
        rows: from `columns.renamed`.
        separator: see `columns.ReadSettings.answer_separator`.
        path: of the file.
        settings: how bad rows are dealt with.
        changes, keep: see `examples.read_examples`.
        workers: number of processes; one checks in this process, unless others help.
        what: one of them, for the message that it has ended.
        others: do a `CheckJob`, too.

    Returns:
        The number of examples.

    Raises:
        InputError: see `examples.read_examples`; or a process died.
    """
    broken: list[InputError] = []
    chunks = _chunks(rows, broken)
    first = list(islice(chunks, workers))
    count = min(workers, len(first))  # few rows need few processes
    goes = count > 1 or bool(others)
    jobs = (
        (chunk, CheckJob(_pickled(chunk) if goes else chunk, separator, settings)) for chunk in chain(first, chunks)
    )
    with (
        forked(CheckJob.done, count, what, others) as check_in_order,
        closing(Merged(settings, changes, keep)) as merged,
        pa.OSFile(str(path), "wb") as file,
        pa.ipc.new_stream(file, SCHEMA) as writer,
    ):
        for chunk, found in check_in_order(jobs):
            done = checked_chunk(chunk, separator, settings) if found is None else found
            wanted = _merge(merged, chunk, done)
            if any(wanted):
                writer.write_batch(done.batch if all(wanted) else done.batch.filter(pa.array(wanted)))
        if broken:
            raise InputError([*broken[0].problems, *merged.told_at_a_break])
        merged.end()
    return merged.found


def _merge(merged: Merged, chunk: RowChunk, done: CheckedChunk) -> list[bool]:
    """Merge the checked rows of a chunk; returns, for each example, whether it is wanted."""
    wanted = []
    for number, ((place, row), name, answered) in enumerate(zip(chunk, done.names, done.answered, strict=True)):
        note = done.notes.get(number)
        if name is not None:
            wanted.append(merged.takes(place, name, row["context"], answered, note))
        elif note is not None:
            merged.refuse(note)
    return wanted


def checked_chunk(chunk: RowChunk, separator: str | None, settings: ExampleSettings) -> CheckedChunk:
    """Parse and check the rows of a chunk."""
    checked = [check_row(place, usual_row(row, separator), settings.policy) for place, row in chunk]
    examples = [one.example for one in checked]
    return CheckedChunk(
        [None if example is None else example["id"] for example in examples],
        [bool(example and example["answers"]["text"]) for example in examples],
        {number: replace(one, example=None) for number, one in enumerate(checked) if one.noted},
        pa.RecordBatch.from_pylist([example for example in examples if example], schema=SCHEMA),
    )


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
