"""A process that has imported the libraries, and forks into those that `processes.Started` asks for.

python -m tests.helpers.warm HANDLE

A new Python spends some six seconds on imports before it trains; a fork of this one spends none. All else is as in a
new one, but that figures are empty pictures: a script runs as ``__main__`` with the words, environment, folder and
streams that it is given, and ends as Python ends. HANDLE is the socket on which requests come; when it is closed, this
process ends.

A run on two devices starts its second process itself. It then gets one that was forked before its script began, and is
as new as its own was.
"""

from __future__ import annotations

import fcntl
import gc
import json
import os
import runpy
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path
from types import SimpleNamespace

# What scripts need, also what they import late.
import datasets.arrow_dataset  # noqa: F401
import pandas  # noqa: F401
import torch.utils.tensorboard  # noqa: F401

from qa_lightning.checks.languages import language_of_each
from qa_lightning.evaluation import model  # noqa: F401
from qa_lightning.metrics import plots
from qa_lightning.pages.report import ErrorReport  # noqa: F401
from qa_lightning.runs import failures
from qa_lightning.training import flags, run  # noqa: F401
from tests.helpers import families, training  # noqa: F401
from tests.helpers.pictures import empty_pictures

NUMBER = struct.Struct("i")  # a process id, then an exit status


def requested(control: socket.socket) -> dict | None:
    """Fork for each request and return it there; return None here, once no more can come."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that report
    while True:
        words, handles, _, _ = socket.recv_fds(control, 1 << 20, 4)
        if not words:
            return None
        if os.fork() == 0:
            control.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            return reported(json.loads(words), handles)
        for handle in handles:
            os.close(handle)


def reported(request: dict, handles: list[int]) -> dict:
    """Fork once more and return there; this process reports the other one's id, and how it ends."""
    *streams, report = handles
    process = os.fork()
    if process:
        for stream in streams:
            os.close(stream)
        os.write(report, NUMBER.pack(process))
        _, status = os.waitpid(process, 0)
        os.write(report, NUMBER.pack(os.waitstatus_to_exitcode(status)))
        os._exit(0)
    os.close(report)
    if request["new_session"]:
        os.setsid()
        if os.isatty(streams[0]):
            fcntl.ioctl(streams[0], termios.TIOCSCTTY, 0)
    return become(request, streams)


def become(request: dict, streams: list[int]) -> dict:
    """Take the streams, the folder and the environment of a request."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    tempfile.tempdir = None  # which was chosen by the former environment
    if os.isatty(1):
        sys.stdout.reconfigure(line_buffering=True)
    return request


class Spare:
    """A process that waits to become a run's second one; like the `subprocess.Popen` that `Launcher` makes."""

    def __init__(self, process: int, control: socket.socket) -> None:
        self.pid = process
        self.returncode: int | None = None
        self._control = control

    def begin(self, command: list[str], env: dict[str, str], stdin: int, stderr: int) -> Spare:
        """Have it run a script, as if it were started with this command."""
        assert stdin == stderr == subprocess.PIPE
        (its_stdin, stdin), (stderr, its_stderr) = os.pipe(), os.pipe()
        request = {"words": command[1:], "environment": dict(env), "folder": str(Path.cwd())}
        socket.send_fds(self._control, [json.dumps(request).encode()], [its_stdin, 1, its_stderr])
        os.close(its_stdin)
        os.close(its_stderr)
        self.stdin, self.stderr = open(stdin, "wb", 0), open(stderr, "rb", 0)  # noqa: SIM115, PTH123 - handles
        return self

    def poll(self) -> int | None:
        if self.returncode is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if ended else None
        return self.returncode

    def wait(self, timeout: float = 1e9) -> int:
        end = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired("a spare process", timeout)
            time.sleep(0.01)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def with_spare(request: dict) -> dict | None:
    """Fork a spare process, give it to `Launcher` and return; there, wait until it is to begin."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = os.fork()
    if process:
        theirs.close()
        spare = Spare(process, ours)
        failures.subprocess = SimpleNamespace(**vars(subprocess) | {"Popen": spare.begin})
        return request
    ours.close()
    words, handles, _, _ = socket.recv_fds(theirs, 1 << 20, 3)
    theirs.close()
    return become(json.loads(words), handles) if words else None


def main() -> None:
    plots.draw = empty_pictures
    language_of_each(["A text, as the model of languages takes a second to load."])
    gc.collect()
    gc.freeze()  # or each process would look through all that is loaded when it ends, and copy it: over a second
    request = requested(socket.socket(fileno=int(sys.argv[1])))
    if request is not None and request.get("spare"):
        request = with_spare(request)
    if request is None:
        return
    sys.argv = request["words"]
    if sys.argv[0] == "-m":
        del sys.argv[0]
        sys.path[0] = str(Path.cwd())
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = str(Path(sys.argv[0]).parent)
        runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
