"""What the folders of prepared data hold: examples cut into features, opened again, and described in words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qa_lightning.features import FeatureBatch, Windower
from qa_lightning.sources import Split

_ROWS = 1000  # examples tokenized at a time


def cut_examples(examples: Any, windower: Windower) -> Iterator[FeatureBatch]:
    """Cut a ``datasets.Dataset`` of examples into features, a thousand examples at a time."""
    for first in range(0, len(examples), _ROWS):
        rows = examples[first : first + _ROWS]
        spans = [_first_span(answers) for answers in rows["answers"]]
        yield windower(rows["question"], rows["context"], spans, first)


def open_examples(folder: Path) -> Any:
    """Map the examples of a folder, a ``datasets.Dataset``."""
    from datasets import Dataset  # imported late: --help does not wait for it

    return Dataset.from_file(str(folder / "examples.arrow"))


def _first_span(answers: dict[str, Any]) -> tuple[int, int] | None:
    """The answer to train on, in characters: the first annotator's."""
    if not answers["text"]:
        return None
    start = int(answers["answer_start"][0])
    return start, start + len(answers["text"][0])


def describe_split(split: Split, examples_folder: Path, features_folder: Path, how: str) -> Iterator[str]:
    """Lines that say what a split has, and what a person may want to change about it.

    Args:
        split: which.
        examples_folder, features_folder: where it lies, prepared.
        how: whether it was prepared just now.
    """
    rows = json.loads((examples_folder / "summary.json").read_text())
    windows = json.loads((features_folder / "summary.json").read_text())
    answered = f", {rows['unanswerable']:,} of them without an answer" if rows["unanswerable"] else ""
    yield (
        f"{split}: {rows['source']}: {rows['rows']:,} questions{answered}, in {windows['features']:,} windows of "
        f"{windows['tokens'] / max(1, windows['features']):.0f} tokens on average ({how})"
    )
    if divided := rows.get("divided"):
        yield (
            f"{split}: no validation data given, so the file is split by context: "
            f"{divided['validation_fraction']:.0%} of the contexts validate (seed {divided['seed']})"
        )
    for line in rows["columns"]:
        yield f"{split}: {line}"
    if rows["repaired"]:
        listed = examples_folder / "repaired.txt"
        yield f"{split}: moved {len(rows['repaired']):,} answers, all listed in {listed}: {rows['repaired'][0]}"
    if rows["skipped"]:
        yield f"{split}: left out {len(rows['skipped']):,} bad rows, the first: {rows['skipped'][0]}"
    if windows["cut_questions"]:
        yield f"{split}: {windows['cut_questions']:,} questions were longer than --data.max_question_length and cut"
    lost = windows["unlabelled"] - rows["unanswerable"]
    if lost > 0:
        yield f"{split}: {lost:,} answers stand whole in no window; a larger --data.doc_stride may hold them"
