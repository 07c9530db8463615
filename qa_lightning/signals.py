"""Signals that end a run: at the end of a step, with a checkpoint of exactly that step."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer
from tqdm import tqdm

Handler = Callable[[int, FrameType | None], Any] | int | None


class StopSignals(Callback):
    """Treats SIGUSR1, and a first Ctrl-C, as SIGTERM, on which Lightning ends a fit after the step that runs.

    A KeyboardInterrupt would come in the middle of a step, and what is saved then is half of one. A second Ctrl-C
    does that all the same. Under SLURM SIGUSR1 is left to Lightning, which requeues the job.

    Attributes:
        interrupted: whether there was a Ctrl-C.
    """

    def __init__(self) -> None:
        self.interrupted = False
        self._before: dict[int, Handler] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen."""
        self.interrupted = False
        self._listen(signal.SIGINT, self._on_interrupt)
        if hasattr(signal, "SIGUSR1") and not SLURMEnvironment.detect():
            self._listen(signal.SIGUSR1, lambda *_: os.kill(os.getpid(), signal.SIGTERM))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen no more."""
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Listen no more."""
        self._restore()

    def _listen(self, number: int, handler: Handler) -> None:
        try:
            self._before[number] = signal.signal(number, handler)
        except ValueError:  # not in the main thread, where alone handlers can be set
            return

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _on_interrupt(self, *_: Any) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True
        tqdm.write("stopping after this step; Ctrl-C once more stops at once")
        os.kill(os.getpid(), signal.SIGTERM)
