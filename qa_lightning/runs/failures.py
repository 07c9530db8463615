"""Turns external failures (out of memory, the compiler, a lost process) into messages with fixes.

It also starts and watches a run's other processes.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.strategies.launchers.subprocess_script import _basic_subprocess_cmd
from lightning.fabric.utilities.distributed import _set_num_threads_if_needed
from lightning.pytorch import Trainer
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

from qa_lightning.errors import InputError, one_line
from qa_lightning.features.defaults import BATCH_SIZE
from qa_lightning.models.computing.memory import is_out_of_memory

STARTED_BY = "QA_LIGHTNING_STARTED_BY"  # in the environment of a process: the id of the one that started it
TRIAL = "QA_LIGHTNING_TRIAL"  # in the environment of a run that is a trial of a search: which one, as JSON
_END = b"."  # on a process's stdin: end


def lost_a_process(error: RuntimeError) -> bool:
    """Whether this is an error that the remaining processes raise when one of them has ended."""
    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error)


def connection_reason(error: RuntimeError) -> str:
    """The message of such an error, without the location in the library's code and the library's advice."""
    return one_line(re.sub(r"\[/\S*\]\s*", "", str(error)).partition(". This is typically")[0])


class Launcher(_SubprocessScriptLauncher):
    """Starts the run's other processes on this machine; knows their exit status and the last line of their stderr.

    Lightning's own launcher kills the first process too, without a message, when another one ends.

    Args:
        like: Lightning's launcher, which this one replaces.
        tell: called with a message about a lost process, if the first process hangs instead of raising an error.
    """

    seconds = 5.0  # for the first process to notice a loss by itself, and for the others to end after SIGTERM
    grace = 1.0  # of these, for a process to end after it was told to, even within a call that handles no signals

    def __init__(self, like: _SubprocessScriptLauncher, tell: Callable[[str], None]) -> None:
        super().__init__(like.cluster_environment, like.num_processes, like.num_nodes)
        self._tell = tell
        self._stderr: list[bytes] = []
        self._readers: list[threading.Thread] = []
        self._over = False

    def launch(self, function: Callable[..., Any], *args: Any, trainer: Trainer | None = None, **kwargs: Any) -> Any:
        """Start the other processes, if this is the first one and they are not running yet; then call ``function``."""
        if not self.cluster_environment.creates_processes_externally:
            self._start()
        _set_num_threads_if_needed(num_processes=self.num_processes)
        return function(*args, **kwargs)

    def lost(self) -> str | None:
        """A message about the first other process that failed; None if none did."""
        for number, process in enumerate(self.procs):
            status = process.poll()
            if status:
                self._readers[number].join(1)  # its last lines may still be in the pipe
                how = f"was killed by {_signal_name(-status)}" if status < 0 else f"ended with status {status}"
                if status == -signal.SIGKILL:
                    how += " (the system does so when memory runs out)"
                words = self._stderr[number].decode(errors="replace").split("\n")
                last = next((line.strip() for line in reversed(words) if line.strip()), "")
                said = f'; its last message: "{last[-300:]}"' if last else ", without a message"
                return f"process {number + 1} of this run (counted from 0) {how}{said}"
        return None

    def wait_for_lost(self) -> str | None:
        """`lost`, but wait for the process to end: its connection breaks some time before."""
        self._over = True  # this process has noticed
        deadline = time.monotonic() + self.seconds
        while not (known := self.lost()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return known

    def end(self) -> None:
        """End the other processes: tell them to stop (`end_with_parent`), and kill those that do not in time."""
        self._over = True
        for process in self.procs:
            assert process.stdin is not None
            with suppress(OSError):  # it has ended
                os.write(process.stdin.fileno(), _END)
        deadline = time.monotonic() + self.seconds
        for process in self.procs:
            try:
                process.wait(max(deadline - time.monotonic(), 0.01))
            except subprocess.TimeoutExpired:
                process.kill()

    def _start(self) -> None:
        self._check_can_spawn_children()
        environment = self.cluster_environment
        os.environ |= {
            "MASTER_ADDR": environment.main_address,
            "MASTER_PORT": str(environment.main_port),
            "NODE_RANK": str(environment.node_rank()),
            "LOCAL_RANK": str(environment.local_rank()),
            "WORLD_SIZE": str(self.num_processes * self.num_nodes),
        }
        for rank in range(1, self.num_processes):
            own = {"LOCAL_RANK": str(rank), STARTED_BY: str(os.getpid())}
            pipe = subprocess.PIPE
            process = subprocess.Popen(_basic_subprocess_cmd(), env=os.environ | own, stdin=pipe, stderr=pipe)
            reader = threading.Thread(target=self._pass_on, args=(process, len(self.procs)), daemon=True)
            self.procs.append(process)
            self._stderr.append(b"")
            self._readers.append(reader)
            reader.start()
        threading.Thread(target=self._watch, daemon=True).start()

    def _pass_on(self, process: subprocess.Popen[bytes], number: int) -> None:
        """Copy the stderr of a process to this one's, and keep the end of it."""
        assert process.stderr is not None
        while part := os.read(process.stderr.fileno(), 1 << 16):
            self._stderr[number] = (self._stderr[number] + part)[-4000:]
            with suppress(ValueError):  # stderr is closed
                print(part.decode(errors="replace"), end="", file=sys.stderr, flush=True)

    def _watch(self) -> None:
        """End this process if another one was lost and this one does not notice, because it waits for an answer."""
        while not (lost := self.lost()):
            if self._over or all(process.returncode == 0 for process in self.procs):
                return
            time.sleep(0.5)
        time.sleep(self.seconds)
        if not self._over:
            for process in self.procs:
                process.kill()
            self._tell(lost)
            os._exit(1)


