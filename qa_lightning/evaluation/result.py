"""The result of an evaluation: its scores, lines for people, and the files that other tools read."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qa_lightning.files import write_json
from qa_lightning.layout import CONFIDENCE
from qa_lightning.metrics.confidence import Confidence, coverage_line, figures, fitted_lines, measures_line
from qa_lightning.models.threshold_file import THRESHOLD_FILE
from qa_lightning.pages.questions import Scored

MAX_ODDS = 1e30  # in files, for infinity


_METRICS, _PREDICTIONS, _NULL_ODDS, _N_BEST = (
    *("metrics.json", "predictions.json", "null_odds.json"),
    "nbest_predictions.json",
)
FILES = (_METRICS, _PREDICTIONS, _NULL_ODDS, _N_BEST, THRESHOLD_FILE, CONFIDENCE)  # of an evaluation, besides figures


@dataclass(frozen=True)
class ScoreResult:
    """The result of an evaluation.

    Attributes:
        metrics: name -> score, 0-100, or count; names as in the official scorers.
        predictions: id -> answer text.
        references: ``{"id", "answers"}`` of each question.
        version_2: whether the questions were scored as SQuAD v2.0.
        n_best: id -> candidates; empty for a predictions file.
        best_texts: id -> the best span's text, also if the prediction is "no answer"; empty for a predictions file
            without null odds.
        null_odds: id -> null score minus the best span's score, or the number from a file; can be empty.
        threshold: the prediction is "no answer" if the null odds are above it.
        confidence: how far the model's scores can be trusted; None for a predictions file.
        scored: the questions with all that a report says about them; None for a predictions file.
        threshold_file: content that `threshold_file.read_threshold_file` reads; empty for a predictions file.
    """

    metrics: dict[str, float]
    predictions: dict[str, str]
    references: list[dict[str, Any]]
    version_2: bool
    n_best: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    best_texts: dict[str, str] = field(default_factory=dict)
    null_odds: dict[str, float] = field(default_factory=dict)
    threshold: float = 0.0
    confidence: Confidence | None = None
    threshold_file: dict[str, Any] = field(default_factory=dict)
    scored: Scored | None = None

    @property
    def lines(self) -> list[str]:
        """How far the model's scores can be trusted, in sentences; empty for a predictions file."""
        found = self.confidence
        if found is None:
            return []
        return [
            coverage_line(found, fitted=False),
            measures_line("scores as the model gives them", found.as_given),
            *(f"fit to this data: {line}" for line in fitted_lines(found)),
        ]

    @property
    def files(self) -> dict[str, Any]:
        """File name -> content, under the names that other tools read."""
        files: dict[str, Any] = {_METRICS: self.metrics, _PREDICTIONS: self.predictions}
        if self.version_2 and self.n_best:
            # a context without a token has infinite odds, which JSON cannot write
            files[_NULL_ODDS] = {key: min(odds, MAX_ODDS) for key, odds in self.null_odds.items()}
        more = {_N_BEST: self.n_best, THRESHOLD_FILE: self.threshold_file}
        if self.confidence:
            more[CONFIDENCE] = self.confidence.as_json()
        return files | {name: content for name, content in more.items() if content}


def write_result(result: ScoreResult, folder: Path) -> list[str]:
    """Write the result's files and figures into ``folder``, which is made if it is missing; returns their names.

    Raises:
        OSError: they cannot be written.
    """
    from qa_lightning.metrics import plots

    drawn: list[Path] = []
    for name, content in result.files.items():
        write_json(folder / name, content)
    if result.confidence:
        drawn = plots.save(plots.draw(figures(result.confidence)), folder)
    return sorted([*result.files, *(path.name for path in drawn)])
