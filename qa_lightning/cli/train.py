"""``train``: fine-tune a model and score it every epoch."""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence

from qa_lightning.cli.console import quiet_libraries, run_command
from qa_lightning.errors import naming_flags

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


def train_main() -> None:
    """``scripts/train.py``."""
    if any(flag in sys.argv[1:] for flag in ("-h", "--help")):
        print(TRAIN_HELP)  # first, so that it is there before the libraries are loaded
    run_command(train)


@naming_flags()
def train(args: Sequence[str] | None = None) -> int:
    """Fine-tune, validate the best checkpoint and write it as a transformers folder."""
    gc.disable()  # nothing that is imported is garbage: a fifth of the seconds until --help is there
    from qa_lightning.training.run import TrainCLI

    gc.enable()
    quiet_libraries()
    return TrainCLI(list(args) if args is not None else None).run()
