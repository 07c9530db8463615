"""Processes of a run as threads of this one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from qa_lightning.runs.peers.processes import Peers


def together(everyone: Sequence[Peers], call: Callable[[Peers], Any], seconds: float = 20) -> list[Any]:
    """What the call returns or raises in each process; all must come to an end."""
    found: dict[int, Any] = {}

    def one(peers: Peers) -> None:
        try:
            found[peers.rank] = call(peers)
        except Exception as error:
            found[peers.rank] = error

    threads = [threading.Thread(target=one, args=(peers,), daemon=True) for peers in everyone]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds)
    assert len(found) == len(everyone), "a process waits for ever"
    return [found[peers.rank] for peers in everyone]
