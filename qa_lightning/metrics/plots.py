"""Draws the figures of `calibration`: reliability, precision and recall, risk and coverage.

Nothing touches matplotlib's global state. The colours are those of Okabe and Ito (2008), which people with any colour
vision can distinguish; lines also differ in their dashes.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import IO

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from qa_lightning.arrays import Float64s
from qa_lightning.errors import InputError
from qa_lightning.files import write_file
from qa_lightning.metrics.calibration import PrecisionRecall, Reliability, RiskCoverage

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_DASHES = ("-", "--", "-.", ":")
_GREY = "#767676"
_DPI = 120
_MIN_SHARE = 0.05  # of the largest bin's width and point, so that each bin can be seen
_LARGEST_POINT = 36.0  # of a bin, in square points
_MAX_POINTS = 4000  # per curve; more are not visible


def reliability_diagram(before: Reliability, after: Reliability | None = None, how: str = "") -> Figure:
    """Draw accuracy against confidence by bin, and below it the number of questions in each bin.

    The width of a bar and the size of its point grow with the number of questions in the bin, so that a handful of
    questions does not look as reliable as hundreds.

    Args:
        before: bins of the model's own probabilities.
        after: bins of the scores after a fit; None draws only ``before``.
        how: what was fitted, for the title.
    """
    parts = [("", before)] if after is None else [("before: ", before), (f"after ({how}): ", after)]
    figure = Figure(figsize=(5.2 * len(parts) + 0.4, 6.2), dpi=_DPI, layout="constrained")
    axes = figure.subplots(2, len(parts), sharex=True, sharey="row", squeeze=False, height_ratios=[4, 1])
    for column, (name, bins) in enumerate(parts):
        _bars(axes[0, column], axes[1, column], bins, _COLOURS[column])
        axes[0, column].set_title(f"{name}expected calibration error {100 * bins.error:.1f}%")
    axes[0, 0].set_ylabel("accuracy")
    axes[1, 0].set_ylabel("questions")
    axes[1, 0].set_ylim(0, max(1.05 * max(int(bins.count.max()) for _, bins in parts), 1))
    axes[0, 0].legend(loc="upper left", frameon=False)
    return figure


def _bars(above: Axes, below: Axes, bins: Reliability, colour: str) -> None:
    left, width = bins.edges[:-1], np.diff(bins.edges)
    some = bins.count > 0
    above.plot([0, 1], [0, 1], color=_GREY, linestyle="--", linewidth=1.2, label="perfectly calibrated", zorder=3)
    share = bins.count[some] / max(int(bins.count.max()), 1)
    above.bar(
        left[some] + width[some] / 2,
        bins.accuracy[some],
        width[some] * np.maximum(share, _MIN_SHARE),
        color=colour,
        alpha=0.35,
        edgecolor=colour,
    )
    above.scatter(
        bins.confidence[some],
        bins.accuracy[some],
        s=_LARGEST_POINT * np.maximum(share, _MIN_SHARE),
        color=colour,
        label="mean of a bin",
        clip_on=False,
        zorder=4,
    ).set_in_layout(False)
    below.bar(left, bins.count, width, align="edge", color=colour, alpha=0.6, edgecolor=colour)
    below.set_xlabel("confidence")
    for axis in (above, below):
        _plain(axis)
    above.set(xlim=(0, 1), ylim=(0, 1))
    above.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    below.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    below.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    below.yaxis.set_major_formatter("{x:,.0f}")


def precision_recall_curves(curves: Mapping[str, PrecisionRecall]) -> Figure:
    """Draw precision against recall.

    Args:
        curves: label -> curve, at least one. The legend adds the average precision to the label.
    """
    figure, axis = _one_axis()
    for (name, curve), colour, dash in zip(curves.items(), cycle(_COLOURS), cycle(_DASHES)):
        label = f"{name}: average precision {100 * curve.average_precision:.1f}%"
        recall, precision = _thinned(curve.recall, curve.precision)
        axis.plot(recall, precision, color=colour, linestyle=dash, linewidth=2, label=label)
    axis.set(title="Precision and recall, most confident answers first", xlabel="recall", ylabel="precision")
    axis.set(xlim=(0, 1), ylim=(0, 1.02))
    figure.legend(loc="outside lower center", frameon=False)
    return figure


def risk_coverage_curves(curves: Mapping[str, RiskCoverage], precision: float | None = 0.9) -> Figure:
    """Draw the share of wrong answers against the share of questions that are answered.

    Args:
        curves: label -> curve, at least one. The legend adds the area under the curve to the label.
        precision: marks the share of questions that can be answered at this precision, 0-1; None for no mark.
    """
    figure, axis = _one_axis()
    for (name, curve), colour, dash in zip(curves.items(), cycle(_COLOURS), cycle(_DASHES)):
        coverage, risk = _thinned(curve.coverage, curve.risk)
        label = f"{name}: area {curve.area:.3f}"
        if precision is not None:
            enough = np.flatnonzero(curve.risk <= 1 - precision + 1e-12)
            reached = float(curve.coverage[enough[-1]]) if len(enough) else 0.0
            label += f", {100 * reached:.0f}% answered at {100 * precision:g}% precision"
            axis.plot(curve.coverage[enough[-1:]], curve.risk[enough[-1:]], "o", color=colour, markersize=7, zorder=4)
        axis.plot(coverage, risk, color=colour, linestyle=dash, linewidth=2, label=label)
    if precision is not None:
        axis.axhline(1 - precision, color=_GREY, linestyle=":", linewidth=1.2)
    axis.set(title="Risk and coverage, most confident answers first")
    axis.set(xlabel="coverage: questions answered", ylabel="risk: answers that are wrong")
    axis.set_xlim(0, 1)
    axis.set_ylim(bottom=0)
    figure.legend(loc="outside lower center", frameon=False)
    return figure


def _one_axis() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6.4, 5.6), dpi=_DPI, layout="constrained")
    axis = figure.subplots()
    _plain(axis)
    axis.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    return figure, axis


def _plain(axis: Axes) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(color="#E0E0E0", linewidth=0.7)
    axis.set_axisbelow(True)


def _thinned(x: Float64s, y: Float64s) -> tuple[Float64s, Float64s]:
    """At most `_MAX_POINTS` points of a curve, with its first and last point."""
    some = np.unique(np.linspace(0, max(len(x) - 1, 0), min(len(x), _MAX_POINTS)).astype(int))
    return x[some], y[some]


def draw(figures: Mapping[str, Figure]) -> dict[str, NDArray[np.uint8]]:
    """Draw each figure: [height, width, 4] in red, green, blue and opacity.

    Drawing takes most of the time, laying out texts above all; so a picture is drawn once for files and loggers.
    """
    pictures: dict[str, NDArray[np.uint8]] = {}
    for name, figure in figures.items():
        canvas = FigureCanvasAgg(figure)
        canvas.draw()  # type: ignore[no-untyped-call]
        pictures[name] = np.array(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    return pictures


def _write_png(picture: NDArray[np.uint8], file: IO[bytes]) -> None:
    """Without the version of matplotlib, so that equal pictures are equal files."""
    imsave(file, picture, format="png", metadata={"Software": None}, dpi=_DPI)  # type: ignore[arg-type, dict-item]


def save(pictures: Mapping[str, NDArray[np.uint8]], folder: Path) -> list[Path]:
    """Write each picture of `draw` to ``folder`` as ``name.png``; equal pictures give equal bytes.

    Args:
        pictures: name -> picture.
        folder: the folder to write to; it is created if it is missing.

    Returns:
        The files, in the order of ``pictures``.

    Raises:
        InputError: the folder cannot be created or written to.
    """
    files = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, picture in pictures.items():
            files.append(folder / f"{name}.png")
            write_file(files[-1], partial(_write_png, picture))
    except OSError as error:
        raise InputError(f"{folder}: figures cannot be written ({error}); name another folder") from None
    return files
