"""Draws the charts of pages as SVG, from numbers alone; the page's style gives them their colours, light or dark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 360.0, 240.0  # of a chart, in units of about a pixel on a narrow page
_LEFT, _RIGHT, _TOP, _BOTTOM = 40.0, 18.0, 26.0, 40.0
_LARGEST_DOT = 9.0


@dataclass(frozen=True)
class Axis:
    """One axis of a chart.

    Args:
        name: what it shows.
        low, high: its ends.
        ticks: values that are labelled.
        form: how a value is written.
    """

    name: str
    low: float
    high: float
    ticks: Sequence[float]
    form: str = "{:g}"

    def share(self, value: float) -> float:
        """Where a value lies, 0-1; values outside lie at an end."""
        width = self.high - self.low
        return min(max((value - self.low) / width, 0.0), 1.0) if width else 0.5


@dataclass(frozen=True)
class Line:
    """One line of a chart: its style's class, and its points."""

    kind: str
    points: Sequence[tuple[float, float]]
    name: str = ""


@dataclass(frozen=True)
class Chart:
    """A chart of lines and dots.

    Args:
        title: read aloud in place of the picture.
        x, y: the axes.
        lines: what is drawn.
        dots: x, y and weight, 0-1, of each.
        marker: an id: a marker is drawn, which the page's script moves; empty for none.
    """

    title: str
    x: Axis
    y: Axis
    lines: Sequence[Line] = ()
    dots: Sequence[tuple[float, float, float]] = ()
    marker: str = ""

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a point lies in the picture."""
        across = _LEFT + self.x.share(x) * (WIDTH - _LEFT - _RIGHT)
        return round(across, 1), round(HEIGHT - _BOTTOM - self.y.share(y) * (HEIGHT - _TOP - _BOTTOM), 1)

    def svg(self) -> Markup:
        """The picture."""
        parts = [
            f'<svg class="chart" viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" aria-label="{escape(self.title)}">',
            *self._grid(),
        ]
        for line in self.lines:
            points = " ".join("{:g},{:g}".format(*self.at(x, y)) for x, y in line.points)
            parts.append(f'<polyline class="line {escape(line.kind)}" points="{points}"/>')
        for x, y, weight in self.dots:
            left, top = self.at(x, y)
            radius = _LARGEST_DOT * max(weight, 0.04) ** 0.5
            parts.append(f'<circle class="dot" cx="{left:g}" cy="{top:g}" r="{radius:.1f}"/>')
        if self.marker:
            name = escape(self.marker)
            bottom = HEIGHT - _BOTTOM
            parts.append(f'<line class="at" id="{name}-line" x1="0" x2="0" y1="{_TOP:g}" y2="{bottom:g}"/>')
            parts.append(f'<circle class="at" id="{name}-dot" cx="0" cy="0" r="4.5"/>')
        return Markup("".join([*parts, "</svg>"]))

    def _grid(self) -> list[str]:
        bottom, right, parts = HEIGHT - _BOTTOM, WIDTH - _RIGHT, []
        for value in self.y.ticks:
            top = self.at(self.x.low, value)[1]
            parts.append(f'<line class="grid" x1="{_LEFT:g}" x2="{right:g}" y1="{top:g}" y2="{top:g}"/>')
            label = escape(self.y.form.format(value))
            parts.append(f'<text x="{_LEFT - 6:g}" y="{top + 4:g}" text-anchor="end">{label}</text>')
        for value in self.x.ticks:
            left = self.at(value, self.y.low)[0]
            label = escape(self.x.form.format(value))
            parts.append(f'<text x="{left:g}" y="{bottom + 16:g}" text-anchor="middle">{label}</text>')
        parts.append(f'<line class="axis" x1="{_LEFT:g}" x2="{right:g}" y1="{bottom:g}" y2="{bottom:g}"/>')
        middle = (_LEFT + right) / 2
        below, above = escape(self.x.name), escape(self.y.name)
        parts.append(f'<text x="{middle:g}" y="{HEIGHT - 6:g}" text-anchor="middle">{below}</text>')
        parts.append(f'<text x="4" y="12">{above}</text>')
        return parts


def interval_bar(low: float, mean: float, high: float, reference: float) -> Markup:
    """A mean and its interval on a scale from 0 to 100, with a line at a value to compare with."""
    ends = "" if low != low else f'<line class="range" x1="{low:.1f}" x2="{high:.1f}" y1="7" y2="7"/>'
    return Markup(
        '<svg class="interval" viewBox="-3 0 106 14" aria-hidden="true">'
        '<line class="grid" x1="0" x2="100" y1="7" y2="7"/>'
        f'<line class="reference" x1="{reference:.1f}" x2="{reference:.1f}" y1="1" y2="13"/>{ends}'
        f'<circle class="dot" cx="{mean:.1f}" cy="7" r="3"/></svg>'
    )


def percent_axis(name: str, low: float = 0.0) -> Axis:
    """An axis of shares, 0-1, from ``low`` (in whole tenths) to 1."""
    step = 0.1 if low >= 0.5 else 0.2
    first = round(low * 10) / 10
    ticks = [1 - step * number for number in range(int((1 - first) / step + 1e-9) + 1)]  # from the top down
    return Axis(name, first, 1.0, [round(tick, 2) for tick in ticks], "{:.0%}")


def even_ticks(low: float, high: float, count: int = 7) -> list[float]:
    """About so many round values between two ends."""
    width = (high - low) / max(count - 1, 1)
    if not width > 0:
        return [low]
    size = 10 ** (len(f"{int(width)}") - 1 if width >= 1 else -3)
    while size * 10 <= width:
        size *= 10
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= width)
    first = -(-low // step) * step
    return [round(first + step * number, 6) for number in range(int((high - first) / step + 1e-9) + 1)]
