"""Notes the signals that stop a run; `resume.LastCheckpoint` stops it at the next safe point."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from enum import IntEnum
from types import FrameType
from typing import Any

from tqdm import tqdm

Handler = Callable[[int, FrameType | None], Any] | int | None


class Stop(IntEnum):
    """Why a run is to stop; if several processes got different signals, the highest value counts."""

    NO = 0
    TERMINATE = 1
    REQUEUE = 2
    INTERRUPT = 3

    @property
    def status(self) -> int:
        """The exit status that shells and schedulers expect: 128 + the signal's number."""
        return 128 + (signal.SIGINT if self is Stop.INTERRUPT else signal.SIGTERM)

    @property
    def cause(self) -> str:
        """The reason, as messages name it."""
        return {Stop.INTERRUPT: "Ctrl-C", Stop.REQUEUE: "SLURM (the job is requeued)"}.get(self, "SIGTERM")


class StopSignals:
    """Takes SIGTERM, SIGUSR1 and a first Ctrl-C as a request to stop; a second Ctrl-C interrupts at once.

    Lightning's own handlers act in the middle of a step: they write a checkpoint of half a step, or broadcast between
    two other broadcasts.

    Attributes:
        asked: the highest request so far.
    """

    def __init__(self) -> None:
        self.asked = Stop.NO
        self._before: dict[int, Handler] = {}

    def listen(self) -> None:
        """Note signals from now on; does nothing outside the main thread, where Python allows no handlers."""
        self.asked = Stop.NO
        self._set(signal.SIGINT, self._on_interrupt)
        self._set(signal.SIGTERM, lambda *_: self._ask(Stop.TERMINATE))
        if hasattr(signal, "SIGUSR1"):
            self._set(signal.SIGUSR1, lambda *_: self._ask(Stop.REQUEUE if slurm_requeues() else Stop.TERMINATE))

    def restore(self) -> None:
        """Put back the handlers that were there before `listen`."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _set(self, number: int, handler: Handler) -> None:
        try:
            before = signal.signal(number, handler)
        except ValueError:
            return
        self._before.setdefault(number, before)

    def _ask(self, stop: Stop) -> None:
        self.asked = max(self.asked, stop)

    def _on_interrupt(self, *_: Any) -> None:
        if self.asked is Stop.INTERRUPT:
            raise KeyboardInterrupt
        self.asked = Stop.INTERRUPT
        if int(os.environ.get("LOCAL_RANK", "0")) == 0:
            tqdm.write("stopping after this batch; press Ctrl-C again to stop at once")


def slurm_job() -> str | None:
    """Id of this SLURM batch job, as ``scontrol`` takes it; the same after a requeue, None outside a batch job."""
    if os.environ.get("SLURM_JOB_NAME") in (None, "bash", "interactive"):
        return None
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID')}" if array else os.environ.get("SLURM_JOB_ID")


def slurm_requeues() -> bool:
    """Whether SIGUSR1 means that the SLURM job's time is up, and that it is to be requeued."""
    return slurm_job() is not None
