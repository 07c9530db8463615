"""Commands as processes of their own, with small trainings as their material."""

from __future__ import annotations

import io
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import IO

from tests.helpers.paths import ROOT
from tests.helpers.training import train_flags

NUMBER = struct.Struct("i")  # a process id, then an exit status, as `warm` reports them
TRAIN = ROOT / "scripts" / "train.py"
AT_A_MOMENT = ROOT / "tests" / "helpers" / "at_a_moment.py"


def environment() -> dict[str, str]:
    """One thread a process, no network, this checkout's code."""
    return os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(ROOT)}


@cache
def _warm(owner: int) -> socket.socket:
    """Start a warm process (see `warm`), once for the process ``owner``; returns the socket that takes requests."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.helpers.warm", str(theirs.fileno())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=[theirs.fileno()],
        cwd=ROOT,
        env=environment(),
        start_new_session=True,
    )
    process.returncode = 0  # nobody waits for it: it ends when our end of the socket is closed
    theirs.close()
    return ours


class Started:
    """A process of its own that runs a Python script, forked from a warm one; like `subprocess.Popen`.

    Args:
        words: the script, or ``-m`` and a module, and its arguments.
        stdin: a handle; nothing is read by default.
        stdout, stderr: None, to inherit, a handle, or `subprocess.PIPE`; stderr also `subprocess.STDOUT`.
        env, cwd, start_new_session: as for Popen. In a new session, a stdin that is a terminal controls it.
        spare: whether the second process of a run on two devices is forked, too. If not, `Launcher` starts one.
    """

    def __init__(
        self,
        words: Sequence[object],
        stdin: int | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
        start_new_session: bool = False,
        spare: bool = True,
    ) -> None:
        request = {
            "words": [str(word) for word in words],
            "environment": environment() if env is None else env,
            "folder": str(cwd or Path.cwd()),
            "new_session": start_new_session,
            "spare": spare and "--trainer.devices 2" in " ".join(map(str, words)),
        }
        with open(os.devnull, "rb") as nothing:  # noqa: PTH123 - a handle
            self.stdout, out = _stream(stdout, 1)
            self.stderr, err = (None, os.dup(out)) if stderr == subprocess.STDOUT else _stream(stderr, 2)
            self._report, report = socket.socketpair()
            handles = [nothing.fileno() if stdin is None else stdin, out, err, report.fileno()]
            socket.send_fds(_warm(os.getpid()), [json.dumps(request).encode()], handles)
        report.close()
        os.close(out)
        os.close(err)
        self.returncode: int | None = None
        (self.pid,) = NUMBER.unpack(self._report.recv(NUMBER.size, socket.MSG_WAITALL))

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the process to end; returns its exit status."""
        if self.returncode is None:
            if not select.select([self._report], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("a warm process", timeout or 0)
            (self.returncode,) = NUMBER.unpack(self._report.recv(NUMBER.size, socket.MSG_WAITALL))
            self._report.close()
        return self.returncode

    def poll(self) -> int | None:
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def communicate(self, timeout: float | None = None) -> tuple[str | None, str | None]:
        """Read both streams until nobody can write to them, then wait."""
        end = None if timeout is None else time.monotonic() + timeout
        texts: dict[IO[str], str] = {}
        readers = [
            threading.Thread(target=lambda file=file: texts.update({file: file.read()}), daemon=True)
            for file in (self.stdout, self.stderr)
            if file is not None
        ]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(None if end is None else max(end - time.monotonic(), 0.01))
            if reader.is_alive():
                raise subprocess.TimeoutExpired("a warm process", timeout or 0)
        for file in texts:
            file.close()
        self.wait(None if end is None else max(end - time.monotonic(), 0.01))
        return texts.get(self.stdout), texts.get(self.stderr)  # type: ignore[arg-type]

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def __del__(self) -> None:
        if hasattr(self, "_report"):
            self._report.close()

    def __enter__(self) -> Started:
        return self

    def __exit__(self, *_: object) -> None:
        for file in (self.stdout, self.stderr):
            if file is not None:
                file.close()
        self.wait()


class Forked(Started):
    """In place of the `Popen` with which commands start ``train``."""

    def __init__(self, words, stdin, text, encoding, errors, **options) -> None:
        super().__init__(words[1:], **options)
        self.stdin = io.BytesIO()

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


def _stream(wanted: int | None, number: int) -> tuple[IO[str] | None, int]:
    """The end of a stream that is read here, if any, and the handle that the process writes to."""
    if wanted != subprocess.PIPE:
        return None, os.dup(number if wanted is None else wanted)
    read, write = os.pipe()
    return open(read, encoding="utf-8", errors="replace"), write  # noqa: PTH123 - a handle


def finished(words: Sequence[object], timeout: float = 200, **options) -> subprocess.CompletedProcess[str]:
    """Run a Python script to its end in a process of its own."""
    process = Started(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
    try:
        out, err = process.communicate(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return subprocess.CompletedProcess(words, process.wait(), out, err)


def short_run(root: Path, model: str, data: str, *more: str) -> list[str]:
    """The flags of a run of two epochs of five steps, with a validation after each."""
    return [*train_flags(root, model, data, data), "--trainer.max_epochs", "2", *more]
