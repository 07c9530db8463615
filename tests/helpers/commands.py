"""The commands as functions: each takes its flags as a list and returns the exit status."""

from __future__ import annotations

from qa_lightning.cli.ask import ask
from qa_lightning.cli.check_data import check_data
from qa_lightning.cli.console import quiet_libraries, run_command
from qa_lightning.cli.evaluate import evaluate
from qa_lightning.cli.export import export
from qa_lightning.cli.main import run
from qa_lightning.cli.predict import predict
from qa_lightning.cli.train import train

__all__ = ["ask", "check_data", "evaluate", "export", "predict", "quiet_libraries", "run", "run_command", "train"]
