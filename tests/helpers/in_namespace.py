"""A command on one of two hosts, as torchrun starts it there; see `namespaces.Host.forked`.

python tests/helpers/in_namespace.py NAMESPACE HOST -- FLAGS

Only for a process with one thread: a network namespace is a thread's own, and of the threads that it starts.
"""

from __future__ import annotations

import ctypes
import socket
import sys

from qa_lightning.cli.console import run_command
from qa_lightning.cli.main import call

NEW_UTS, NEW_NET = 0x04000000, 0x40000000  # CLONE_NEWUTS and CLONE_NEWNET, of sched.h


def become(namespace: str, host: str) -> None:
    """Enter the network namespace, and take the host's name."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/run/netns/{namespace}") as file:  # noqa: PTH123 - a handle
        if libc.setns(file.fileno(), NEW_NET) or libc.unshare(NEW_UTS):
            raise OSError(ctypes.get_errno(), f"cannot become {host}")
    socket.sethostname(host)


if __name__ == "__main__":
    become(*sys.argv[1:3])
    run_command(lambda: call("train", sys.argv[4:]))
