"""Shows the progress of a long loop: a bar in a terminal, lines in a file, a pipe or a scheduler's log.

It also has the handler that prints log lines above a bar.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ClassVar, TypeVar
from weakref import WeakSet

from tqdm import tqdm

from qa_lightning.wording import visible

log = logging.getLogger("qa_lightning")

MIN_SECONDS = 10.0  # between two lines
MAX_SECONDS = 300.0  # the same, where less than a share is done in them
UNCOUNTED_SECONDS = 60.0  # the same, where nobody knows how much there is
SHARE = 0.02  # of the whole, after which a line is due

_T = TypeVar("_T")
_bars: ContextVar[bool | None] = ContextVar("bars", default=None)


def shows_bars() -> bool:
    """Whether progress is a bar: as `showing_bars` has it, or else in a terminal."""
    wanted = _bars.get()
    return sys.stdout.isatty() if wanted is None else wanted


@contextmanager
def showing_bars(wanted: bool | None) -> Iterator[None]:
    """Show the progress of all loops as bars, or as lines; None: as bars in a terminal alone."""
    token = _bars.set(wanted)
    try:
        yield
    finally:
        _bars.reset(token)


class Pace:
    """When a line is due: after 2% of the whole or 5 minutes, whichever comes first, but not within 10 seconds.

    The first line is due after 10 seconds, so that a person sees soon how fast it goes.

    Args:
        total: how much there is; None where that is not known, and then a line is due every minute.
        done: how much of it is done at the start.
        now: the time at the start, in seconds.
    """

    def __init__(self, total: float | None, done: float = 0, now: float | None = None) -> None:
        self._share = SHARE * total if total else None
        self._done = done
        self._when = time.monotonic() if now is None else now
        self._is_first = True

    def is_due(self, done: float, now: float | None = None) -> bool:
        """Whether a line is due; if so, the next one is counted from here.

        Args:
            done: how much is done.
            now: the time, in seconds, by the same clock as at the start.
        """
        now = time.monotonic() if now is None else now
        waited = now - self._when
        if waited < MIN_SECONDS:
            return False
        enough = done - self._done >= self._share if self._share is not None else waited >= UNCOUNTED_SECONDS
        if not (enough or self._is_first or waited >= MAX_SECONDS):
            return False
        self._done, self._when, self._is_first = done, now, False
        return True


class _Lines(tqdm):  # type: ignore[misc]
    """A bar that logs lines in place of drawing itself."""

    monitor_interval = 0  # no thread that draws in between
    # Not among the bars, which are wiped off where something else is written.
    _instances: ClassVar[WeakSet[tqdm]] = WeakSet()

    def __init__(self, what: str, **options: Any) -> None:
        super().__init__(**options, disable=False)  # the environment may disable bars (TQDM_DISABLE); these are lines
        self._what = f"{what}: " if what else ""
        self._pace = Pace(self.total, self.n, self.start_t)

    def update(self, n: float = 1) -> bool:
        """Count ``n`` more, and log a line if one is due; returns whether one was."""
        self.n += n
        is_due = self._pace.is_due(self.n, self._time())
        if is_due:
            self._log()
        return is_due

    def _log(self) -> None:
        elapsed = self._time() - self.start_t
        speed = (self.n - self.initial) / max(elapsed, 1e-9)
        of = left = ""
        if self.total:
            of = f" of {self.total:,}  {self.n / self.total:6.1%}"
            left = f", {duration((self.total - self.n) / speed)} left" if speed > 0 and self.n < self.total else ""
        log.info(f"{self._what}{self.unit} {self.n:>9,}{of}  {speed:,.1f} {self.unit}s/s  {duration(elapsed)}{left}")

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Draw nothing."""


def loop_progress(total: int | None, unit: str = "row", done: int = 0, what: str = "") -> tqdm:
    """What to ``update`` by the number of units done, in a ``with`` statement; gone at its end.

    Args:
        total: units in all, those done before included; None if that is not known.
        unit: what is counted, in the singular.
        done: units that were done before; the speed does not include them.
        what: the loop's name, which begins each line.
    """
    options: dict[str, Any] = {"total": total, "initial": done, "file": sys.stdout, "leave": False}
    if shows_bars():
        return tqdm(desc=what or None, unit=f" {unit}s", dynamic_ncols=True, **options)
    return _Lines(what, unit=unit, **options)


def tracked(items: Iterable[_T], total: int | None, unit: str = "row", what: str = "") -> Iterator[_T]:
    """Yield the items, and show the progress; see `loop_progress`."""
    with loop_progress(total, unit, what=what) as progress:
        for item in items:
            yield item
            progress.update(1)


def duration(seconds: float) -> str:
    """A time as people read it: ``0:07``, ``12:34``, ``1:02:03``, ``2d 03:04:05``."""
    minutes, second = divmod(round(max(seconds, 0.0)), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d {hour:02d}:{minute:02d}:{second:02d}"
    return f"{hour}:{minute:02d}:{second:02d}" if hour else f"{minute}:{second:02d}"


class PrintHandler(logging.Handler):
    """Prints to what ``sys.stdout`` is when a record comes, not when the handler was made."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the record above a progress bar, if there is one, flushed so that a pipe gets it at once."""
        text = self.format(record)
        own = record.name.partition(".")[0] == "qa_lightning"  # whose messages are lines, perhaps with one before them
        ends = len(text) - len(text.lstrip("\n")) if own else 0
        tqdm.write("\n" * ends + visible(text[ends:], lines=not own))
        sys.stdout.flush()


def print_from(logger: logging.Logger, handler: logging.Handler) -> None:
    """Print what a logger and its children log, by this handler alone."""
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False


def print_log() -> None:
    """Print this package's log lines in a program or notebook that has not set up logging, as Lightning does its own.

    They say what was guessed, left out or repaired in somebody's data.
    """
    if not log.handlers and not logging.getLogger().handlers and log.level == logging.NOTSET:
        print_from(log, PrintHandler())
