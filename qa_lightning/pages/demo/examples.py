"""Questions to begin with on the page to ask in: from a model's validation data, or else from the embedded dataset.

A run's record, ``run.json`` beside ``model/``, names the validation questions that were prepared for it. They are read
from the cache of prepared data if they are still there, or again from their files.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple

from qa_lightning.caching import default_cache_dir
from qa_lightning.data.columns import ReadSettings, with_usual_columns
from qa_lightning.data.examples import check_row
from qa_lightning.data.sources import EMBEDDED, read_rows
from qa_lightning.data.synthetic import generate_examples
from qa_lightning.errors import InputError
from qa_lightning.features.cache import examples_folder, open_examples
from qa_lightning.layout import RECORD, run_of
from qa_lightning.runs.record import last_start

log = logging.getLogger("qa_lightning")

COUNT = 5
_READ = 2000  # questions of the data that are looked at
_MAX_CONTEXT = 3000  # characters; a longer one is no example to begin with


class Opening(NamedTuple):
    """A question to begin with."""

    question: str
    context: str


class Openings(NamedTuple):
    """Questions to begin with, and where they are from, in words."""

    questions: list[Opening]
    source: str


def openings_for(model: str, version_2: bool, count: int = COUNT) -> Openings:
    """Questions for the page of a model: about different texts, one of them without an answer if the model knows that.

    Args:
        model: its folder, or its name on the Hub.
        version_2: whether the model knows "no answer".
        count: how many, at most.
    """
    run = run_of(model)
    data = None if run is None else last_start(run / RECORD).get("data")
    own = data.get("validation") if isinstance(data, Mapping) else None
    if isinstance(own, Mapping):
        try:
            if found := _chosen(_rows_of(own), version_2, count):
                return Openings(found, "from the model's validation data")
        except (InputError, OSError, ValueError) as error:
            log.info(f"the model's validation data cannot be read, so the examples are others: {error}")
    rows = generate_examples("validation", 200, unanswerable=0.2 if version_2 else 0.0)
    return Openings(_chosen(rows, version_2, count), "of the embedded dataset")


def _rows_of(record: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The examples of a prepared split, from its description in a run's record; none if they are nowhere."""
    folder = examples_folder(default_cache_dir(), str(record.get("fingerprint")))
    if folder.is_dir():
        dataset = open_examples(folder)
        step = max(1, len(dataset) // _READ)
        yield from (dataset[index] for index in range(0, len(dataset), step))
        return
    source = record.get("source")
    if record.get("kind") not in ("files", "embedded") or not isinstance(source, str):
        return
    if source != EMBEDDED and record.get("held_out"):  # the rows that were held out are not marked in the file
        return
    rows = with_usual_columns(read_rows(source, "validation"), ReadSettings(), lambda _: None)
    for place, row in islice(rows, _READ):
        if (example := check_row(place, row).example) is not None:
            yield example


def _chosen(rows: Iterable[Mapping[str, Any]], version_2: bool, count: int) -> list[Opening]:
    """Some questions, spread over the rows, each about another text."""
    by_context: dict[str, tuple[Opening, bool]] = {}
    for row in rows:
        context, has_answer = row["context"], bool(row["answers"]["text"])
        if len(context) <= _MAX_CONTEXT and (has_answer or version_2):
            by_context.setdefault(context, (Opening(row["question"], context), has_answer))
    every = list(by_context.values())
    answered = [one for one, has_answer in every if has_answer]
    unanswered = [one for one, has_answer in every if not has_answer][:1]
    room = count - len(unanswered)
    return answered[:: max(1, len(answered) // max(1, room))][:room] + unanswered
