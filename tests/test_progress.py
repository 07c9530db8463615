"""Progress: plain lines into a file, when one is due, and a bar in a terminal that wipes itself off."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys

import pytest

from qa_lightning.progress import Pace, duration, loop_progress, showing_bars, tracked


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch):
    """The seconds that tqdm reads, to be set."""
    seconds = [0.0]
    monkeypatch.setattr("tqdm.std.time", lambda: seconds[0])
    return seconds


def test_into_a_file_a_line_when_one_is_due(clock, caplog, capsys):
    caplog.set_level(logging.INFO, "qa_lightning")
    with loop_progress(8000, done=2000) as rows:
        for clock[0] in (4.0, 9.0, 10.0, 11.0, 19.0, 70.0):
            rows.update(1000)
        clock[0] = 75.0
    assert caplog.messages == [
        "row     5,000 of 8,000   62.5%  300.0 rows/s  0:10, 0:10 left",
        "row     8,000 of 8,000  100.0%  85.7 rows/s  1:10",
    ]
    assert "\r" not in "".join(capsys.readouterr())  # a bar has it


def due(total: float | None, moments: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those (done, seconds) at which a line is due."""
    pace = Pace(total, 0, 0.0)
    return [(done, now) for done, now in moments if pace.is_due(done, now)]


@pytest.mark.parametrize(
    ("total", "per_second", "seconds"),
    [
        (1000, 100.0, [10]),  # it takes 10 seconds
        (1000, 10.0, [10, 20, 30, 40, 50, 60, 70, 80, 90, 100]),  # 2% take 2 seconds: every 10
        (1000, 1.0, list(range(10, 1000, 20))),  # 2% take 20 seconds; the first line comes sooner
        (100_000, 1.0, [10, *range(310, 1001, 300)]),  # 2% take 2,000 seconds: every 5 minutes
        (None, 7.0, [10, *range(70, 1001, 60)]),  # of nobody knows how much: every minute
    ],
)
def test_a_line_is_due_every_2_percent_and_5_minutes_but_not_within_10_seconds(total, per_second, seconds):
    end = min(1000, int((total or 1e9) / per_second))
    found = due(total, [(per_second * now, float(now)) for now in range(end + 1)])
    assert [now for _, now in found] == [float(second) for second in seconds]


@pytest.mark.parametrize("total", [None, 0, 10])
def test_rows_that_nobody_counted_are_told_too(total, clock, caplog):
    caplog.set_level(logging.INFO, "qa_lightning")
    with loop_progress(total, "window", what="validation") as rows:
        clock[0] = 10.0
        rows.update(30)
    (line,) = caplog.messages
    assert line.replace(" of 10  300.0%", "") == "validation: window        30  3.0 windows/s  0:10"


def test_in_a_terminal_there_is_a_bar_until_the_end(clock, caplog, monkeypatch):
    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    with loop_progress(8000, done=2000) as rows:
        clock[0] = 10.0
        rows.update(3000)
        drawn = terminal.getvalue()
    assert "62%" in drawn
    assert "5000/8000 [00:10<00:10, 300.00 rows/s]" in drawn
    assert terminal.getvalue().endswith("\r")
    assert not terminal.getvalue().rpartition("rows/s]")[2].strip()
    assert not caplog.messages


@pytest.mark.parametrize("bars", [True, False])
def test_who_asks_for_bars_or_lines_gets_them_wherever_the_output_goes(bars, clock, caplog, monkeypatch):
    caplog.set_level(logging.INFO, "qa_lightning")
    monkeypatch.setattr(sys, "stdout", out := io.StringIO() if bars else Terminal())
    with showing_bars(bars), loop_progress(8000) as rows:
        clock[0] = 10.0
        rows.update(8000)
    assert ("8000/8000" in out.getvalue(), bool(caplog.messages)) == (bars, not bars)


def test_items_pass_through_and_are_counted(clock, caplog):
    caplog.set_level(logging.INFO, "qa_lightning")
    seen = []
    for item in tracked("abcd", 4, what="reading"):
        seen.append(item)
        clock[0] += 10.0
    assert seen == list("abcd")
    assert [line.split()[:3] for line in caplog.messages] == [["reading:", "row", str(row)] for row in (1, 2, 3, 4)]


def test_times_are_written_as_people_read_them():
    assert [duration(seconds) for seconds in (-1, 7.4, 754, 3723, 2 * 86400 + 3 * 3600 + 245)] == [
        *("0:00", "0:07", "12:34", "1:02:03", "2d 03:04:05")
    ]


def test_lines_are_logged_where_bars_are_disabled() -> None:
    """tqdm reads ``TQDM_DISABLE`` when it is imported."""
    code = (
        "from qa_lightning.progress import loop_progress\n"
        "with loop_progress(9) as rows:\n    print(rows.update(9), rows.n)"
    )
    given = os.environ | {"TQDM_DISABLE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=given, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["False", "9"]
