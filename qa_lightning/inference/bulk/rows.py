"""Answers batches of rows as ``predict`` answers a file: for pandas, and for Spark, Dask and Ray on other machines.

Limits: a batch is cut into chunks of its own. The rows that are computed together are then others than on one machine
that reads all of them in order, so scores may differ in their last digits.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from importlib import import_module
from os import PathLike, fspath
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import pyarrow as pa

from qa_lightning.data.columns import Columns, ReadSettings
from qa_lightning.data.objects import GivenRows, given_source
from qa_lightning.errors import InputError
from qa_lightning.features.defaults import DTYPES, EVAL_BATCH_SIZE
from qa_lightning.inference.bulk.questions import BadRow, Question, read_questions
from qa_lightning.inference.bulk.several import read_document_file
from qa_lightning.inference.bulk.workers import PredictSettings
from qa_lightning.inference.reader import Reader
from qa_lightning.inference.settings import checked_batch_size
from qa_lightning.models.computing.device import known_device
from qa_lightning.models.loading import lasting_names, model_names
from qa_lightning.wording import did_you_mean, shown, wrong_choice

ROW = "row"  # a column that is handed through
_MAX_MODELS = 4  # that a process keeps; the one used longest ago goes first
_TAKEN = "a pandas DataFrame, a pyarrow Table or RecordBatch, a dict of columns, or a list of dicts"

_Loaded = tuple[Reader, Mapping[str, str] | None]  # a model and its documents
_loaded: OrderedDict[str, _Loaded] = OrderedDict()
_loading = threading.Lock()
_Batch = TypeVar("_Batch")


class AnswerRows:
    """Answers batches of rows: give it a batch with questions and contexts, and it returns one with their answers.

    It holds the name of a model and settings, so it is cheap to pickle. A process loads the model when the first batch
    comes, once for all copies of an object; several threads may call it at once.

    Args:
        model: a model's or a run's folder, which all machines must see, ``last``, or a name on the Hub; several, in a
            list or with commas between them, answer together.
        batch_size: windows per forward pass.
        dtype: number type of the computation: ``float32``, ``bfloat16`` or ``float16``.
        threshold_file, raw_scores: see `reader.Reader.from_pretrained`.
        device: None takes the first GPU that a process sees, or the CPU if there is none.
        columns: names of columns that are not to be guessed, such as ``{"question": "q"}``; see `columns.Columns`.
        documents: file with the documents that rows name in ``document_ids``; see `several.read_document_file`.

    Attributes:
        schema: of the answers, one row for each given row and in the same order. ``id``, ``answer``, ``start``,
            ``end``, ``score``: see `predictions.Answer`; a row without an id gets one that is made of its content.
            ``null_odds``: null if the model knows no "no answer". ``document``: number of the context, from 0, or id of
            the document that the offsets belong to; null for rows with one context. ``error``: why a row cannot be
            asked, and all others but ``id`` are null then; null if the row is answered.

    Raises:
        InputError: an argument cannot be used.
    """

    schema = pa.schema(
        [
            *(("id", pa.string()), ("answer", pa.string()), ("start", pa.int64()), ("end", pa.int64())),
            *(("score", pa.float64()), ("null_odds", pa.float64()), ("document", pa.string()), ("error", pa.string())),
        ]
    )

    def __init__(
        self,
        model: str | PathLike[str] | Sequence[str | PathLike[str]],
        *,
        batch_size: int = EVAL_BATCH_SIZE,
        dtype: str = DTYPES[0],
        threshold_file: str | PathLike[str] | None = None,
        raw_scores: bool = False,
        device: str | None = None,
        columns: Mapping[str, str] | None = None,
        documents: str | PathLike[str] | None = None,
    ) -> None:
        if dtype not in DTYPES:
            raise InputError(wrong_choice("--dtype", dtype, DTYPES))
        threshold = None if threshold_file is None else Path(threshold_file).absolute()
        name = ",".join(map(_everywhere, model_names(lasting_names(model))))
        asked = PredictSettings(name, dtype, checked_batch_size(batch_size), threshold, raw_scores)
        known_device(device)
        self._asked = asked
        self._device = device
        self._reading = ReadSettings(_columns(columns or {}))
        self._documents = None if documents is None else _everywhere(str(fspath(documents)))
        self._key = uuid4().hex  # not of the settings: a folder may hold another model when a new object is made

    def __repr__(self) -> str:
        return f"AnswerRows({self._asked.model!r}, batch_size={self._asked.batch_size}, dtype={self._asked.dtype!r})"

    def __call__(self, batch: _Batch) -> _Batch:
        """Answer a batch of rows.

        Args:
            batch: a pandas DataFrame, a pyarrow Table or RecordBatch, a dict of columns, or a list of dicts. Columns
                are named as in files: ``question`` and ``context``, ``contexts`` or ``document_ids``, perhaps ``id``.

        Returns:
            The same kind of batch, with the columns of ``schema``, in the order of its rows; a DataFrame has the index
            of the given one, a dict has lists. If there is a column ``row``, it comes first, as it was given.

        Raises:
            InputError: the columns are not known, the model cannot be loaded, its logits are not numbers, or memory
                runs out. A bad row is no error: see ``schema``.
        """
        given, row = _rows_of(batch)
        table = self.schema.empty_table()
        if given is not None:
            _, documents = self._load()
            table = _table(self._answers(list(read_questions(given, self._reading, documents=documents))), self.schema)
        if row is not None:
            table = table.add_column(0, ROW, [row])
        answered: _Batch = _like(batch, table)
        return answered

    def each(self, batches: Iterable[_Batch]) -> Iterator[_Batch]:
        """Answer batches one after the other: for Spark's ``mapInPandas`` and ``mapInArrow``."""
        return map(self, batches)

    def load(self) -> AnswerRows:
        """Load the model into this process now, rather than with the first batch; returns the object itself.

        Raises:
            InputError: the model, its threshold file or its documents cannot be read.
        """
        self._load()
        return self

    def table(self, rows: Sequence[Question | BadRow]) -> Any:
        """The answers to rows that are checked already: a pyarrow Table of ``row`` and the columns of ``schema``."""
        return _table(self._answers(rows), self.schema.insert(0, pa.field(ROW, pa.int64())))

    def _answers(self, rows: Sequence[Question | BadRow]) -> list[dict[str, Any]]:
        """Answer rows that are checked already, in chunks of those of ``predict``.

        Returns:
            In the order of ``rows``: what `workers.PredictSettings.answers` gives; of a bad row, ``row``, ``id`` and
            ``error``.
        """
        reader, _ = self._load()
        found: list[dict[str, Any]] = []
        for begin in range(0, len(rows), self._asked.rows_together):
            chunk = rows[begin : begin + self._asked.rows_together]
            answered = iter(self._asked.answers(reader, [row for row in chunk if isinstance(row, Question)]))
            found += [next(answered) if isinstance(row, Question) else _bad(row) for row in chunk]
        return found

    def _load(self) -> _Loaded:
        with _loading:
            if self._key not in _loaded:
                documents = None if self._documents is None else read_document_file(self._documents)
                _loaded[self._key] = self._asked.load(self._device), documents
                if len(_loaded) > _MAX_MODELS:
                    _loaded.popitem(last=False)
            _loaded.move_to_end(self._key)
            return _loaded[self._key]


