"""The command line: how every command starts and ends, and ``train``; the rest are in `commands`."""

from __future__ import annotations

import gc
import logging
import os
import shlex
import socket
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import getproxies

TRAIN_HELP = """\
Fine-tune a question answering model and score it every epoch.

  python scripts/train.py                                   bert-base-cased on SQuAD v1.1 from the Hub
  python scripts/train.py --config configs/quickstart.yaml  a small model on embedded data: no network, a minute or two

Flags that people use:
  --data.dataset NAME_OR_FILE      Hub dataset, SQuAD JSON, JSON lines, CSV, Parquet, or "synthetic"  [rajpurkar/squad]
  --data.validation NAME_OR_FILE   what to validate on  [the dataset's validation split, or a part of the file]
  --data.columns.question NAME     what a column of your file is called, where that is not guessed
  --data.on_bad_rows skip          leave bad rows out; `repair` moves answers that can only be meant elsewhere  [error]
  --data.batch_size N              windows a step and device  [8]
  --data.max_length N              tokens a window, question included  [384]
  --model.model_name NAME          name on the Hub, or a folder  [bert-base-cased]
  --model.learning_rate X          [2e-5]
  --trainer.max_epochs N           [3]
  --trainer.devices N              GPUs (or processes on a CPU) to train on  [1]
  --trainer.precision P            32-true, bf16-mixed, 16-mixed  [the best that the hardware has]
  --model.layer_decay X            each layer learns at X times the rate of the one above; 0.8 for little data  [1.0]
  --model.attention_dropout X      0 trains a quarter to a half faster on a CPU  [the model's own]
  --ema_decay X                    validate and write a running mean of the weights; 0.999 for little data  [none]
  --model.compile true             compile the model first: slower to start, faster from then on
  --config FILE.yaml               flags from a file; a run's own stands in lightning_logs/version_N/config.yaml
  --ckpt_path last                 go on with the newest run; or the path of a checkpoint
  --save_every_minutes N           how much training a crash may cost  [15]
  --seed_everything N              [42]

What you get, in lightning_logs/version_N: checkpoints/best.ckpt and last.ckpt, model/ (for transformers and for
scripts/predict.py), config.yaml, and curves for: tensorboard --logdir lightning_logs

Every flag, in full:
"""


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


def train_main() -> None:
    """``scripts/train.py``."""
    if any(flag in sys.argv[1:] for flag in ("-h", "--help")):
        print(TRAIN_HELP)  # first, so that it is there before the libraries are loaded
    run_command(train)


def train(args: Sequence[str] | None = None) -> int:
    """Fine-tune, validate the best checkpoint and write it as a transformers folder."""
    gc.disable()  # nothing that is imported is garbage: a fifth of the seconds until --help is there
    from qa_lightning.training.run import TrainCLI

    gc.enable()
    quiet_libraries()
    return TrainCLI(list(args) if args is not None else None).run()


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


def ask_command(model: Path, question: str, context: str) -> str:
    """The command that asks a model a question, ready to be pasted."""
    executable = Path(sys.executable)
    inside = executable.is_relative_to(Path.cwd())
    python = str(executable.relative_to(Path.cwd())) if inside else "python"
    words = [
        python,
        "scripts/predict.py",
        "--model",
        str(model),
        "--question",
        question,
        "--context",
        context,
    ]
    return " ".join(shlex.quote(word) for word in words)
