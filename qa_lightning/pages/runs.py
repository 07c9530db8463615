"""The table of runs, side by side: for a terminal, and as a page."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qa_lightning.files import write_file
from qa_lightning.pages.html import as_bytes, framed, make_page
from qa_lightning.runs.listing import RunSummary, differing
from qa_lightning.wording import visible

if TYPE_CHECKING:
    from rich.table import Table

_UNKNOWN = "–"
_LONGEST = 80  # characters of a setting's value
_COLUMN = 16  # letters of a terminal that a run has at least, side by side with others
_ENDLESS = 100_000
_FRAME = 420  # pixels in a notebook


@dataclass(frozen=True)
class _Figure:
    name: str
    value: Callable[[RunSummary], float]
    form: str
    best: Callable[[Sequence[float]], float] | None = None  # which of some values is the best; None: none is


_BEST_F1 = _Figure("best F1", lambda run: run.best_f1, "{:.2f}", max)  # shown where some questions have no answer
_FIGURES = (
    _Figure("EM", lambda run: run.exact, "{:.2f}", max),
    _Figure("F1", lambda run: run.f1, "{:.2f}", max),
    _BEST_F1,
    _Figure("best epoch", lambda run: run.best_epoch, "{:.0f}"),
    _Figure("minutes", lambda run: run.minutes, "{:,.1f}", min),
    _Figure("windows/s", lambda run: run.speed, "{:,.1f}", max),
    _Figure("GiB", lambda run: run.memory, "{:.1f}", min),
)


@dataclass(frozen=True)
class RunTable:
    """Runs side by side; in a notebook, it shows itself.

    Args:
        runs: in the order of the rows.
        problems: a line for each folder that is not shown.
    """

    runs: Sequence[RunSummary]
    problems: Sequence[str] = ()

    @property
    def header(self) -> list[str]:
        """The names of the columns."""
        return ["run", "model", *(figure.name for figure in self.figures), *self.settings]

    @property
    def figures(self) -> list[_Figure]:
        """The columns of numbers."""
        with_best = any(not math.isnan(run.best_f1) for run in self.runs)
        return [figure for figure in _FIGURES if with_best or figure is not _BEST_F1]

    @property
    def settings(self) -> list[str]:
        """The settings that differ."""
        return [name for name in differing(self.runs) if name != "model_name"]  # it has a column

    @property
    def rows(self) -> list[list[tuple[str, bool]]]:
        """Each run's cells, for people, and whether a figure is the best of its column."""
        best, figures = {}, self.figures
        for figure in figures:
            known = [value for run in self.runs if not math.isnan(value := figure.value(run))]
            best[figure.name] = figure.best(known) if figure.best and len(set(known)) > 1 else None
        return [
            [
                (f"{run.name} (pruned)" if run.pruned else run.name, False),
                (run.model, False),
                *((_written(figure, run), figure.value(run) == best[figure.name]) for figure in figures),
                *((_setting(run, name), False) for name in self.settings),
            ]
            for run in self.runs
        ]

    def rich_tables(self, width: int) -> list[Table]:
        """The table for a terminal of so many columns.

        Where it is too narrow, the runs stand side by side, and a few of them in each of several tables.
        """
        from rich.console import Console

        header = [(name, False) for name in self.header]
        upright = _rich_table([header, *self.rows], range(2, 2 + len(self.figures)))
        if Console(width=_ENDLESS).measure(upright).maximum <= width:
            return [upright]
        names = min(max(map(len, self.header)), width // 3)
        each = max(1, (width - names) // _COLUMN)
        parts = [self.rows[first : first + each] for first in range(0, len(self.runs), each)]
        return [_rich_table([*map(list, zip(header, *part, strict=True))], range(0)) for part in parts]

    def html(self) -> str:
        """The page."""
        return make_page("runs", {"table": self, "figures": len(self.figures)})

    def write(self, path: str | PathLike[str]) -> None:
        """Write the page.

        Raises:
            OSError: it cannot be written.
        """
        write_file(Path(path), as_bytes(self.html()))

    def _repr_html_(self) -> str:
        return framed(self.html(), _FRAME)


def _rich_table(rows: Sequence[Sequence[tuple[str, bool]]], figures: range) -> Table:
    """A table for a terminal.

    Args:
        rows: the header and the rows below it; texts, and whether they are bold.
        figures: the columns of numbers, which are never folded.
    """
    from rich.box import SIMPLE
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=SIMPLE, pad_edge=False)
    for number, (name, _) in enumerate(rows[0]):
        is_figure = number in figures
        table.add_column(
            escape(visible(name)), justify="right" if is_figure else "left", no_wrap=is_figure, overflow="fold"
        )
    for row in rows[1:]:
        cells = [(escape(visible(text)), is_bold) for text, is_bold in row]
        table.add_row(*(f"[bold]{text}[/bold]" if is_bold else text for text, is_bold in cells))
    return table


def _written(figure: _Figure, run: RunSummary) -> str:
    value = figure.value(run)
    return _UNKNOWN if math.isnan(value) else figure.form.format(value)


def _setting(run: RunSummary, name: str) -> str:
    if name not in run.settings:
        return _UNKNOWN
    value: Any = run.settings[name]
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
