"""Answers questions on a cluster by Ray Data: tasks read and check rows, actors hold the model and write the answers.

The driver cuts the input into pieces (`parts`) and leaves out those that are written (`folder`). A piece is a row of
Ray's dataset, a block, a call of an actor and a file. While actors compute, tasks read what comes next; on a GPU an
actor takes two pieces at a time, so that one is cut into windows while the other is computed. Ray starts a lost actor
again and repeats its pieces.

Limit: if Ray loses processes again and again, because memory runs out for example, it tries again and again.
"""

from __future__ import annotations

import logging
import os
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from qa_lightning.data.columns import ReadSettings
from qa_lightning.errors import InputError, Voice, current_voice, speaking
from qa_lightning.inference.bulk.questions import BadRow
from qa_lightning.inference.bulk.rows import AnswerRows
from qa_lightning.inference.bulk.run import AskedRows, Counts, answered, note, record_of, summary, what_is_kept
from qa_lightning.inference.bulk.several import read_document_file
from qa_lightning.inference.bulk.workers import OutOfMemoryError, PredictSettings
from qa_lightning.inference.cluster.folder import AnswerFolder
from qa_lightning.inference.cluster.machines import (
    READER_CPUS,
    ClusterSettings,
    Share,
    connected,
    device_of,
    one_row_a_block,
)
from qa_lightning.inference.cluster.parts import (
    Part,
    RowPiece,
    first_usual,
    input_files,
    input_fingerprint,
    input_size,
    parts_of,
    ranges,
    read_pieces,
    row_counts,
    rows_of_piece,
)
from qa_lightning.progress import loop_progress
from qa_lightning.wording import counted

log = logging.getLogger("qa_lightning")

_SMALL = 1 << 28  # bytes of an input whose rows the driver counts itself: a task that only counts starts as slowly


def answer_on_ray(
    asked: PredictSettings,
    rows: AskedRows,
    output: str,
    cluster: ClusterSettings = ClusterSettings(),  # noqa: B008 - frozen
    overwrite: bool = False,
) -> int:
    """Answer every question of some files on a Ray cluster, or resume an unfinished earlier run.

    Args:
        asked: the model and its settings; all machines must see its folder.
        rows: what is asked; see `parts.input_files` for its ``source``.
        output: a folder, path or address, for Parquet files with ``row`` and the columns of `rows.AnswerRows`.
        cluster: where.
        overwrite: start over, whatever the folder contains.

    Returns:
        The exit status: 0, also if some rows are bad.

    Raises:
        InputError: an argument cannot be used, every row is bad, or the answers cannot be computed or written.
    """
    folder = AnswerFolder(output)
    with connected(cluster.address) as ray:
        files = input_files(rows.source)
        folder.refuse_input(files)
        with folder.locked():
            made_with = record_of(asked, rows, input_fingerprint(files), device_of(ray))
            record = None if overwrite else folder.recorded(made_with)
            made_with["rows"] = record["rows"] if record else _count_rows(ray, files, rows.reading)
            job = _Job(asked, rows, folder, parts_of(files, made_with["rows"]))
            if record and record["finished"] and len(folder.done(job.pieces)) == len(job.pieces):
                log.info(f"{folder.name} is finished, {answered(record['finished'])}; --overwrite starts over")
                return 0
            if not job.parts:
                raise rows.no_rows()
            begin = partial(folder.begin, made_with, overwrite) if record is None else None
            return job.run(ray, cluster.devices, made_with, begin, "" if record is None else note(record, made_with))


def _count_rows(ray: Any, files: Sequence[str], reading: ReadSettings) -> list[list[int]]:
    """The rows of each file; see `parts.row_counts`.

    Raises:
        InputError: files cannot be read; all of them are named.
    """
    if input_size(files) <= _SMALL:
        found = [_counted_rows(file, reading.encoding) for file in files]
    else:
        count = ray.remote(num_cpus=1)(_counted_rows)
        found = ray.get([count.remote(file, reading.encoding) for file in files])
    if problems := [problem for _, own in found for problem in own]:
        raise InputError(problems)
    return [counts for counts, _ in found]


def _counted_rows(file: str, encoding: str | None) -> tuple[list[int], list[str]]:
    """What `parts.row_counts` returns, and the problems of a file; Ray would make another error of an error."""
    try:
        return row_counts(file, encoding), []
    except InputError as error:
        return [], error.problems


