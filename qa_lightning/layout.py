"""The names in a run's folder, ``lightning_logs/version_N``; paths are relative to it, except `LOGS`.

``record`` claims and finds such folders. What an evaluation writes elsewhere is named in ``evaluation.result``.
"""

from __future__ import annotations

from pathlib import Path

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
