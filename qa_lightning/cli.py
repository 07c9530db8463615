"""The command line: ``train`` on LightningCLI, ``evaluate`` and ``predict`` with parsers of their own."""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import shlex
import socket
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlparse
from urllib.request import getproxies

if TYPE_CHECKING:
    from qa_lightning.columns import Columns

COLUMN_NAMES = ("id", "question", "context", "answers", "answer_text", "answer_start", "is_impossible")
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
    from qa_lightning.training import TrainCLI

    gc.enable()
    quiet_libraries()
    return TrainCLI(list(args) if args is not None else None).run()


def check_data_main() -> None:
    """``scripts/check_data.py``."""
    run_command(check_data)


def check_data(args: Sequence[str] | None = None) -> int:
    """Say what is wrong with data; status 1 if training would stop at it."""
    parser = argparse.ArgumentParser(
        prog="check_data.py",
        description="Look through questions before training on them: what is wrong, how often, where, and what helps.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("data", help="file, files or dataset, as --data.dataset of train.py takes them")
    parser.add_argument("--validation", help="what is validated on, to find contexts that stand on both sides")
    parser.add_argument("--model", help="name or folder; its tokenizer tells what is cut, lost or unknown")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the whole report as JSON")
    parser.add_argument("--rows", type=_positive, default=5, help="rows to list of each finding")
    parser.add_argument("--max-length", type=_positive, default=384, help="tokens a window, question included")
    parser.add_argument("--doc-stride", type=_positive, default=128, help="tokens that two windows share")
    parser.add_argument("--max-question-length", type=_positive, default=64, help="longer questions are cut, in tokens")
    parser.add_argument("--max-answer-length", type=_positive, default=30, help="longest answer given, in tokens")
    _add_columns(parser)
    options = parser.parse_args(args)
    from rich.console import Console

    from qa_lightning import reports
    from qa_lightning.features import WindowSettings

    quiet_libraries()
    report = reports.check_source(
        options.data,
        options.validation,
        _columns(options),
        options.model,
        WindowSettings(options.max_length, options.doc_stride, options.max_question_length),
        options.max_answer_length,
        options.rows,
    )
    reports.show(report, Console())
    if options.json:
        options.json.write_text(json.dumps(report.as_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"written to {options.json}")
    return 1 if report.errors else 0


def _add_columns(parser: argparse.ArgumentParser) -> None:
    for name in COLUMN_NAMES:
        flags = (f"--columns.{name}", f"--data.columns.{name}")  # the second as train.py has it
        parser.add_argument(*flags, dest=name, metavar="NAME", help=f"the column that is the {name}")


def _columns(options: argparse.Namespace) -> Columns:
    from qa_lightning.columns import Columns

    return Columns(**{name: getattr(options, name) for name in COLUMN_NAMES})


def evaluate_main() -> None:
    """``scripts/evaluate.py``."""
    run_command(evaluate)


def evaluate(args: Sequence[str] | None = None) -> int:
    """Score a model, or a file of predictions, on a dataset with answers."""
    parser = argparse.ArgumentParser(
        prog="evaluate.py",
        description="Print EM and F1 of a model, or of a predictions file, as the official SQuAD scorers count them.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    subject = parser.add_mutually_exclusive_group(required=True)
    subject.add_argument("--model", help="folder of a trained model, or its name on the Hub")
    subject.add_argument("--predictions", type=Path, help='JSON file {"id": "answer", ...}')
    parser.add_argument(
        "--data", required=True, help="file (SQuAD JSON, JSON lines, CSV, Parquet), files, or dataset on the Hub"
    )
    parser.add_argument("--output-dir", type=Path, help="write metrics.json, predictions.json, nbest_predictions.json")
    parser.add_argument("--official", action="store_true", help="compare with evaluate.load('squad' or 'squad_v2')")
    parser.add_argument("--mixed-script", action="store_true", help="F1 by ideographs for Chinese, as MLQA counts")
    parser.add_argument("--batch-size", type=_positive, default=32, help="windows a step")
    parser.add_argument("--max-examples", type=_positive, help="only the first so many questions")
    _add_columns(parser)
    options = parser.parse_args(args)
    if options.official and options.mixed_script:
        parser.error("--official compares with the SQuAD scorer, which knows no --mixed-script")
    from qa_lightning import scoring

    quiet_libraries()

    asked = (options.max_examples, options.mixed_script, _columns(options))
    if options.predictions:
        result = scoring.score_file(options.predictions, options.data, *asked)
    else:
        result = scoring.score_model(options.model, options.data, options.batch_size, *asked)
    for name, value in result.metrics.items():
        print(f"{name:<14} {value:,}" if name.endswith("total") else f"{name:<14} {value:.4f}")
    if options.output_dir:
        scoring.write(result, options.output_dir)
        print(f"written to {options.output_dir}: {', '.join(sorted(result.files))}")
    return scoring.compare_with_official(result) if options.official else 0


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def predict_main() -> None:
    """``scripts/predict.py``."""
    run_command(predict)


def predict(args: Sequence[str] | None = None) -> int:
    """Answer one question."""
    parser = argparse.ArgumentParser(prog="predict.py", description="Ask a trained model one question about a text.")
    parser.add_argument("--model", required=True, help="folder of a trained model, or its name on the Hub")
    parser.add_argument("--question", required=True)
    parser.add_argument("--context", required=True, help="the text that holds the answer")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(args)
    from qa_lightning.reader import Reader

    quiet_libraries()

    answer = Reader.load(options.model).answer([options.question], [options.context])[0]
    if options.json:
        print(json.dumps({"answer": answer.text, "start": answer.start, "end": answer.end, "score": answer.score}))
    else:
        place = f"characters {answer.start}-{answer.end}" if answer.text else "the text does not answer it"
        print(f"answer  {answer.text or '(no answer)'}\nplace   {place}\nscore   {answer.score:.4f}")
    return 0


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
