"""How far a long loop is: a bar in a terminal, a line now and then where the output goes to a file."""

from __future__ import annotations

import logging
import sys
from typing import Any

from tqdm import tqdm

log = logging.getLogger("qa_lightning")

SECONDS = 10.0  # between two lines, at least


class _Lines(tqdm):  # type: ignore[misc]
    """Logs a line wherever a bar would be drawn anew."""

    monitor_interval = 0  # no thread that draws in between

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Log where the loop stands; nothing at its beginning, nor where a bar would be wiped off (``msg`` is '')."""
        if msg is None and self.n > self.initial:
            values: dict[str, Any] = self.format_dict
            of = f" of {self.total:,}  {self.n / self.total:6.1%}" if self.total else ""
            speed = (self.n - self.initial) / max(values["elapsed"], 1e-9)
            elapsed = self.format_interval(values["elapsed"])
            log.info(f"row {self.n:>9,}{of}  {speed:,.1f} rows/s  {elapsed}")


def row_progress(done: int, total: int | None) -> tqdm:
    """What to ``update`` by the number of rows done, in a ``with`` statement; gone at its end.

    Args:
        done: rows that earlier runs did; they count not for the speed.
        total: rows that there are, those too; None where that is not known.
    """
    if sys.stdout.isatty():
        return tqdm(total=total, initial=done, unit=" rows", file=sys.stdout, dynamic_ncols=True, leave=False)
    return _Lines(total=total, initial=done, file=sys.stdout, mininterval=SECONDS, miniters=1, leave=False)
