"""``crossval``: train and score a model on each fold of one file, and a final one on all of it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from qa_lightning.checks.refusals import lightning_refusals
from qa_lightning.cli.console import quiet_libraries
from qa_lightning.cli.flags import local_path
from qa_lightning.cli.studies.running import OwnFlags, count_problems, run_study
from qa_lightning.cli.train import with_config_files
from qa_lightning.errors import InputError, naming_flags
from qa_lightning.wording import command, usage_name

CROSSVAL_HELP = """\
usage: {usage} [--folds N] [--study DIR] [--parallel N] [FLAGS OF TRAIN]

Cross-validate: train a model for each fold of your questions on the others, so that each question is answered by a
model that has not seen it; then train a final model on all of them.

  {crossval} --data.dataset questions.csv --folds 5

Flags:
  --folds N                    number of folds, of whole articles (by title) or contexts  [5]
  --study DIR                  folder for all of it; a study that was stopped goes on in its folder  [crossval]
  --parallel N                 folds to train at a time, each on GPUs of its own if there are any  [1]
  --data.dataset FILE          the questions: CSV, Excel, JSON, Parquet ...
  --seed_everything N          decides the folds, too  [42]
  and all flags of `{train}` but those that say what to validate on (--data.validation, --data.fold,
  --data.validation_fraction, --data.max_validation_examples, --trainer.limit_val_batches, fast_dev_run,
  overfit_batches), a run to resume or its folder (--ckpt_path, --trainer.default_root_dir), or several machines
  (--trainer.num_nodes)

What you get in the folder: crossval.json and predictions.json, nbest_predictions.json, report.html of the answers that
each question got out of its fold; fold-N/ and final/ with usual runs. The final model's threshold and temperature are
fitted to the out-of-fold answers.
"""


@naming_flags()
@lightning_refusals()
def crossval(words: Sequence[str]) -> int:
    """Train and score each fold, then train the final model."""
    if {"-h", "--help", "--help_all", "--help-all"} & set(words):
        print(
            CROSSVAL_HELP.format(usage=usage_name("crossval"), crossval=command("crossval"), train=command("train")),
            end="",
        )
        return 0
    own, rest = _own_flags(words)

    def run() -> None:
        from qa_lightning.crossval.run import CrossValidation
        from qa_lightning.training.flags import ParsedFlags

        quiet_libraries()
        CrossValidation(ParsedFlags(list(with_config_files(rest))), own.folds, own.study, own.parallel).run()

    return run_study(own.study, run)


def _own_flags(words: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The flags that ``train`` does not have, and the others.

    Raises:
        InputError: a value is not possible.
    """
    parser = OwnFlags()
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--parallel", type=int, default=1)
    parser.add_argument("--study", type=local_path, default=Path("crossval"))
    own, rest = parser.parse_known_args(words)
    if problems := count_problems(own, folds=2, parallel=1):
        raise InputError(problems)
    return own, rest
