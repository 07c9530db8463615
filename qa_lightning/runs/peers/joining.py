"""`join`: the processes of a run find each other, by what torchrun or SLURM tells them."""

from __future__ import annotations

import json
import os
import secrets
import time
from typing import Any

from qa_lightning.errors import LostProcessError, one_line
from qa_lightning.runs.peers.connection import KEY, Launch, launched_by, open_store, own_address
from qa_lightning.runs.peers.processes import JOIN_SECONDS, Peers

_FIRST = f"{KEY}first"  # where the first process is
_AGENT_STORE = "TORCHELASTIC_USE_AGENT_STORE"  # in the environment: torchrun's agent has a store, for all its restarts


def join() -> Peers | None:
    """Meet the other processes; None for one that is alone, or starts the others itself.

    Raises:
        LostProcessError: the first process does not come.
    """
    environment = launched_by()
    if environment is None or environment.world_size() < 2:
        return None
    peers = Peers(environment.global_rank(), environment.world_size(), environment.local_rank())
    address, port = environment.main_address, environment.main_port
    has_agent = os.environ.get(_AGENT_STORE) == str(True)
    try:
        store = peers.store = open_store(address, port, peers.rank == 0 and not has_agent, JOIN_SECONDS)
        if has_agent:
            peers.launch = Launch(store)
        if peers.rank == 0:
            token, own = secrets.token_hex(16), own_address(address, port)
            if has_agent:
                peers.store = open_store(own or address, 0, True, JOIN_SECONDS)
            store.set(_FIRST, json.dumps([own or "", peers.serve(token), token, peers.store.port]))
        own, port = _find_first(peers, store, address)
    except RuntimeError as error:  # the store's own
        reason = one_line(error)
        raise LostProcessError(f"the first process of this run, at {address}, is not there ({reason})") from None
    if has_agent:  # its store holds what was written before a restart, and torch would connect to what is gone
        os.environ |= {"MASTER_ADDR": own, "MASTER_PORT": str(port), _AGENT_STORE: str(False)}
    return peers


def _find_first(peers: Peers, store: Any, address: str) -> tuple[str, int]:
    """Connect to the first process; returns its address, and the port of its own store.

    What the agent's store says of it may be of a start before this one: then nobody is there, or knows the token.
    """
    deadline = time.monotonic() + JOIN_SECONDS
    while True:
        own, port, token, store_port = json.loads(store.get(_FIRST))
        try:
            if peers.rank:
                peers.connect(own or address, port, token)
            return own or address, store_port
        except OSError as error:
            if time.monotonic() > deadline:
                raise LostProcessError(
                    f"the first process of this run, at {own or address}:{port}, cannot be reached from "
                    f"{peers.hosts[peers.rank]} ({one_line(error)}); hosts must be able to connect to each other"
                ) from None
        time.sleep(0.5)
