"""What a process that answers may do instead; light, for that process imports it."""

from __future__ import annotations

import os
import signal
import struct
import time
from multiprocessing.connection import Connection


def serve(connection: Connection, how: str, device: str, threads: int) -> None:
    """Be ready, then answer with one's device; on ``cuda:1`` end as ``how`` says (which stands where settings do)."""
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
