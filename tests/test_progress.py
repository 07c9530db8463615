"""Progress: plain lines into a file, at most one in a while, and a bar in a terminal that wipes itself off."""

from __future__ import annotations

import io
import logging
import sys

import pytest

from qa_lightning import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch):
    """The seconds that tqdm reads, to be set."""
    seconds = [0.0]
    monkeypatch.setattr("tqdm.std.time", lambda: seconds[0])
    return seconds


def test_into_a_file_a_line_at_most_every_ten_seconds(clock, caplog, capsys):
    caplog.set_level(logging.INFO, "qa_lightning")
    with row_progress(2000, 8000) as rows:
        for clock[0] in (4.0, 9.0, 10.0, 11.0, 19.0, 70.0):
            rows.update(1000)
        clock[0] = 75.0
    assert caplog.messages == [
        "row     5,000 of 8,000   62.5%  300.0 rows/s  00:10",
        "row     8,000 of 8,000  100.0%  85.7 rows/s  01:10",
    ]
    assert "\r" not in "".join(capsys.readouterr())  # a bar has it


@pytest.mark.parametrize("total", [None, 0, 10])
def test_rows_that_nobody_counted_are_told_too(total, clock, caplog):
    caplog.set_level(logging.INFO, "qa_lightning")
    with row_progress(0, total) as rows:
        clock[0] = 10.0
        rows.update(30)
    (line,) = caplog.messages
    assert line.replace(" of 10  300.0%", "") == "row        30  3.0 rows/s  00:10"


def test_in_a_terminal_there_is_a_bar_until_the_end(clock, caplog, monkeypatch):
    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    with row_progress(2000, 8000) as rows:
        clock[0] = 10.0
        rows.update(3000)
        drawn = terminal.getvalue()
    assert "62%" in drawn
    assert "5000/8000 [00:10<00:10, 300.00 rows/s]" in drawn
    assert terminal.getvalue().endswith("\r")
    assert not terminal.getvalue().rpartition("rows/s]")[2].strip()
    assert not caplog.messages


def test_the_interval_is_read_when_a_loop_begins(monkeypatch, caplog):
    caplog.set_level(logging.INFO, "qa_lightning")
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    with row_progress(0, 2) as rows:
        rows.update(1)
        rows.update(1)
    assert [line.split()[1] for line in caplog.messages] == ["1", "2"]
