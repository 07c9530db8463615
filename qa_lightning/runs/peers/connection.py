"""Connects the processes of a run: what launched them, a store by which they find each other, messages over sockets.

While a connection is silent, the system's own probes ask whether the other host is there. If there is no answer for
`SILENCE` seconds, reading fails. These probes need no Python, so that a process which computes long, or is stopped
(SIGSTOP), is not taken for dead.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from ipaddress import ip_address
from typing import Any

import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

KEY = "qa_lightning/"  # begins the keys in stores
SILENCE = 30  # seconds without an answer, after which a host is given up
_RUN = f"{KEY}run"
_PROBES = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4, "TCP_USER_TIMEOUT": SILENCE * 1000}
_SILENT = (errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN)  # of a host that is gone


def is_silent(error: OSError) -> bool:
    """Whether reading failed because the other host, or the network to it, is gone."""
    return error.errno in _SILENT


class Connection:
    """JSON messages over a socket, a line each, and blocks of bytes; whose other end is probed while it is silent.

    Args:
        connected: the socket.
        of_blocks: whether blocks are sent. Their receiver may leave them unread for long, and is not given up then:
            whether its host is there is asked by another connection.
    """

    def __init__(self, connected: socket.socket, of_blocks: bool = False) -> None:
        self._socket = connected
        connected.settimeout(SILENCE)  # until it is known who that is
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # a message does not wait for the next one
        for name, value in _PROBES.items():
            if hasattr(socket, name) and not (of_blocks and name == "TCP_USER_TIMEOUT"):  # names the system knows
                connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self._lines = connected.makefile("rb")
        self._sending = threading.Lock()

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message, from any thread."""
        with self._sending:
            self._socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self, limit: int = -1) -> dict[str, Any] | None:
        """The next message of at most so many bytes; None when there are no more."""
        line = self._lines.readline(limit)
        if not line.endswith(b"\n"):
            return None
        self._socket.settimeout(None)
        return dict(json.loads(line))

    def send_block(self, block: bytes) -> None:
        """Send bytes, of any number."""
        with self._sending:
            self._socket.sendall(len(block).to_bytes(8, "big"))
            self._socket.sendall(block)

    def receive_block(self) -> bytes | None:
        """The bytes that the other end sent at a time; None when there are no more."""
        length = self._lines.read(8)
        if len(length) < 8:
            return None
        block = self._lines.read(int.from_bytes(length, "big"))
        return block if len(block) == int.from_bytes(length, "big") else None

    def end(self) -> None:
        """Say no more; the other end can still read what was said."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Let go of the socket; what waits to read from it in another thread gets nothing more."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._lines.close()
        self._socket.close()


class Launch:
    """One start of a run by torchrun, with all its restarts; what is noted of it outlives the processes.

    Args:
        store: of torchrun's agent on the first host.

    Attributes:
        name: the same for all processes, and after each restart.
        run_before: folder and host of the run that was trained before the last restart; None without one.
    """

    def __init__(self, store: Any) -> None:
        self._store = store
        self.name: str = store.compare_set(f"{KEY}launch", "", secrets.token_hex(8)).decode()
        self.run_before: str | None = store.get(_RUN).decode() if store.check([_RUN]) else None

    def note_run(self, run: str | None) -> None:
        """Note folder and host of the run that is trained now; None if none is, after all."""
        if run is None:
            self._store.delete_key(_RUN)
        else:
            self._store.set(_RUN, run)


def launched_by() -> ClusterEnvironment | None:
    """What started this process and the others; None without torchrun and SLURM's ``srun``."""
    if TorchElasticEnvironment.detect():
        return TorchElasticEnvironment()
    if "SLURM_STEP_NUM_TASKS" in os.environ and SLURMEnvironment.detect():  # a batch script alone is one process
        return SLURMEnvironment()
    return None


def open_store(address: str, port: int, serves: bool, seconds: float) -> Any:
    """A store at an address; it is here, if this process serves it."""
    return torch.distributed.TCPStore(  # type: ignore[attr-defined]
        address,
        port,
        is_master=serves,
        timeout=timedelta(seconds=seconds),
        multi_tenant=True,  # the process group takes the same one later
        wait_for_workers=False,
    )


def listening() -> socket.socket:
    """A socket that others can connect to, at a free port of any address of this host."""
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
    return socket.create_server(("", 0), backlog=1024)


def is_token(given: Any, token: str) -> bool:
    """Whether the other end knows what only processes of this run do."""
    return secrets.compare_digest(str(given).encode(), token.encode())


def own_address(address: str, port: int) -> str | None:
    """The address of this host, as it sees the one that is given; None if that is this host by another name."""
    with socket.create_connection((address, port), timeout=SILENCE) as connected:
        own = str(connected.getsockname()[0])
    return None if ip_address(own.partition("%")[0]).is_loopback else own
