"""Takes the signals that stop a run: at once before and after training, at the next safe point within it.

`checkpoints.LastCheckpoint` knows the safe points; the command listens from its first moment to its last.
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
    """Why a run is to stop; if several processes got different signals, the highest value counts."""

    NO = 0
    HANG_UP = 1
    TERMINATE = 2
    REQUEUE = 3
    INTERRUPT = 4

    @property
    def status(self) -> int:
        """The exit status that shells and schedulers expect: 128 + the signal's number."""
        numbers = {Stop.INTERRUPT: signal.SIGINT, Stop.HANG_UP: getattr(signal, "SIGHUP", 1)}
        return 128 + numbers.get(self, signal.SIGTERM)

    @property
    def cause(self) -> str:
        """The reason, as messages name it."""
        causes = {
            Stop.INTERRUPT: "Ctrl-C",
            Stop.REQUEUE: "SLURM (the job is requeued)",
            Stop.HANG_UP: "SIGHUP (its terminal is gone)",
        }
        return causes.get(self, "SIGTERM")


class Stopped(SystemExit):
    """A run was asked to stop, and has stopped.

    Args:
        stop: why; it also gives the exit status.
        alone: whether only this process has stopped so far, wherever it was; otherwise all did, at a safe point.
    """

    def __init__(self, stop: Stop, alone: bool = False) -> None:
        super().__init__(int(stop.status))
        self.stop = stop
        self.alone = alone


class StopSignals:
    """Takes SIGTERM, SIGHUP, SIGUSR1 and Ctrl-C as a request to stop.

    A request ends the process at once, by `Stopped`, wherever it is: all that is written is whole or not there. From
    `hold` to `release` it is only noted, for there is more to save; there a second Ctrl-C interrupts. A SIGHUP that is
    ignored, as ``nohup`` makes it, stays so.

    Lightning's own handlers act in the middle of a step: they write a checkpoint of half a step, or broadcast between
    two other broadcasts.

    Attributes:
        asked: the highest request so far.
    """

    def __init__(self) -> None:
        self.asked = Stop.NO
        self._held = False
        self._presses = 0
        self._before: dict[int, Handler] = {}
        self._lent = False  # whether `hold` found nobody listening

    def listen(self) -> None:
        """Take signals from now on; does nothing outside the main thread, where Python allows no handlers."""
        self.asked, self._presses = Stop.NO, 0
        self._set("SIGINT", self._on_interrupt)
        self._set("SIGTERM", lambda *_: self._ask(Stop.TERMINATE))
        self._set("SIGUSR1", lambda *_: self._ask(Stop.REQUEUE if slurm_requeues() else Stop.TERMINATE))
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            self._set("SIGHUP", lambda *_: self._ask(Stop.HANG_UP))

    def restore(self) -> None:
        """Put back the handlers that were there before `listen`."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def hold(self) -> None:
        """Only note signals from now on: safe points will come. Listens if nobody did before."""
        self._held = True
        self._lent = not self._before
        if self._lent:
            self.listen()

    def release(self) -> None:
        """Stop at once again; no longer listen if `hold` began it. What was noted stops at the next `check`."""
        self._held = False
        if self._lent:
            self.restore()

    def check(self) -> None:
        """Stop now if that was asked: a request may have come while signals were held, or where no exception gets out.

        Raises:
            Stopped: it was.
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
        if first and not self._held:  # later ones must not tear what the first one's way out puts in order
            raise Stopped(stop, alone=True)

    def _on_interrupt(self, *_: Any) -> None:
        self._presses += 1
        if self._held and self._presses > 1:
            raise KeyboardInterrupt
        if not self._held and self._presses > 2:  # the way out hangs
            os._exit(Stop.INTERRUPT.status)
        if self._held and first_process():
            with contextlib.suppress(RuntimeError):  # the signal came while something was being printed
                tqdm.write("stopping after this batch; press Ctrl-C again to stop at once")
        self._ask(Stop.INTERRUPT)


def requeue_job() -> None:
    """Have SLURM start this job again."""
    with contextlib.suppress(OSError):
        subprocess.run(["scontrol", "requeue", str(slurm_job())], check=False)


def first_process() -> bool:
    """Whether this is the first of a run's processes, as far as that is known before they have met."""
    found = (os.environ.get(name) for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
    return next((rank == "0" for rank in found if rank is not None), True)


def slurm_job() -> str | None:
    """Id of this SLURM batch job, as ``scontrol`` takes it; the same after a requeue, None outside a batch job."""
    if os.environ.get("SLURM_JOB_NAME") in (None, "bash", "interactive"):
        return None
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID')}" if array else os.environ.get("SLURM_JOB_ID")


def slurm_requeues() -> bool:
    """Whether SIGUSR1 means that the SLURM job's time is up, and that it is to be requeued."""
    return slurm_job() is not None