def end_with_parent() -> None:
    """End this process when the one that started it says so on stdin, or some seconds after that one has ended.

    That is the run's first process, a `Launcher`, or a command that has several runs trained.

    A signal alone would not do: while this process waits for an answer from the others, Python does not handle any.
    """

    def watch() -> None:
        if os.read(0, 1) == _END:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(Launcher.grace)
            os._exit(128 + signal.SIGTERM)
        time.sleep(Launcher.seconds)  # it may say what it knows of the loss
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def out_of_memory_problems(
    error: RuntimeError,
    *,
    step: int,
    batch_size: int,
    windows_per_step: int | None,
    tokens_per_batch: int | None,
    eval_batch_size: int,
    accumulated: int,
    max_length: int,
    precision: str,
) -> list[str]:
    """The lines of the message: what ran out of memory, then each flag that helps, with a value.

    Args:
        error: the error that the device or the allocator raised.
        step: optimizer steps that are done.
        batch_size, eval_batch_size: windows per batch and device, in training (0: memory was to decide, and had not
            yet) and in validation.
        windows_per_step: the flag of that name, which the others would have to go without; None if it is not given.
        tokens_per_batch: tokens per training batch and device, in place of ``batch_size``; None without.
        accumulated: batches per optimizer step.
        max_length: the longest window, in tokens.
        precision: the Trainer's, such as ``bf16-mixed``.
    """
    # At most half a batch, and a divisor of it, so that a step keeps its windows.
    half = max((size for size in range(1, batch_size // 2 + 1) if batch_size % size == 0), default=1)
    size = f"batch_size {batch_size or 'auto'}" if tokens_per_batch is None else f"tokens_per_batch {tokens_per_batch}"
    problems = [
        f"out of memory at step {step} with --data.{size}, --data.max_length {max_length}, "
        f"--data.eval_batch_size {eval_batch_size} ({one_line(error)}). Flags that help:"
    ]
    if tokens_per_batch is not None:
        if tokens_per_batch >= 2 * max_length:
            problems.append(
                f"--data.tokens_per_batch {tokens_per_batch // 2} --trainer.accumulate_grad_batches {2 * accumulated}: "
                "as many tokens per step, in smaller batches"
            )
    elif batch_size > 1:
        instead = f", in place of --data.windows_per_step {windows_per_step}" if windows_per_step else ""
        problems.append(
            f"--data.batch_size {half} --trainer.accumulate_grad_batches {accumulated * batch_size // half}{instead}: "
            "the same number of windows per step, in smaller batches"
        )
    if precision.startswith("32"):
        problems.append("--trainer.precision bf16-mixed: activations take half the memory")
    if max_length > 256:
        problems.append("--data.max_length 256 --data.doc_stride 64: shorter windows")
    usual = batch_size or BATCH_SIZE if tokens_per_batch is None else max(1, tokens_per_batch // max_length)
    if eval_batch_size > usual:
        problems.append(f"--data.eval_batch_size {usual}: if it happened in validation")
    return problems


@contextmanager
def explained_compiler_failure() -> Iterator[None]:
    """Turn a failure of ``torch.compile`` into an `InputError` that names the flag."""
    from torch._dynamo.exc import BackendCompilerFailed  # imported here, so that --help does not wait for it

    try:
        yield
    except BackendCompilerFailed as error:
        reason = one_line(error).partition(" Set TORCHDYNAMO_VERBOSE")[0]
        raise InputError(
            f"--model.compile true: torch.compile does not work here ({reason}); it needs a C++ compiler, and Triton "
            "on a GPU. Install what is missing, or leave the flag out"
        ) from None


@contextmanager
def explained_restore_failure(checkpoint: Path | None) -> Iterator[None]:
    """Turn a failure to restore a checkpoint into an `InputError` that names the file."""
    try:
        yield
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        restoring = any(
            frame.filename.endswith("checkpoint_connector.py") and "restore" in frame.name for frame in frames
        )
        known = isinstance(error, InputError) or is_out_of_memory(error) or "parameter group" in str(error)
        if checkpoint is None or not restoring or known or (isinstance(error, RuntimeError) and lost_a_process(error)):
            raise
        reason = one_line(error)
        raise InputError(
            f"--ckpt_path: {checkpoint} does not fit this run, what it holds could not be restored "
            f"({type(error).__name__}: {reason}); choose another checkpoint, or leave the flag out"
        ) from None
