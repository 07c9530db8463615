"""Runs side by side: the table in a terminal and as a page, and the command."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from qa_lightning.cli.main import call
from qa_lightning.pages.runs import RunTable
from qa_lightning.runs.listing import RunSummary, sorted_runs
from tests.helpers.browser import NARROW, WIDE
from tests.helpers.payloads import PAYLOADS

RUNS = [
    RunSummary("logs/version_0", "bert", 80.0, 88.5, 2, 30.0, 110.0, 3.0, {"learning_rate": 2e-5, "batch_size": 8}),
    RunSummary("logs/version_1", "bert", 81.0, 88.0, 3, settings={"learning_rate": 5e-5, "batch_size": 8}),
]


def test_the_table_has_figures_and_the_settings_that_differ() -> None:
    table = RunTable(RUNS)
    assert table.header == ["run", "model", "EM", "F1", "best epoch", "minutes", "windows/s", "GiB", "learning_rate"]
    assert table.rows[0] == [
        *(("logs/version_0", False), ("bert", False), ("80.00", False), ("88.50", True), ("2", False)),
        *(("30.0", False), ("110.0", False), ("3.0", False), ("2e-05", False)),
    ]
    assert [text for text, _ in table.rows[1]][2:] == ["81.00", "88.00", "3", "–", "–", "–", "5e-05"]


def test_questions_without_an_answer_add_f1_at_the_best_threshold_which_runs_are_sorted_by() -> None:
    runs = [RunSummary("a", "bert", 50.0, 60.0, best_f1=61.0), RunSummary("b", "bert", 40.0, 45.0, best_f1=70.0)]
    table = RunTable(sorted_runs(runs, "f1"))
    assert table.header[2:5] == ["EM", "F1", "best F1"]
    assert [[text for text, _ in row][:5] for row in table.rows] == [
        ["b", "bert", "40.00", "45.00", "70.00"],
        ["a", "bert", "50.00", "60.00", "61.00"],
    ]


def test_in_a_terminal_control_characters_and_markup_are_shown() -> None:
    hostile = RunSummary("\x1b[31mred [bold]x[/bold]", "\u202em", settings={"a": "[red]1"})
    table = RunTable([hostile, RunSummary("b", "m", settings={"a": 1})])
    for width in (200, 70):
        text = printed(table, width)
        assert "\\x1b[31mred [bold]x[/bold]" in text
        assert "\\u202em" in text
        assert "[red]1" in text
        assert "\x1b" not in text


def printed(table: RunTable, width: int) -> str:
    text = io.StringIO()
    Console(file=text, width=width).print(*table.rich_tables(width))
    return text.getvalue()


def test_in_a_narrow_terminal_runs_stand_side_by_side() -> None:
    """No number and no setting is broken, however many runs there are."""
    names = ("learning_rate", "batch_size", "gradient_clip_val", "warmup")
    runs = [
        RunSummary(
            f"logs/version_{number}", "bert", 80 + number, 88.5, 2, 30, 1, 3, dict.fromkeys(names, f"{number}e-05")
        )
        for number in range(7)
    ]
    assert len(RunTable(runs).rich_tables(200)) == 1
    assert "logs/version_3" in printed(RunTable(runs), 200).splitlines()[6]
    lines = printed(RunTable(runs), 80).splitlines()
    assert max(map(len, lines)) <= 80
    cells = [line.split() for line in lines]
    assert [line for line in cells if "EM" in line] == [
        ["EM", "80.00", "81.00", "82.00"],
        ["EM", "83.00", "84.00", "85.00"],
        ["EM", "86.00"],
    ]
    for name in names:
        assert [line[1:] for line in cells if name in line][1] == ["3e-05", "4e-05", "5e-05"]


@pytest.mark.parametrize("width", [NARROW, WIDE])
def test_the_page_shows_all_as_text_and_the_table_scrolls_by_itself(open_page, tmp_path: Path, width) -> None:
    hostile = [RunSummary(text, text, settings={"a": text, text: number}) for number, text in enumerate(PAYLOADS)]
    table = RunTable([*RUNS, *hostile], [f"{payload}: no run" for payload in PAYLOADS])
    table.write(str(tmp_path / "runs.html"))
    page = open_page(tmp_path / "runs.html", width=width)
    assert page.locator("tbody tr").count() == 2 + len(PAYLOADS)
    assert page.locator(".problems li").count() == len(PAYLOADS)
    assert page.locator("script, img, iframe, svg, a, form").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert "\x1b" not in page.content()


def test_the_command_shows_sorts_and_writes_runs(tmp_path, capsys) -> None:
    for number, score in enumerate((60.0, 80.0, 70.0)):
        folder = tmp_path / f"version_{number}"
        folder.mkdir()
        record = {"finished": "2026-11-26T08:30:00+00:00", "scores": {"best/f1": score, "best/exact_match": score}}
        (folder / "run.json").write_text(json.dumps([record]))
        settings = f"model: {{model_name: tiny, learning_rate: {number}}}\nsave_every_minutes: 1"
        (folder / "config.yaml").write_text(settings)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("")
    folders = [str(tmp_path / name) for name in ("version_0", "version_1", "other", "version_2")]
    page = tmp_path / "runs.html"
    assert call("compare", [*folders, "--sort", "f1", "--output", str(page)]) == 0
    said = capsys.readouterr().out
    assert f"{tmp_path / 'other'}: not a run of qa-lightning" in said
    assert f"written to {page}" in said
    places = [said.index(score) for score in ("80.00", "70.00", "60.00")]
    assert places == sorted(places)
    assert "learning_rate" in page.read_text("utf-8")
    assert call("compare", [str(tmp_path / "other")]) == 1


def test_in_a_notebook_it_shows_itself() -> None:
    assert RunTable(RUNS)._repr_html_().startswith("<iframe srcdoc=")
