"""Commands as processes of their own, with small trainings as their material."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.helpers.paths import ROOT
from tests.helpers.training import train_flags

TRAIN = ROOT / "scripts" / "train.py"
AT_A_MOMENT = ROOT / "tests" / "helpers" / "at_a_moment.py"


def environment() -> dict[str, str]:
    """One thread a process, no network, this checkout's code."""
    return os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(ROOT)}


def finished(words: list[object], **options) -> subprocess.CompletedProcess[str]:
    """Run a Python script to its end."""
    command = [sys.executable, *map(str, words)]
    given = {"capture_output": True, "text": True, "check": False, "timeout": 200, "env": environment()}
    return subprocess.run(command, **given | options)


def short_run(root: Path, model: str, data: str, *more: str) -> list[str]:
    """The flags of a run of two epochs of five steps, with a validation after each."""
    return [*train_flags(root, model, data, data), "--trainer.max_epochs", "2", *more]
