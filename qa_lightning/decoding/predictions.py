"""Turns the best spans of examples into answers, and chooses between the best span and "no answer".

Validation, evaluation and answering share this module.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from html import escape
from io import StringIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qa_lightning.arrays import Float64s, Floats
from qa_lightning.decoding.calibrator import Calibrator, rescaled
from qa_lightning.decoding.spans import Spans
from qa_lightning.marking import answer_card
from qa_lightning.wording import visible

_ROWS = 1000  # examples read at a time
_SHOWN, _WIDTH = 10, 100  # rows and columns of the table that stands for predictions
_LONGEST = 300  # characters of a cell of it in HTML


@dataclass(frozen=True)
class Answer:
    """The answer to one question.

    Attributes:
        id: the id of the example.
        text: the answer, exactly ``context[start:end]``; empty for "no answer".
        start, end: character offsets in the context, end exclusive; both 0 for "no answer".
        score: probability, normalised over all spans of all windows and the null answer; of a model with a calibrator,
            the probability that the answer is right.
        null_odds: null score minus the best span's score; above the threshold the answer is "no answer".
        question, context: what was asked, for notebooks; not compared, and not part of any file.
    """

    id: str
    text: str
    start: int
    end: int
    score: float
    null_odds: float
    question: str = field(default="", repr=False, compare=False)
    context: str = field(default="", repr=False, compare=False)

    def _repr_html_(self) -> str | None:
        """The answer marked in its context, for notebooks; None without a context."""
        return answer_card(self.question, self.context, self.start, self.end, self.score) if self.context else None

    def as_json(self, version_2: bool) -> dict[str, Any]:
        """What ``predict`` writes of it, without the id; ``null_odds`` only in ``version_2``, None if infinite."""
        values = {"answer": self.text, "start": self.start, "end": self.end, "score": self.score}
        # Infinite if the context has no possible span; JSON has no such number.
        return (
            values | {"null_odds": self.null_odds if math.isfinite(self.null_odds) else None} if version_2 else values
        )


@dataclass(frozen=True, repr=False)
class Predictions:
    """Decoded answers of N examples of a dataset.

    Args:
        examples: the dataset.
        index: [N] indices of the examples in the dataset.
        spans: the best spans of each of the N examples.
        version_2: whether "no answer" is a possible answer.
        threshold: the ``null_odds`` above which the answer is "no answer".
        calibrator: gives the answers their scores; None if these are their probabilities.
    """

    examples: Any
    index: NDArray[np.int64]
    spans: Spans
    version_2: bool
    threshold: float = 0.0
    calibrator: Calibrator | None = None

    def __len__(self) -> int:
        return len(self.index)

    def __repr__(self) -> str:
        """A table of the first questions, with their answers and scores."""
        from rich.box import SIMPLE  # rich is imported only where something is shown
        from rich.console import Console
        from rich.markup import escape as plain
        from rich.table import Table

        table = Table("question", "answer", "score", box=SIMPLE, pad_edge=False)
        for _, example, answer in self.rows(range(min(len(self), _SHOWN))):
            texts = (example["question"], answer.text or "(no answer)")
            table.add_row(*(plain(visible(" ".join(text.split()))) for text in texts), f"{answer.score:.3f}")
        text = StringIO()
        Console(file=text, width=_WIDTH, color_system=None, force_jupyter=False).print(table)
        more = f"\n... and {len(self) - _SHOWN:,} more" if len(self) > _SHOWN else ""
        lines = [line.rstrip() for line in text.getvalue().strip("\n").splitlines()]
        return f"Predictions for {len(self):,} questions\n" + "\n".join(filter(None, lines)) + more

    def _repr_html_(self) -> str:
        """The same for a notebook."""
        rows = [
            f"<tr>{''.join(f'<td>{_cell(text)}</td>' for text in (example['question'], answer.text or '(no answer)'))}"
            f"<td>{answer.score:.3f}</td></tr>"
            for _, example, answer in self.rows(range(min(len(self), _SHOWN)))
        ]
        more = f"<p>and {len(self) - _SHOWN:,} more</p>" if len(self) > _SHOWN else ""
        head = "<thead><tr><th>question</th><th>answer</th><th>score</th></tr></thead>"
        table = f"<table>{head}<tbody>{''.join(rows)}</tbody></table>"
        return f"<div><p>Predictions for {len(self):,} questions</p>{table}{more}</div>"

    def under(self, threshold: float) -> Predictions:
        """The same spans, with another threshold for "no answer"."""
        return replace(self, threshold=threshold)

    def rows(self, numbers: Sequence[int] | None = None) -> Iterator[tuple[int, dict[str, Any], Answer]]:
        """Yield number, example and answer; examples are read 1,000 at a time.

        Args:
            numbers: which of the N examples to yield, and in which order; None for all, in dataset order.
        """
        wanted = range(len(self)) if numbers is None else numbers
        for first in range(0, len(wanted), _ROWS):
            part = wanted[first : first + _ROWS]
            columns = self.examples[self.index[list(part)].tolist()]
            for row, number in enumerate(part):
                example = {name: values[row] for name, values in columns.items()}
                yield number, example, self._answer(number, example)

    def _answer(self, number: int, example: dict[str, Any]) -> Answer:
        odds, score, span = float(self._null_odds[number]), float(self._score[number]), int(self._offset[number])
        asked = example.get("question", ""), example["context"]
        if self._unanswered[number]:
            return Answer(example["id"], "", 0, 0, score, odds, *asked)
        start, end = int(self.spans.char_start[span]), int(self.spans.char_end[span])
        return Answer(example["id"], example["context"][start:end], start, end, score, odds, *asked)

    def best_text(self, number: int, example: dict[str, Any]) -> str:
        """The text of the best span of example ``number``, also where "no answer" wins; empty without a valid span."""
        if not self.spans.count[number]:
            return ""
        span = int(self._offset[number])
        text: str = example["context"][int(self.spans.char_start[span]) : int(self.spans.char_end[span])]
        return text

    def n_best(self, number: int, example: dict[str, Any]) -> list[dict[str, Any]]:
        """Candidates for example ``number``, highest score first, in the format of ``nbest_predictions.json``.

        Args:
            number, example: as `rows` yields them.
        """
        first, count = int(self._offset[number]), int(self.spans.count[number])
        candidates = []
        for span in range(first, first + count):
            start, end = int(self.spans.char_start[span]), int(self.spans.char_end[span])
            candidates.append(
                {
                    "text": example["context"][start:end],
                    "start": start,
                    "end": end,
                    "probability": float(self.spans.probability[span]),
                    "score": float(self.spans.score[span]),
                }
            )
        if self.version_2 or not candidates:
            null = {
                "text": "",
                "start": 0,
                "end": 0,
                "probability": float(self.spans.null_probability[number]),
                "score": float(self.spans.null_score[number]),
            }
            rank = next(
                (rank for rank, other in enumerate(candidates) if other["score"] < null["score"]),
                len(candidates),
            )
            candidates.insert(rank, null)
        if self.calibrator is not None:
            self._rescale(number, candidates)
        return candidates

    def _rescale(self, number: int, candidates: list[dict[str, Any]]) -> None:
        """Give the candidates of an example their calibrated probabilities."""
        chosen = next(rank for rank, one in enumerate(candidates) if bool(one["text"]) != self._unanswered[number])
        found = rescaled([one["probability"] for one in candidates], chosen, float(self._score[number]))
        for one, probability in zip(candidates, found.tolist(), strict=True):
            one["probability"] = probability

    @cached_property
    def _null_odds(self) -> Floats:
        return np.asarray(self.spans.null_score - self.spans.best_score)

    @cached_property
    def _unanswered(self) -> NDArray[np.bool_]:
        """[N] whether the answer is "no answer"."""
        without_span = self.spans.count == 0
        return np.asarray(without_span | (self.version_2 & (self._null_odds > self.threshold)))

    @cached_property
    def _score(self) -> Float64s:
        return self.spans.right(np.where(self._unanswered, -1, 0), self.calibrator)

    @cached_property
    def _offset(self) -> NDArray[np.int64]:
        return self.spans.offset


def _cell(text: str) -> str:
    """A text for a cell of a table in HTML."""
    shown = visible(" ".join(text.split()))
    return escape(shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]} …")


class Rows:
    """Rows in memory; indexing returns columns, as a ``datasets.Dataset`` does."""

    def __init__(self, rows: Sequence[dict[str, Any]]) -> None:
        self.rows = rows

    def __getitem__(self, index: list[int]) -> dict[str, list[Any]]:
        return {name: [self.rows[row][name] for row in index] for name in self.rows[0]}
