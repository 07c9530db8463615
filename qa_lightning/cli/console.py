"""How every command starts and ends: exit status, messages, the network, and what the libraries say."""

from __future__ import annotations

import logging
import os
import socket
import sys
import warnings
from collections.abc import Callable


def run_command(command: Callable[[], int]) -> None:
    """Run a command and exit; bad input gives its message on stderr and status 2, never a traceback."""
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
    """Where the Hub has no address, go by its cache at once, not after half a minute of retries.

    The Hub's client reads the variable when it is imported, so this comes first.
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
