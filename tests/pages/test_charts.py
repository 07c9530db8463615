"""Charts: where points lie, which ticks there are, and that texts in them are escaped."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import pytest

from qa_lightning.pages.charts import HEIGHT, WIDTH, Axis, Chart, Line, even_ticks, interval_bar, percent_axis


@pytest.mark.parametrize(
    ("low", "ticks"),
    [(0.0, [0, 0.2, 0.4, 0.6, 0.8, 1]), (0.1, [0.2, 0.4, 0.6, 0.8, 1]), (0.7, [0.7, 0.8, 0.9, 1])],
)
def test_an_axis_of_shares_ends_at_a_tick(low, ticks) -> None:
    axis = percent_axis("right", low)
    assert sorted(axis.ticks) == pytest.approx(ticks)
    assert (axis.low, axis.high) == (low, 1)


@pytest.mark.parametrize(("low", "high"), [(-13.4, 6.2), (0.0, 0.03), (-2.0, 900.0), (5.0, 5.0)])
def test_ticks_are_round_few_and_within(low, high) -> None:
    ticks = even_ticks(low, high)
    assert 1 <= len(ticks) <= 9
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in ticks)
    if len(ticks) > 1:
        step = ticks[1] - ticks[0]
        assert round(step / 10 ** math.floor(math.log10(step)), 6) in (1, 2, 5)


def test_points_lie_where_their_values_say_and_beyond_an_end_at_it() -> None:
    axis = Axis("x", 0, 10, (0, 10))
    chart = Chart("title", axis, axis, [Line("main", [(0, 0), (10, 10)])], marker="here")
    (left, bottom), (right, top) = chart.at(0, 0), chart.at(10, 10)
    assert 0 < left < right < WIDTH
    assert 0 < top < bottom < HEIGHT
    assert chart.at(99, -99) == (right, bottom)
    assert chart.at(5, 5) == ((left + right) / 2, (bottom + top) / 2)
    picture = ElementTree.fromstring(chart.svg())
    (line,) = (one for one in picture if one.get("class") == "line main")
    assert line.get("points") == f"{left:g},{bottom:g} {right:g},{top:g}"
    assert {one.get("id") for one in picture} >= {"here-line", "here-dot"}


def test_names_are_escaped() -> None:
    axis = Axis('<b>&"x"', 0, 1, (0, 1))
    picture = ElementTree.fromstring(Chart('<i> "t"', axis, axis).svg())
    assert picture.get("aria-label") == '<i> "t"'
    assert '<b>&"x"' in [one.text for one in picture]


def test_a_mean_without_an_interval_has_no_range() -> None:
    assert "range" in interval_bar(10, 20, 30, 25)
    assert "range" not in interval_bar(math.nan, 20, math.nan, 25)
