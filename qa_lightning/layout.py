"""What is in a run's folder, ``lightning_logs/version_N``: its names, and the starts that its record lists.

Paths are relative to the folder, except `LOGS`. ``runs.record`` claims and finds such folders, and writes the record.
What an evaluation writes elsewhere is named in ``evaluation.result``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

LOGS = "lightning_logs"  # holds the runs' folders
MODEL_FOLDER = "model"  # the best checkpoint, as a folder for transformers
ADAPTER_FOLDER = "adapter"  # in a model's folder: its adapters (LoRA), where it was trained by some
CHECKPOINT_FOLDER = "checkpoints"
BEST, LAST = "best.ckpt", "last.ckpt"
BEST_CHECKPOINT = f"{CHECKPOINT_FOLDER}/{BEST}"
LAST_CHECKPOINT = f"{CHECKPOINT_FOLDER}/{LAST}"
KEPT_WEIGHTS = "best_weights"  # those of the best validations, alone, for --average_best; removed when the run ends
MEAN = "mean.ckpt"  # in that folder: their mean, while it is validated
CONFIDENCE_FOLDER = "confidence"  # figures and numbers about threshold, temperature and calibration
CONFIDENCE = "confidence.json"  # the numbers
REPORT = "report.html"  # of the model's errors on the validation data; all questions are in a .jsonl file beside it
FLAGS = "config.yaml"  # every flag of the run
HPARAMS = "hparams.yaml"  # that loggers write; a run with a Trainer in Python has no FLAGS
FOLD_ANSWERS = "fold_answers.npz"  # of a run that held out a fold: the spans of its questions
RECORD = "run.json"  # one entry per start: command, versions, seed, data; at the end the scores
# In the folder of a cross-validation:
STUDY = "study.json"  # folds and fingerprint of the questions; of a search, its space
STUDY_FLAGS, FINAL_FLAGS = "flags.yaml", "final.yaml"  # those of train, for a fold and for the final model
STUDY_RESULT = "crossval.json"  # scores of each fold, mean, spread and intervals
STUDY_FOLDS = "folds.json"  # id -> fold that held the question out
# In the folder of a search, beside STUDY and STUDY_FLAGS:
SWEEP_TRIALS = "trials.log"  # Optuna's journal
SWEEP_RESULT = "sweep.json"  # values and scores of all trials, and the best one
CURVE_FILES = "events.out.tfevents.*"  # TensorBoard's
CURVE_TABLE = "metrics.csv"  # of a CSVLogger


def run_of(model: str) -> Path | None:
    """The folder of the run that left a model's folder; None for a model elsewhere, or one that is not there.

    What lies beside a model of another name is not known to be about it.
    """
    folder = Path(model).resolve()
    return folder.parent if folder.name == MODEL_FOLDER and folder.is_dir() else None


def by_last_start(starts: Mapping[Path, Sequence[Mapping[str, Any]]]) -> list[Path]:
    """Folders of runs in the order of the last starts in their records: copies have times of their own.

    A run without a recorded time comes right after the runs with lower numbers.

    Args:
        starts: folder, ``version_N`` -> the entries of its record.
    """
    latest, when = datetime.min.replace(tzinfo=timezone.utc), {}
    for folder in sorted(starts, key=run_number):
        times = [_time(start.get("started")) for start in starts[folder]] or [None]
        latest = max(latest, times[0] or latest)
        when[folder] = times[-1] or latest
    return sorted(when, key=lambda folder: (when[folder], run_number(folder)))


def run_number(folder: Path) -> int:
    """The N of ``version_N``: a later run has a higher one; -1 for other names."""
    found = re.fullmatch(r"version_(\d+)", folder.name)
    return int(found[1]) if found else -1


def read_starts(path: Path) -> tuple[list[dict[str, Any]], str | None]:
    """The readable entries of a record, and why the rest cannot be read (None if all can)."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return [], None
    except OSError as error:
        return [], f"cannot be read ({error.strerror})"
    if not content.strip(b"\0 \r\n\t"):
        return [], "is empty, perhaps because the power failed or the disk was full"
    text = content.decode("utf-8", errors="replace")
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return _whole_starts(text), "is damaged"
    if isinstance(values, list) and all(isinstance(value, dict) for value in values):
        return values, None
    listed = values if isinstance(values, list) else [values]
    return [value for value in listed if isinstance(value, dict)], "is not a list of starts"


def _whole_starts(text: str) -> list[dict[str, Any]]:
    """The entries of a JSON list before the character at which it is cut off or damaged."""
    found: list[dict[str, Any]] = []
    decoder, position = json.JSONDecoder(), text.find("{")
    while position >= 0:
        try:
            value, end = decoder.raw_decode(text, position)
        except (ValueError, RecursionError):
            break
        found.append(value)
        between = re.compile(r"[\s,]*").match(text, end)
        position = between.end() if between and text[between.end() : between.end() + 1] == "{" else -1
    return found


def _time(value: Any) -> datetime | None:
    try:
        time = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    return time if time.tzinfo else time.replace(tzinfo=timezone.utc)