def _everywhere(name: str) -> str:
    """A name that means the same in a process with another working folder: a path here becomes an absolute one."""
    return str(Path(name).absolute()) if Path(name).exists() else name


def _columns(given: Mapping[str, str]) -> Columns:
    known = [one.name for one in fields(Columns)]
    if unknown := [str(name) for name in given if name not in known]:
        others = f"; there are {', '.join(known)}"
        raise InputError([f"columns: there is no {one!r}{did_you_mean(one, known) or others}" for one in unknown])
    return Columns(**given)


def _rows_of(batch: Any) -> tuple[GivenRows | None, Any]:
    """The rows of a batch, None if it has none, and its column ``row``, None if there is none."""
    if isinstance(batch, (pa.Table, pa.RecordBatch)):
        names = batch.schema.names
        rows: Any = batch.to_pylist()
        row = batch.column(names.index(ROW)) if ROW in names else None
        return _given(rows), row
    if isinstance(batch, Mapping):
        lengths = {name: len(column) for name, column in batch.items()}
        if len(set(lengths.values())) > 1:
            raise InputError(f"the columns of the batch differ in length: {lengths}")
        rows = [dict(zip(batch, cells, strict=True)) for cells in zip(*batch.values(), strict=True)]
        return _given(rows), pa.array(batch[ROW]) if ROW in batch else None
    if isinstance(batch, list) and all(isinstance(one, Mapping) for one in batch):
        row = pa.array([one.get(ROW) for one in batch]) if any(ROW in one for one in batch) else None
        return _given(batch), row
    if _is_frame(batch):
        return _given(batch), pa.array(batch[ROW]) if ROW in batch.columns else None
    raise InputError(f"a batch of rows is {_TAKEN}, and this is {shown(batch)}, of type {type(batch).__name__}")


def _given(rows: Any) -> GivenRows | None:
    if not len(rows):
        return None
    given = given_source("batch", rows)
    assert isinstance(given, GivenRows)
    return given


def _is_frame(batch: Any) -> bool:
    """Whether a batch is a DataFrame of pandas, which is not imported for this."""
    kinds = type(batch).__mro__
    return any(kind.__name__ == "DataFrame" and kind.__module__.partition(".")[0] == "pandas" for kind in kinds)


def _bad(row: BadRow) -> dict[str, Any]:
    return {"row": row.row, "id": row.id and _valid(row.id), "error": _valid(row.problem)}


def _valid(text: str) -> str:
    """A text without lone surrogates, which no table holds."""
    return text.encode(errors="replace").decode()


def _table(found: Sequence[Mapping[str, Any]], schema: Any) -> Any:
    """Answers as a pyarrow Table; names of documents, which may be numbers, as texts."""
    columns = {name: [one.get(name) for one in found] for name in schema.names}
    columns["document"] = [None if name is None else str(name) for name in columns["document"]]
    return pa.table(columns, schema=schema)


def _like(batch: Any, table: Any) -> Any:
    """A table as the kind of batch that was given."""
    if isinstance(batch, pa.Table):
        return table
    if isinstance(batch, pa.RecordBatch):
        parts = table.combine_chunks().to_batches()
        return parts[0] if parts else pa.RecordBatch.from_pylist([], table.schema)
    if isinstance(batch, Mapping):
        return table.to_pydict()
    if isinstance(batch, list):
        return table.to_pylist()
    whole = import_module("pandas").Int64Dtype()  # whose numbers stay whole where some are missing
    frame = table.to_pandas(types_mapper={pa.int64(): whole}.get)
    frame.index = batch.index
    return frame
