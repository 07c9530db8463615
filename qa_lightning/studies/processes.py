"""Runs ``train`` in processes, some at a time, and prints their lines with the name of each before them."""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from subprocess import PIPE, STDOUT, Popen
from typing import Any

from qa_lightning.errors import InputError
from qa_lightning.runs.failures import STARTED_BY
from qa_lightning.wording import CHECKOUT
from qa_lightning.workers import usable_cores

_COMMAND = ("-m", "qa_lightning", "train")
_THREADS = "OMP_NUM_THREADS"


@dataclass(frozen=True)
class TrainJob:
    """A training run in a process of its own.

    Args:
        name: stands before its lines.
        words: the flags of ``train``.
    """

    name: str
    words: Sequence[str]


class StartedJob:
    """A job that runs; a thread prints what it prints, until it ends.

    Args:
        job: to start.
        slot: the number of its slot.
        environment: what is added to this process's.
        ended: where it puts itself when it has ended.

    Attributes:
        error: the last line of it that begins with ``error:``, without that; empty if there is none.
    """

    def __init__(
        self, job: TrainJob, slot: int, environment: Mapping[str, str], ended: SimpleQueue[StartedJob]
    ) -> None:
        self.job, self.slot, self.error = job, slot, ""
        self._process = Popen(
            [sys.executable, *_COMMAND, *job.words],
            env={**os.environ, **_own_python(), **environment, STARTED_BY: str(os.getpid())},
            stdin=PIPE,  # closes when this process ends, whatever ends it: see `end_with_parent`
            stdout=PIPE,
            stderr=STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # Ctrl-C reaches this process alone, which tells the others
        )
        self._reader = threading.Thread(target=self._read, args=(ended,), daemon=True)
        self._reader.start()

    def _read(self, ended: SimpleQueue[StartedJob]) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            print(f"{self.job.name} | {line.rstrip()}", flush=True)
            if line.startswith("error: "):
                self.error = line.removeprefix("error: ").strip()
        self._process.wait()
        ended.put(self)

    def stop(self) -> None:
        """Ask it to save and to end."""
        with suppress(ProcessLookupError):
            self._process.terminate()

    def wait(self) -> int:
        """Its exit status, when it has ended; negative for the signal that killed it."""
        status = self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        return status


def run_jobs(
    jobs: Sequence[TrainJob], slots: Sequence[Mapping[str, str]], is_done: Callable[[str], bool] | None = None
) -> dict[str, int]:
    """Run jobs, as many at a time as there are slots; after one has failed, no other is started.

    A signal to this process stops those that run, which save what they have first.

    Args:
        jobs: in this order.
        slots: what is added to the environment of a job that runs in it.
        is_done: whether the job of a name, which ended, left all that it was to; it has failed if not, whatever its
            status. None goes by the status.

    Returns:
        Name -> exit status of each job that was started; negative for the signal that killed it.
    """
    waiting, free = deque(jobs), list(range(len(slots)))[::-1]
    running: set[StartedJob] = set()
    ended: SimpleQueue[StartedJob] = SimpleQueue()
    statuses: dict[str, int] = {}
    failed = False
    try:
        while running or (waiting and not failed):
            while waiting and free and not failed:
                slot = free.pop()
                running.add(StartedJob(waiting.popleft(), slot, slots[slot], ended))
            with suppress(Empty):
                one = ended.get(timeout=0.5)  # so that signals are handled meanwhile
                running.remove(one)
                free.append(one.slot)
                statuses[one.job.name] = status = one.wait()
                failed |= status != 0 if is_done is None else not is_done(one.job.name)
    finally:
        for one in running:
            one.stop()
        for one in running:
            one.wait()
    return statuses


def slots_for(parallel: int, trainer: Mapping[str, Any]) -> list[dict[str, str]]:
    """The environments of so many runs at a time: GPUs of their own each, as far as there are any; threads on a CPU.

    Args:
        parallel: number of runs.
        trainer: the flags of the Trainer.

    Raises:
        InputError: the runs cannot be told which devices are theirs.
    """
    if parallel == 1:
        return [{}]
    devices = str(trainer["devices"])
    if not devices.isdigit() or devices == "0":
        raise InputError(
            f"--parallel {parallel} gives each run devices of its own, and --trainer.devices {trainer['devices']} "
            "names some, or all; pass their number for one run, such as 1"
        )
    gpus = [] if trainer["accelerator"] == "cpu" else _gpus()
    each = int(devices)
    if not gpus:
        threads = os.environ.get(_THREADS, str(max(1, usable_cores() // (parallel * each))))
        return [{_THREADS: threads} for _ in range(parallel)]
    groups = [gpus[first : first + each] for first in range(0, len(gpus) - each + 1, each)]
    if not groups:
        raise InputError(f"--trainer.devices {each}: there are {len(gpus)} GPUs here")
    return [{"CUDA_VISIBLE_DEVICES": ",".join(groups[slot % len(groups)])} for slot in range(parallel)]


def _gpus() -> list[str]:
    """The names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES lists them."""
    import torch

    count = torch.cuda.device_count()
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return given.split(",")[:count] if given else list(map(str, range(count)))


def _own_python() -> dict[str, str]:
    """What lets another process import what this one can: this package, from a checkout too, before all else.

    Modules in the current folder, such as that of a callback, are found where this process finds them (``python -m``).
    """
    here, given = str(Path.cwd()), os.environ.get("PYTHONPATH", "")
    folders = [str(CHECKOUT)] if (CHECKOUT / "pyproject.toml").is_file() else []
    folders += [here] if {"", here} & set(sys.path) else []
    path = {"PYTHONPATH": os.pathsep.join([*folders, *filter(None, [given])])} if folders else {}
    return {"PYTHONUNBUFFERED": "1", "PYTHONSAFEPATH": "1", **path}
