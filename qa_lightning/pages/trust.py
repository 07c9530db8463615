"""How far a model's scores can be trusted, for a page: calibration, coverage, and the threshold for "no answer"."""

from __future__ import annotations

from typing import Any

import numpy as np

from qa_lightning.metrics.calibration import (
    Reliability,
    RiskCoverage,
    coverage_at_precision,
    reliability,
    risk_coverage,
)
from qa_lightning.metrics.confidence import PRECISION
from qa_lightning.metrics.thresholds import best_threshold
from qa_lightning.pages.charts import Axis, Chart, Line, even_ticks, percent_axis
from qa_lightning.pages.questions import Scored

_POINTS = 201  # of a curve, at most
_STEPS = 101  # of the slider for the threshold
_DOTS = 10  # of the chart of calibration; its figure counts more bins, as everywhere
_LINES = {"has": 4, "none": 5, "main": 3}  # the style of a line of F1 by the threshold, and which value of a step it is
_SOME = 0.05  # of the questions


def trust_values(scored: Scored) -> dict[str, Any]:
    """Charts, and the points that the page's sliders show."""
    judged = scored.judged
    curve = risk_coverage(judged.confidence, judged.correct)
    coverage, points = _coverage(curve)
    threshold, steps = _threshold(scored) if scored.version_2 else (None, None)
    return {
        "calibration": _calibration(reliability(judged.confidence, judged.correct, _DOTS)).svg(),
        "answered": 100 * coverage_at_precision(judged.confidence, judged.correct, PRECISION)[0],
        "precision": 100 * PRECISION,
        "error": 100 * reliability(judged.confidence, judged.correct).error,
        "coverage": coverage.svg(),
        "curve": points,
        "start": _start(points),
        "threshold": threshold.svg() if threshold else None,
        "thresholds": steps,
        "lines": [line.kind for line in threshold.lines] if threshold else [],
        "now": scored.scaling.threshold,
        "best": best_threshold(*scored.outcomes.decision) if scored.version_2 else None,
    }


def _calibration(bins: Reliability) -> Chart:
    some = np.flatnonzero(bins.count).tolist()
    largest = max(int(bins.count.max(initial=0)), 1)
    dots = [(float(bins.confidence[one]), float(bins.accuracy[one]), float(bins.count[one]) / largest) for one in some]
    return Chart(
        "Calibration: share of right answers by score",
        percent_axis("score of the answer"),
        percent_axis("share that is right"),
        [Line("ideal", [(0, 0), (1, 1)]), Line("main", [(x, y) for x, y, _ in dots])],
        dots,
    )


def _coverage(curve: RiskCoverage) -> tuple[Chart, list[list[float]]]:
    """The chart, and of each point: score, share answered, share of these that are right, place in the chart."""
    last = len(curve.coverage) - 1
    some: list[int] = np.unique(np.linspace(0, last, _POINTS).astype(int)).tolist() if last >= 0 else []
    points = [(float(curve.confidence[one]), float(curve.coverage[one]), 1 - float(curve.risk[one])) for one in some]
    lowest = min((right for _, answered, right in points if answered > 0.02), default=0.0)
    chart = Chart(
        "Coverage: share of right answers among those given, the surest first",
        percent_axis("share of the questions that are answered, the surest first"),
        percent_axis("share of these answers that is right", max(np.floor(lowest * 10) / 10 - 0.1, 0.0)),
        [Line("main", [(answered, right) for _, answered, right in points])],
        marker="coverage",
    )
    return chart, [[round(sure, 6), answered, right, *chart.at(answered, right)] for sure, answered, right in points]


def _start(points: list[list[float]]) -> int:
    """The point where the slider begins: the most answers at `PRECISION`, if these are some; else half of all."""
    enough = [number for number, point in enumerate(points) if point[2] >= PRECISION]
    if enough and points[enough[-1]][1] >= _SOME:
        return enough[-1]
    return int(np.argmin([abs(point[1] - 0.5) for point in points])) if points else 0


def _threshold(scored: Scored) -> tuple[Chart, list[list[float | None]]]:
    """The chart, and of each step: threshold, share of "no answer", EM and F1 of all, of HasAns and of NoAns, place.

    F1 is None of a kind that no question has, and no line is drawn for it.
    """
    odds = scored.outcomes.null_odds
    finite = odds[np.isfinite(odds)]
    ends = np.quantile(finite, [0.01, 0.99]) if len(finite) else np.array([-1.0, 1.0])
    now = scored.scaling.threshold
    low, high = min(float(ends[0]), now) - 0.5, max(float(ends[1]), now) + 0.5
    has = scored.outcomes.has_answer
    steps = []
    for threshold in np.unique(np.append(np.linspace(low, high, _STEPS), now)):
        exact, f1 = (100 * each for each in scored.outcomes.scores(threshold, True))
        silent = scored.outcomes.unanswered(threshold, True).mean()
        with_answer, without = (float(f1[rows].mean()) if rows.any() else None for rows in (has, ~has))
        steps.append((float(threshold), float(silent), float(exact.mean()), float(f1.mean()), with_answer, without))
    lines = {kind: [(step[0], y) for step in steps if (y := step[at]) is not None] for kind, at in _LINES.items()}
    chart = Chart(
        'F1 by the threshold for "no answer"',
        Axis("threshold for the null odds", low, high, even_ticks(low, high)),
        Axis("F1", 0, 100, (0, 20, 40, 60, 80, 100)),
        [Line(kind, points) for kind, points in lines.items() if points],
        marker="threshold",
    )
    return chart, [[*(value and round(value, 4) for value in step), *chart.at(step[0], step[3])] for step in steps]