@dataclass(frozen=True)
class _Job:
    """An input that is cut into pieces, and the folder of its answers.

    Attributes:
        asked: the model and its settings.
        rows: what is asked.
        folder: where answers go.
        parts: of the input.
    """

    asked: PredictSettings
    rows: AskedRows
    folder: AnswerFolder
    parts: list[Part]

    @property
    def size(self) -> int:
        """The rows of a piece."""
        return rows_of_piece(sum(part.rows for part in self.parts), self.asked.rows_together)

    @property
    def pieces(self) -> dict[int, int]:
        """First row -> last row of each piece."""
        return {first: last for part in self.parts for first, last in ranges(part, self.size)}

    def run(
        self,
        ray: Any,
        devices: int | None,
        made_with: dict[str, Any],
        begin: Callable[[], None] | None,
        changed: str,
    ) -> int:
        """Answer the pieces that are not written; see `answer_on_ray`.

        Args:
            ray: connected to a cluster.
            devices: see `ClusterSettings`.
            made_with: the record.
            begin: removes what is there and begins a new run, once its answers can be computed; None to resume one.
            changed: since the run began that is resumed, perhaps nothing.
        """
        pieces = self.pieces
        done = self.folder.done(pieces) if begin is None else {}
        counts = Counts(sum(pieces[first] - first + 1 for first in done), sum(done.values()))
        earlier = Counts(counts.rows, counts.bad)
        total = sum(part.rows for part in self.parts)
        if begin is None:
            log.info(f"resuming {self.folder.name}: {counts.rows:,} of {counted(total, 'row')} are done{changed}")
        started = time.perf_counter()
        try:
            with loop_progress(total, done=counts.rows) as progress:
                for one in self._results(ray, devices, frozenset(done), begin) if counts.rows < total else ():
                    if one["problems"]:
                        raise InputError(pickle.loads(one["problems"]))
                    counts.add(one["rows"], one["bad"])
                    progress.update(one["rows"])
        except (InputError, KeyboardInterrupt) as error:
            self.folder.discard_if_empty()
            there = what_is_kept(counts.rows, self.folder.name)
            if isinstance(error, KeyboardInterrupt):
                log.info(f"\nstopped by Ctrl-C: {there}")
                raise
            raise InputError([*error.problems, there] if counts.rows else error.problems) from None
        told = f"their `error` in {self.folder.name} says why"
        if counts.bad == counts.rows:
            raise InputError(f"--input {self.rows.source}: none of its {counts.rows:,} rows can be asked; {told}")
        self.folder.write_record(made_with, counts.as_json())
        log.info(summary(counts, earlier, time.perf_counter() - started))
        log.info(f"written to {self.folder.name}")
        if counts.bad:
            log.info(f"{counts.bad:,} of the rows could not be asked; {told}")
        return 0

    def _results(
        self, ray: Any, devices: int | None, done: frozenset[int], begin: Callable[[], None] | None
    ) -> Iterator[dict[str, Any]]:
        """Answer all pieces but those that are done; yields what `_Answering` returns of each.

        ``begin`` is called when rows and, if earlier answers would be lost, the model are known to be usable.
        """
        named, encoding = self.rows.documents, self.rows.reading.encoding
        documents = None if named is None else read_document_file(named, encoding)
        before = first_usual(self.parts, self.rows.reading, log.info, documents)
        given = None if documents is None else ray.put(documents)
        own = [part for part in self.parts if any(first not in done for first, _ in ranges(part, self.size))]
        size, reading, voice = self.size, self.rows.reading, current_voice()

        def read(batch: dict[str, Any]) -> Iterator[dict[str, list[bytes]]]:
            named = None if given is None else ray.get(given)
            with speaking(voice):
                for number in batch["part"]:
                    pieces = read_pieces(own[number], size, reading, lambda row: row not in done, named, before)
                    try:
                        yield from ({"piece": [pickle.dumps(piece)]} for piece in pieces)
                    except InputError as error:
                        yield {"piece": [pickle.dumps(error.problems)]}

        asked, use = self.asked, Share.of(ray, devices)
        answers = AnswerRows(
            asked.model,
            batch_size=asked.batch_size,
            dtype=asked.dtype,
            threshold_file=asked.threshold_file,
            raw_scores=asked.raw_scores,
        )
        if begin is not None:
            if self.folder.has_answers():
                load = ray.remote(num_cpus=use.cpus, num_gpus=use.gpus)(_load_problems)
                if problems := ray.get(load.remote(answers, voice)):
                    raise InputError(problems)
            begin()
        log.info(f"answering {self.rows.source} on {use}, {counted(size, 'row')} at a time")
        with one_row_a_block(ray):
            data = ray.data.from_items([{"part": number} for number in range(len(own))], override_num_blocks=len(own))
            data = data.map_batches(read, batch_size=1, num_cpus=READER_CPUS)
            data = data.map_batches(
                _Answering,
                fn_constructor_args=(answers, self.folder, voice, use.threads),
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(
                    size=use.actors,
                    max_tasks_in_flight_per_actor=2 * use.at_once,
                    max_concurrent_calls_per_actor=use.at_once,
                ),
                num_cpus=use.cpus,
                num_gpus=use.gpus,
            )
            yield from data.iter_rows()


def _load_problems(answers: AnswerRows, voice: Voice) -> list[str]:
    """What is wrong with the model; Ray would make another error of an error."""
    with speaking(voice):
        try:
            answers.load()
        except InputError as error:
            return error.problems
    return []


class _Answering:
    """An actor: it answers pieces and writes them.

    Args:
        answers: it loads the model with the first piece, so that what is wrong with it is an error of this package.
        folder: where answers go.
        voice: how messages name options.
        threads: of the CPU that it may use.
    """

    def __init__(self, answers: AnswerRows, folder: AnswerFolder, voice: Voice, threads: int) -> None:
        os.environ["RAYON_NUM_THREADS"] = str(threads)  # the tokenizer's
        torch.set_num_threads(threads)
        self._answers, self._folder = answers, folder
        self._speaking = speaking(voice)
        self._speaking.__enter__()  # as long as this actor lives: its calls may overlap

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Answer a piece; returns the number of its rows, of bad ones, and problems that end the run, pickled.

        Ray would make another error of an error.
        """
        (given,) = batch["piece"]
        piece: RowPiece | list[str] = pickle.loads(given)
        problems = piece if isinstance(piece, list) else []
        rows = bad = 0
        if isinstance(piece, RowPiece):
            try:
                self._folder.write(piece.first, piece.last, self._answers.table(piece.rows))
                rows, bad = len(piece.rows), sum(isinstance(row, BadRow) for row in piece.rows)
            except InputError as error:
                problems = (error.of_a_run() if isinstance(error, OutOfMemoryError) else error).problems
        return {"rows": [rows], "bad": [bad], "problems": [pickle.dumps(problems) if problems else b""]}
