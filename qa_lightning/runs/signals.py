"""Handles SIGTERM, SIGHUP, SIGUSR1 and Ctrl-C: they stop training at the next safe point, and all else at once.

`checkpoints.LastCheckpoint` defines the safe points. The handlers are set for as long as the command runs.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable
from enum import IntEnum
from types import FrameType
from typing import Any

from tqdm import tqdm

Handler = Callable[[int, FrameType | None], Any] | int | None


class Stop(IntEnum):
    """The reason to stop; if processes got different signals, the highest value counts."""

    NO = 0
    PRUNE = 1
    HANG_UP = 2
    TERMINATE = 3
    REQUEUE = 4
    INTERRUPT = 5

    @property
    def status(self) -> int:
        """The exit status that shells and schedulers expect: 128 + the signal's number."""
        numbers = {Stop.INTERRUPT: signal.SIGINT, Stop.HANG_UP: getattr(signal, "SIGHUP", 1)}
        return 128 + numbers.get(self, signal.SIGTERM)

    @property
    def cause(self) -> str:
        """The reason, as messages name it."""
        causes = {
            Stop.PRUNE: "its study, which prunes this trial",
            Stop.INTERRUPT: "Ctrl-C",
            Stop.REQUEUE: "SLURM (the job is requeued)",
            Stop.HANG_UP: "SIGHUP (its terminal is gone)",
        }
        return causes.get(self, "SIGTERM")


class Stopped(SystemExit):
    """Ends a run that was asked to stop.

    Args:
        stop: the reason; it decides the exit status.
        alone: True if this process stopped by itself, at any point; False if all processes stopped at a safe point.
    """

    def __init__(self, stop: Stop, alone: bool = False) -> None:
        super().__init__(int(stop.status))
        self.stop = stop
        self.alone = alone


def ends_with_terminal() -> bool:
    """Whether this process gets a SIGHUP that it may act on, when its terminal is closed: not so under ``nohup``."""
    return hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN


class StopSignals:
    """Treats SIGTERM, SIGHUP, SIGUSR1 and Ctrl-C as requests to stop.

    A request raises `Stopped` at once; files are complete or absent, so this is safe anywhere. Between `hold` and
    `release` a request is only recorded, because progress must be saved first; a second Ctrl-C then interrupts at once.
    A SIGHUP that is ignored (``nohup``) stays ignored.

    Lightning's own handlers are not used: they act in the middle of a step, and so write a checkpoint of half a step,
    or broadcast between two other broadcasts.

    Attributes:
        asked: the highest request so far.
    """

    def __init__(self) -> None:
        self.asked = Stop.NO
        self._held = False
        self._presses = 0
        self._before: dict[int, Handler] = {}
        self._lent = False  # whether `hold` called `listen`, because nothing else had

    def listen(self) -> None:
        """Set the handlers; does nothing outside the main thread, where Python allows no handlers."""
        self.asked, self._presses = Stop.NO, 0
        self._set("SIGINT", self._on_interrupt)
        self._set("SIGTERM", lambda *_: self._ask(Stop.TERMINATE))
        self._set("SIGUSR1", lambda *_: self._ask(Stop.REQUEUE if slurm_requeues() else Stop.TERMINATE))
        if ends_with_terminal():
            self._set("SIGHUP", lambda *_: self._ask(Stop.HANG_UP))

    def restore(self) -> None:
        """Put back the handlers that were there before `listen`."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def hold(self) -> None:
        """Only record signals from now on: safe points will come. Calls `listen` if it was not called before."""
        self._held = True
        self._lent = not self._before
        if self._lent:
            self.listen()

    def release(self) -> None:
        """Stop at once again; call `restore` if `hold` called `listen`. The next `check` acts on a recorded request."""
        self._held = False
        if self._lent:
            self.restore()

    def ask(self, stop: Stop) -> None:
        """Request to stop, without a signal.

        Raises:
            Stopped: signals are not held, so that this is the point to stop at.
        """
        self._ask(stop)

    def check(self) -> None:
        """Stop if a request was recorded: while signals were held, or in code from which no exception can pass.

        Raises:
            Stopped: there was a request.
        """
        if self.asked:
            raise Stopped(self.asked, alone=True)

    def _set(self, name: str, handler: Handler) -> None:
        try:
            number = getattr(signal, name)
            before = signal.signal(number, handler)
        except (AttributeError, ValueError):  # no such signal on this system; not the main thread
            return
        self._before.setdefault(number, before)

    def _ask(self, stop: Stop) -> None:
        first = not self.asked
        self.asked = max(self.asked, stop)
        if first and not self._held:  # a later signal must not interrupt the clean-up after the first one
            raise Stopped(stop, alone=True)

    def _on_interrupt(self, *_: Any) -> None:
        self._presses += 1
        if self._held and self._presses > 1:
            raise KeyboardInterrupt
        if not self._held and self._presses > 2:  # the clean-up hangs
            os._exit(Stop.INTERRUPT.status)
        if self._held and first_process():
            with contextlib.suppress(RuntimeError):  # the signal came while something was being printed
                tqdm.write("stopping after this batch; press Ctrl-C again to stop at once")
        self._ask(Stop.INTERRUPT)


def requeue_job() -> None:
    """Ask SLURM to start this job again."""
    with contextlib.suppress(OSError):
        subprocess.run(["scontrol", "requeue", str(slurm_job())], check=False)


def first_process() -> bool:
    """Whether this is the first of a run's processes, by the environment: they need not be connected yet."""
    found = (os.environ.get(name) for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
    return next((rank == "0" for rank in found if rank is not None), True)


def slurm_job() -> str | None:
    """Id of this SLURM batch job, as ``scontrol`` takes it; the same after a requeue, None outside a batch job."""
    if os.environ.get("SLURM_JOB_NAME") in (None, "bash", "interactive"):
        return None
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID')}" if array else os.environ.get("SLURM_JOB_ID")


def slurm_requeues() -> bool:
    """Whether SIGUSR1 means that the SLURM job's time is up and that it must be requeued."""
    return slurm_job() is not None
