"""How a command that runs a study starts, and how it ends when it is stopped."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from qa_lightning.errors import MOST, InputError
from qa_lightning.paths import folder_problem
from qa_lightning.runs.signals import Stop, Stopped, StopSignals, requeue_job
from qa_lightning.wording import shown
from qa_lightning.workers import MOST_PROCESSES


class OwnFlags(argparse.ArgumentParser):
    """A parser of the flags that ``train`` does not have, which leaves the others alone."""

    def __init__(self) -> None:
        super().__init__(add_help=False, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong as an `InputError`."""
        raise InputError(message.removeprefix("argument "))


def count_problems(own: argparse.Namespace, **least: int) -> list[str]:
    """A line for each number of a study's own flags that is too small or too large.

    Args:
        own: parsed.
        **least: name -> the smallest number that the flag takes.
    """
    problems = []
    for name, smallest in least.items():
        value = getattr(own, name)
        most = MOST_PROCESSES if name == "parallel" else MOST
        if value < smallest:
            problems.append(f"--{name} is {shown(value)}; it must be at least {smallest}")
        elif value > most:
            problems.append(f"--{name} is {shown(value)}; it must be at most {most}")
    return problems


def run_study(folder: Path, run: Callable[[], None]) -> int:
    """Run a study, which signals stop at a safe point; returns the exit status.

    Args:
        folder: the study's.
        run: does it; signals count from before its imports on.

    Raises:
        InputError: nothing can be written into the folder.
    """
    if problem := folder_problem(folder):
        raise InputError(f"--study {folder} {problem}; name another folder")
    signals = StopSignals()
    signals.listen()
    try:
        run()
    except Stopped as error:
        if error.stop is Stop.REQUEUE:
            requeue_job()
        kept = f"what is finished stays in {folder}, and the same command goes on with the rest"
        print(f"\nstopped by {error.stop.cause}: {kept}", flush=True)
        return error.stop.status
    finally:
        signals.restore()
    return 0
