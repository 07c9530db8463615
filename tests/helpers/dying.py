"""A stand-in for a process that answers, which fails in a chosen way; it imports little, so that it starts fast."""

from __future__ import annotations

import os
import signal
import struct
import time
from multiprocessing.connection import Connection


def serve(connection: Connection, how: str, device: str, threads: int, voice: object) -> None:
    """Answer every message with the device's name, but on ``cuda:1`` fail as ``how`` says.

    Args:
        connection: to the parent process.
        how: in the position of the real function's settings: ``exit 7``, a signal's name, ``torn`` or ``hang`` (on any
            device).
        device: its name.
        threads: unused.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN if how == "hang" else signal.SIG_DFL)
    if device == "cuda:1" and how == "exit 7":
        os._exit(7)
    connection.send(b"")
    while True:
        connection.recv()
        if device == "cuda:1" and how.startswith("SIG"):
            os.kill(os.getpid(), signal.Signals[how])
        if device == "cuda:1" and how == "torn":
            os.write(connection.fileno(), struct.pack("!i", 1 << 20) + b"half of a message")
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "hang":
            time.sleep(1000)
        connection.send(device.encode())
