"""The commands as functions: each takes its flags as a list and returns the exit status."""

from __future__ import annotations

import pytest
import yaml

from qa_lightning.cli.ask import ask
from qa_lightning.cli.check_data import check_data
from qa_lightning.cli.console import quiet_libraries, run_command
from qa_lightning.cli.evaluate import evaluate
from qa_lightning.cli.export import export
from qa_lightning.cli.main import run
from qa_lightning.cli.pages.compare import compare
from qa_lightning.cli.pages.report import report
from qa_lightning.cli.predict import predict
from qa_lightning.cli.studies.crossval import crossval
from qa_lightning.cli.studies.sweep import sweep
from qa_lightning.cli.train import train

__all__ = [
    "ask",
    "check_data",
    "compare",
    "crossval",
    "evaluate",
    "export",
    "predict",
    "printed_config",
    "quiet_libraries",
    "report",
    "run",
    "run_command",
    "sweep",
    "train",
]


def printed_config(words: list[str], capsys: pytest.CaptureFixture[str]) -> dict:
    """What ``train --print_config`` prints with these flags.

    A signal that somebody sends to this process meanwhile ends the command, too: then the message tells it.
    """
    try:
        ended: tuple[str, object] = "returned", train([*words, "--print_config"])
    except SystemExit as exit:
        ended = "exited", exit.code
    printed = capsys.readouterr()
    assert ended == ("exited", 0), printed
    return yaml.safe_load(printed.out)
