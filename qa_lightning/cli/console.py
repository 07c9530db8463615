"""The command line: how every command starts and ends, and ``train``; the rest are in `commands`."""

from __future__ import annotations

import argparse
import logging
import os
import socket
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlparse
from urllib.request import getproxies


def run_command(command: Callable[[], int]) -> None:
    """Run a command and exit; bad input gives its message on stderr and status 2, never a traceback."""
    from qa_lightning.errors import DivergedError, InputError

    _forget_script_folder()
    _use_cache_without_network()
    try:
        status = command()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    except DivergedError as error:
        print(f"error: {error}; lower --model.learning_rate or raise --model.warmup_ratio", file=sys.stderr)
        status = 3
    except KeyboardInterrupt:
        status = 130
    sys.exit(status)


def _forget_script_folder() -> None:
    """Take the script's own folder off the import path: its evaluate.py would hide the library of that name."""
    folder = Path(sys.argv[0]).resolve().parent
    sys.path[:] = [place for place in sys.path if not place or Path(place).resolve() != folder]


def _use_cache_without_network() -> None:
    """Where the Hub has no address, go by its cache at once, not after half a minute of retries.

    The Hub's client reads the variable when it is imported, so this comes first.
    """
    if "HF_HUB_OFFLINE" in os.environ or getproxies():
        return
    try:
        socket.getaddrinfo(urlparse(os.environ.get("HF_ENDPOINT", "https://huggingface.co")).hostname, 443)
    except OSError:
        os.environ["HF_HUB_OFFLINE"] = "1"


def quiet_libraries() -> None:
    """Show this project's lines, and from the libraries, once they are imported, what a person can act on."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    for name in ("lightning", "lightning.pytorch", "lightning.fabric", "httpx"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated.*")
    warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")  # the data module is
    warnings.filterwarnings("ignore", message=".*accumulate the metric across devices.*")  # all have the same value
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty.*")
    warnings.filterwarnings("ignore", message="The dirpath has changed.*")  # a finished run, gone on with elsewhere
    logger = logging.getLogger("qa_lightning")
    if not logger.handlers:
        handler = _PrintHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False


class _PrintHandler(logging.Handler):
    """Prints to what ``sys.stdout`` is at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the record."""
        print(self.format(record), flush=True)


if TYPE_CHECKING:
    from qa_lightning.data.columns import Columns


COLUMN_NAMES = ("id", "question", "context", "answers", "answer_text", "answer_start", "is_impossible")


def add_columns(parser: argparse.ArgumentParser) -> None:
    """Add the flags that name the columns of data."""
    for name in COLUMN_NAMES:
        flags = (f"--columns.{name}", f"--data.columns.{name}")  # the second as train.py has it
        parser.add_argument(*flags, dest=name, metavar="NAME", help=f"the column that is the {name}")


def columns_of(options: argparse.Namespace) -> Columns:
    """The columns that the flags name."""
    from qa_lightning.data.columns import Columns

    return Columns(**{name: getattr(options, name) for name in COLUMN_NAMES})


def positive(text: str) -> int:
    """A whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number
