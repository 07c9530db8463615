"""What every command starts and ends with: exit status, error messages, the Hub without a network, quiet libraries."""

from __future__ import annotations

import logging
import os
import socket
import sys
import warnings
from collections.abc import Callable


def run_command(command: Callable[[], int]) -> None:
    """Run a command and exit with its status; bad input prints its message on stderr, without a traceback.

    Status 2 means bad input, 3 a loss or logits that are not finite, 130 Ctrl-C.
    """
    from qa_lightning.errors import DivergedError, InputError

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
    except OSError:
        os.environ["HF_HUB_OFFLINE"] = "1"


def quiet_libraries() -> None:
    """Print this project's log lines, and of the libraries' only those that a person can act on.

    Call it after Lightning is imported, which sets its own log levels.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    for name in ("lightning", "lightning.pytorch", "lightning.fabric", "httpx"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated.*")
    warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")  # SquadDataModule resumes itself
    warnings.filterwarnings("ignore", message=".*accumulate the metric across devices.*")  # all log the same value
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty.*")
    warnings.filterwarnings("ignore", message="The dirpath has changed.*")  # a finished run resumes in a new folder
    logger = logging.getLogger("qa_lightning")
    if not logger.handlers:
        handler = _PrintHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False


class _PrintHandler(logging.Handler):
    """Prints to what ``sys.stdout`` is when a record comes, not when the handler was made."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the record above a progress bar, if there is one, flushed so that a pipe gets it at once."""
        from tqdm import tqdm

        tqdm.write(self.format(record))
        sys.stdout.flush()
