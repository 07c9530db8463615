"""The start and end of every command: exit status, error messages, the Hub without a network, quiet libraries."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import re
import socket
import sys
import warnings
from collections.abc import Callable
from typing import Any, TextIO

from qa_lightning.wording import visible


def run_command(command: Callable[[], int]) -> None:
    """Run a command and exit with its status; bad input prints its message on stderr, without a traceback.

    It goes on if nobody reads its output any more: see `outlive_readers`.

    Status 1 means that another process was lost, 2 bad input, 3 a loss or logits that are not finite, 130 Ctrl-C.
    """
    outlive_readers()
    from qa_lightning.errors import DivergedError, InputError, LostProcessError

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # letters that a terminal's encoding does not have
    try:
        status = command()
    except InputError as error:
        print(f"error: {visible(str(error), lines=True)}", file=sys.stderr)
        status = 2
    except DivergedError as error:
        fix = "lower --model.learning_rate or raise --model.warmup_ratio"
        print(f"error: {visible(str(error), lines=True)}; {fix}", file=sys.stderr)
        status = 3
    except LostProcessError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        status = 130
    sys.exit(status)


def print_json(values: Any, indent: int | None = None) -> None:
    """Print JSON: letters as they are, unless the stream has not all of them; what cannot be seen is escaped."""
    text = json.dumps(values, ensure_ascii=False, indent=indent)
    try:
        text.encode(sys.stdout.encoding or "utf-8")  # not as `run_command` sets it: its escapes are not those of JSON
    except UnicodeEncodeError:
        text = json.dumps(values, indent=indent)
    print("".join(one if one.isprintable() or one == "\n" else json.dumps(one)[1:-1] for one in text))


def outlive_readers() -> None:
    """Drop what is printed to a stream that nobody reads any more, so that the command goes on.

    That is a pipe whose reader has ended (``train | head -1``), a terminal that is gone, and a stream that was closed
    from the start. A stream that somebody has replaced, as notebooks do, is left alone.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:  # a file that is opened later must not get its number, or what libraries print lands there
            _drop(number)
    for name in ("stdout", "stderr"):
        stream: TextIO | None = getattr(sys, name)
        if stream is not getattr(sys, f"__{name}__"):
            continue
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123 - for as long as we run
        elif isinstance(stream, io.TextIOWrapper) and not isinstance(getattr(stream.buffer, "raw", None), _Output):
            setattr(sys, name, _outliving(stream))


def _outliving(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    """A stream like this one, to the same place, that outlives its readers."""
    raw: Any = _Output(stream.fileno(), "w", closefd=False)
    return io.TextIOWrapper(
        raw if stream.write_through else io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


class _Output(io.FileIO):
    """Drops what cannot be written; all that comes after it too, if there is nobody who could read it."""

    def write(self, data: Any, /) -> int:
        """Write, or drop; returns the number of bytes."""
        try:
            return super().write(data)
        except OSError as error:
            if error.errno in (errno.EPIPE, errno.EIO, errno.EBADF, errno.ENXIO, errno.ECONNRESET):
                _drop(self.fileno())  # what libraries and child processes write, too
            return memoryview(data).nbytes


def _drop(number: int) -> None:
    """Let a file handle lead nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    if nowhere != number:
        os.dup2(nowhere, number)
        os.close(nowhere)


def use_cache_without_network() -> None:
    """Use the Hub's cache at once if the Hub's host name cannot be resolved, not after half a minute of retries.

    Call it first: the Hub's client reads ``HF_HUB_OFFLINE`` when it is imported.
    """
    from urllib.parse import urlparse
    from urllib.request import getproxies

    if "HF_HUB_OFFLINE" in os.environ or getproxies():
        return
    try:
        socket.getaddrinfo(urlparse(os.environ.get("HF_ENDPOINT", "https://huggingface.co")).hostname, 443)
    except (OSError, UnicodeError):  # the latter for a name that can be none
        os.environ["HF_HUB_OFFLINE"] = "1"


def quiet_libraries() -> None:
    """Print this project's log lines, and of the libraries' only those that a person can act on.

    Call it after Lightning is imported, which sets its own log levels.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated.*")
    warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")  # SquadDataModule resumes itself
    warnings.filterwarnings("ignore", message=".*accumulate the metric across devices.*")  # all log the same value
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty.*")
    warnings.filterwarnings("ignore", message="Experiment logs directory .* exists and is not empty")  # by the record
    # The end of the run says that there is no best checkpoint, and why.
    warnings.filterwarnings("ignore", message=r"`ModelCheckpoint\(monitor='val/\w*f1'\)` could not find the monitored")
    warnings.filterwarnings("ignore", message="You requested to overfit but enabled")  # which goes together here
    warnings.filterwarnings("ignore", message="The dirpath has changed.*")  # a finished run resumes in a new folder
    from qa_lightning.progress import PrintHandler, print_from  # tqdm is not for --help

    logger = logging.getLogger("qa_lightning")
    if not logger.handlers:
        print_from(logger, PrintHandler())
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        handler = PrintHandler()
        handler.addFilter(_is_news)  # by message: a level would mute reports that were asked for, too
        print_from(logging.getLogger(name), handler)


# What Lightning logs in every run, or this package says better, by the beginnings of its messages.
_NO_NEWS = (
    "GPU available: ",
    "TPU available: ",
    "HPU available: ",
    "💡 Tip: ",
    "Seed set to ",
    "LOCAL_RANK: ",
    "Using ",  # 16bit Automatic Mixed Precision (AMP)
    "`Trainer.fit` stopped: ",
    "`Trainer(",  # what a flag was configured to, repeated
    "Time limit reached.",
    "Loading `train_dataloader` to estimate",
    "Restoring states from the checkpoint",
    "Restored all states from the checkpoint",
    "Loaded model weights from the checkpoint",
    "`weights_only` was not set",
    "Initializing distributed: ",
    "-" * 100,
    "distributed_backend=",
    "SLURM auto-requeueing enabled.",
    "Detected KeyboardInterrupt",
    "Received SIGTERM",
    "Bypassing SIGTERM",
)


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a library's message says something that a person asked for, or can act on."""
    message = re.sub(r"^\[rank: \d+\] ", "", record.getMessage().lstrip())  # before lines of one process of several
    return record.levelno >= logging.WARNING or not message.startswith(_NO_NEWS)
