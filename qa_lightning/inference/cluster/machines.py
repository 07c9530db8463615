"""The machines of a Ray cluster: how to reach them without Ray's noise, and what they have.

Ray is imported here alone, when it is needed.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from qa_lightning.errors import InputError, import_extra, one_line
from qa_lightning.wording import counted

READER_CPUS = 0.25  # CPUs of a task that reads; another number than an actor's, or Ray would run both in one process
_LEAST = 0.0001  # CPUs; Ray counts no smaller parts
_PATIENCE = 10.0  # seconds
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent anywhere
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # Ray's own remarks on its state
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # a warning about an older default
}


@dataclass(frozen=True)
class ClusterSettings:
    """Where and by how many processes questions are answered.

    Attributes:
        address: of the Ray cluster; None takes the one that ``RAY_ADDRESS`` names or that runs on this machine, and
            starts one here if there is none.
        devices: actors that hold the model, each with a GPU, or with CPUs where the cluster has no GPU; None means as
            many as there are GPUs, or machines.
    """

    address: str | None = None
    devices: int | None = None


@contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """Ray, connected to a cluster, and quiet; what was not connected before is disconnected at the end.

    Raises:
        InputError: Ray is not installed, or no cluster answers at the address.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    ray = import_extra("ray", "--engine ray", "ray")
    import_extra("ray.data", "--engine ray", "ray")
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    if ray.is_initialized():
        yield ray
        return
    try:
        _call(address)
        with _silent():
            ray.init(address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except (RuntimeError, ValueError, OSError) as error:
        where = f"--ray_address {address}" if address else "--engine ray"
        raise InputError(f"{where}: cannot connect to a Ray cluster ({one_line(error)})") from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _call(address: str | None) -> None:
    """Raise an OSError if nobody answers at ``HOST:PORT``, which Ray would notice after minutes; others are for Ray."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), _PATIENCE).close()


@contextmanager
def _silent() -> Iterator[None]:
    """Drop what Ray's own code writes to standard error while it starts: that its log level was set, for example."""
    sys.stderr.flush()
    before, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(nowhere)


def device_of(ray: Any) -> str:
    """What computes on a cluster, for the record."""
    kinds = sorted(name.partition(":")[2] for name in ray.cluster_resources() if name.startswith("accelerator_type:"))
    return ", ".join(kinds) or ("GPU" if ray.cluster_resources().get("GPU") else "CPU")


@dataclass(frozen=True)
class Share:
    """What the actors use of a cluster.

    Attributes:
        actors: how many there are.
        gpus, cpus: of each, as Ray counts them.
        threads: of each. It may be more than ``cpus``, which leave something for the tasks that read.
        at_once: pieces that an actor answers at the same time.
    """

    actors: int
    gpus: int
    cpus: float
    threads: int
    at_once: int

    @classmethod
    def of(cls, ray: Any, actors: int | None) -> Share:
        """The part of a cluster that so many actors use, and leave `READER_CPUS` of each machine.

        Raises:
            InputError: the cluster has GPUs, but fewer than actors; or it has no machine with a CPU.
        """
        alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        nodes = [node for node in alive if node.get("CPU", 0) > READER_CPUS]
        if not nodes:
            raise InputError("--engine ray: the cluster has no machine with a CPU for tasks; start one that has, first")
        gpus = int(sum(node.get("GPU", 0) for node in nodes))
        actors = actors or gpus or len(nodes)
        if gpus and actors > gpus:
            raise InputError(f"--devices {actors}: the Ray cluster has {counted(gpus, 'GPU')}; pass {gpus} or less")
        together = -(-actors // len(nodes))  # on one machine
        share = min(node["CPU"] for node in nodes) / together
        threads = max(1, int(share))
        if gpus:
            free = min(_besides_reading(node["CPU"], min(node["GPU"], actors)) for node in nodes if node.get("GPU"))
            return cls(actors, 1, min(1, free), threads, 2)
        free = _besides_reading(min(node["CPU"] for node in nodes), together)
        return cls(actors, 0, threads - 1 if share >= 2 else min(0.5, free), threads, 1)

    def __str__(self) -> str:
        what = "a GPU" if self.gpus else counted(self.threads, "thread")
        return f"{counted(self.actors, 'Ray actor')} with {what} each"


def _besides_reading(cpus: float, actors: float) -> float:
    """What each actor on a machine can have at most of its CPUs, if a task that reads gets its own."""
    parts = int((cpus - READER_CPUS) / actors / _LEAST)
    return (parts - (parts * _LEAST == READER_CPUS)) * _LEAST


@contextmanager
def one_row_a_block(ray: Any) -> Iterator[None]:
    """Inside this context Ray Data sends each row by itself, as soon as it is there, and says nothing."""
    context = ray.data.DataContext.get_current()
    own = {"target_max_block_size": 1, "enable_progress_bars": False, "print_on_execution_start": False}
    before = {name: getattr(context, name) for name in own}
    try:
        for name, value in own.items():
            setattr(context, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(context, name, value)
