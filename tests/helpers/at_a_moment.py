"""A training run that something happens to at a chosen moment; a process of its own.

python tests/helpers/at_a_moment.py MOMENT WHAT [RANK] -- FLAGS

MOMENT is one of those below; WHAT is the names of signals that the process sends itself there, one after the other
(``SIGTERM``, ``SIGINT,SIGINT``), or ``raise``; RANK the process that it happens to, the first by default. The first
process says how those ended that it told to.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

from qa_lightning import files
from qa_lightning.cli.console import run_command
from qa_lightning.cli.main import call
from qa_lightning.runs import record
from qa_lightning.runs.failures import Launcher
from qa_lightning.training import callbacks, datamodule
from qa_lightning.training import module as training_module
from qa_lightning.training import run as training


def loading(happen: Callable[[], None]) -> None:
    """The model is being loaded."""
    before(training_module, "load_model", happen)


def claimed(happen: Callable[[], None]) -> None:
    """The run's folder is made, and its record not yet written."""
    before(training, "append_run", happen)


def preparing(happen: Callable[[], None]) -> None:
    """The data is being read."""
    before(datamodule.PreparedSplit, "prepare", happen)


def caching(happen: Callable[[], None]) -> None:
    """Prepared data is being written."""
    before(files, "_sync", happen, lambda path: "cache" in str(path) and ".part" in str(path))


def starting(happen: Callable[[], None]) -> None:
    """The fit has begun, and no step is done."""
    before(callbacks.RunRecord, "on_fit_start", happen)


def validating(happen: Callable[[], None]) -> None:
    """A validation runs."""
    before(training_module.QALightningModule, "validation_step", happen)


def training_step(happen: Callable[[], None]) -> None:
    """The second step is being made."""
    before(training_module.QALightningModule, "training_step", happen, lambda self, batch, index: index == 1)


def finishing(happen: Callable[[], None]) -> None:
    """The steps are done, and the best checkpoint is to be validated."""
    before(training, "finish", happen)


def exporting(happen: Callable[[], None]) -> None:
    """The model is half written."""
    before(files, "_sync", happen, lambda path: ".model." in str(path))


def noting(happen: Callable[[], None]) -> None:
    """The model is written, and that is to be noted."""
    before(record, "complete_start", happen, lambda path, values: "finished" in values)


MOMENTS = {function.__name__: function for function in (loading, claimed, preparing, caching, starting, validating)}
MOMENTS |= {function.__name__: function for function in (training_step, finishing, exporting, noting)}


def before(owner: object, name: str, happen: Callable[[], None], when: Callable[..., bool] = lambda *_: True) -> None:
    """Have something happen, once, before a function is called."""
    function = getattr(owner, name)
    done: list[bool] = []

    def wrapped(*given, **options):
        if not done and when(*given):
            done.append(True)
            happen()
        return function(*given, **options)

    setattr(owner, name, wrapped)


def happening(what: str) -> Callable[[], None]:
    def happen() -> None:
        if what == "raise":
            raise RuntimeError("something broke here")
        raised: BaseException | None = None
        for name in what.split(","):
            try:
                os.kill(os.getpid(), getattr(signal, name))
            except BaseException as error:  # and the next signal comes on the way out
                raised = error
        if raised is not None:
            raise raised

    return happen


def tell_ends() -> None:
    """Have the first process say with which status each other one that it ended has ended."""
    end = Launcher.end

    def told(self: Launcher) -> None:
        end(self)
        for number, process in enumerate(self.procs, 1):
            print(f"process {number} ended with status {process.wait()}", flush=True)

    Launcher.end = told


if __name__ == "__main__":
    tell_ends()
    options, flags = sys.argv[1 : sys.argv.index("--")], sys.argv[sys.argv.index("--") + 1 :]
    moment, what, rank = (*options, "0")[:3]
    if moment == "loading":
        Launcher.seconds = 1.0  # if another one is lost then, the first notices nothing by itself, and waits for that
    if os.environ.get("LOCAL_RANK", "0") == rank:
        MOMENTS[moment](happening(what))
    run_command(lambda: call("train", flags))
