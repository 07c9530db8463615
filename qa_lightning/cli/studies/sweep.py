"""``sweep``: search for good values of flags of ``train``, by Optuna."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from qa_lightning.checks.refusals import lightning_refusals
from qa_lightning.cli.console import quiet_libraries
from qa_lightning.cli.flags import local_path
from qa_lightning.cli.studies.running import OwnFlags, count_problems, run_study
from qa_lightning.cli.train import config_folder, with_config_files
from qa_lightning.errors import InputError, naming_flags
from qa_lightning.sweep import PRUNERS
from qa_lightning.wording import command, usage_name, wrong_choice

_USUAL_SPACE = config_folder() / "spaces" / "default.yaml"
SWEEP_HELP = """\
usage: {usage} [--trials N] [--space FILE] [--study DIR] [--pruner P] [--parallel N] [FLAGS OF TRAIN]

Search for good values of flags: each trial trains with other values, and is stopped early if its F1 stays behind that
of others. Needs pip install "qa-lightning[sweep]".

  {sweep} --trials 20 --space space.yaml --data.dataset questions.csv

Flags:
  --trials N                   trials of the study, over all starts and processes  [20]
  --space FILE                 the flags to vary and their values  [learning rate, layer decay, warmup, batch size]
                                 model.learning_rate: {{low: 1.0e-5, high: 3.0e-4, log: true}}
                                 model.layer_decay: [0.7, 0.8, 0.9, 1.0]
                                 data.batch_size: {{low: 8, high: 32, step: 8}}
  --study DIR                  folder for all of it; a study that was stopped goes on in its folder  [sweep]
  --pruner P                   median: stop trials that are below the median of others after as many validations;
                               halving: let a third of them go on after 1, 3, 9 ... validations; none  [median]
  --parallel N                 trials to train at a time, each on GPUs of its own if there are any  [1]
  --seed_everything N          decides which values are tried, too  [42]
  and all flags of `{train}` but those that are varied, or resume a run

What you get in the folder: trial-N/ with a usual run each, and sweep.json with values and scores of all trials. The
same command, started again or on other machines that share the folder, works on the same study.
"""


@naming_flags()
@lightning_refusals()
def sweep(words: Sequence[str]) -> int:
    """Run the trials, then show them and the best one."""
    if {"-h", "--help", "--help_all", "--help-all"} & set(words):
        print(
            SWEEP_HELP.format(usage=usage_name("sweep"), sweep=command("sweep"), train=command("train")),
            end="",
        )
        return 0
    own, rest = _own_flags(words)

    def run() -> None:
        from qa_lightning.sweep.run import Sweep
        from qa_lightning.sweep.study import load_optuna
        from qa_lightning.training.flags import ParsedFlags

        load_optuna()
        quiet_libraries()
        flags = ParsedFlags(list(with_config_files(rest)))
        usual = own.space == _USUAL_SPACE
        Sweep(flags, rest, own.space, own.trials, own.study, own.pruner, own.parallel, usual).run()

    return run_study(own.study, run)


def _own_flags(words: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The flags that ``train`` does not have, and the others.

    Raises:
        InputError: a value is not possible; all of them together.
    """
    parser = OwnFlags()
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--parallel", type=int, default=1)
    parser.add_argument("--pruner", default="median")
    parser.add_argument("--space", type=local_path, default=_USUAL_SPACE)
    parser.add_argument("--study", type=local_path, default=Path("sweep"))
    own, rest = parser.parse_known_args(words)
    problems = count_problems(own, trials=1, parallel=1)
    if own.pruner not in PRUNERS:
        problems.append(wrong_choice("--pruner", own.pruner, PRUNERS))
    if problems:
        raise InputError(problems)
    return own, rest
