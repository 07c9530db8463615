"""Records a run in ``run.json`` in its folder: command, versions, seed, data and source revision."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer

from qa_lightning.files import write_json
from qa_lightning.runs.signals import slurm_job
from qa_lightning.wording import program_name

PACKAGES = (
    "qa-lightning",
    "torch",
    "lightning",
    "transformers",
    "tokenizers",
    "datasets",
    "torchmetrics",
    "numpy",
    "pyarrow",
)


def describe_run(
    seed: int,
    devices: str,
    precision: str,
    data: Mapping[str, Any],
    resumed_from: str | None,
    base_model: Mapping[str, Any],
) -> dict[str, Any]:
    """Everything that says what was run, as JSON values.

    Args:
        seed: the seed of the whole run.
        devices: such as ``2 x CUDA``.
        precision: the Trainer's, such as ``bf16-mixed``.
        data: of each split: source, fingerprint, numbers of questions and windows.
        resumed_from: the checkpoint that it resumed from; None if it began at the first step.
        base_model: the name of the model that is fine-tuned, and whether it comes from the Hub.
    """
    return {
        "started": _now(),
        "command": [program_name(), *sys.argv[1:]],
        "resumed_from": resumed_from,
        "slurm_job": slurm_job(),
        "seed": seed,
        "devices": devices,
        "precision": precision,
        "data": dict(data),
        "base_model": dict(base_model),
        "versions": {"python": platform.python_version(), **package_versions()},
        "git": git_revision(Path(__file__).parent),
    }


def package_versions() -> dict[str, str]:
    """Name -> version of the installed packages that affect results."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # not installed, but imported from a source tree
            continue
    return found | {"torch": str(torch.__version__)}  # names the build, which the package's metadata may leave out


def git_revision(folder: Path) -> dict[str, Any] | None:
    """Commit of the checkout that ``folder`` is in, and whether tracked files differ from it.

    None outside a checkout, and without git.
    """
    git = shutil.which("git")
    if git is None:
        return None

    def ask(*words: str) -> str | None:
        ended = subprocess.run(
            [git, "-C", str(folder), *words],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"LC_ALL": "C"},
        )
        return ended.stdout.strip() if ended.returncode == 0 else None

    commit = ask("rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit, "changed": bool(ask("status", "--porcelain", "--untracked-files=no"))}


def append_run(path: Path, run: Mapping[str, Any]) -> None:
    """Append a start to the list in ``path``: a resumed run has one entry per start."""
    write_json(path, [*_read(path), dict(run)])


def mark_finished(path: Path, scores: Mapping[str, float], weights: str) -> None:
    """Add to the last entry in ``path`` that the run finished, its scores, and the digest of the weights it wrote."""
    *before, last = _read(path)
    finished = {"finished": _now(), "scores": dict(scores), "weights": weights}
    write_json(path, [*before, last | finished])


def last_start(path: Path) -> dict[str, Any]:
    """The last entry in ``path``; empty if there is none or the file cannot be read."""
    try:
        runs = _read(path)
    except (OSError, ValueError):
        return {}
    return runs[-1] if runs else {}


def _read(path: Path) -> list[dict[str, Any]]:
    runs: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return runs


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def run_folder(trainer: Trainer) -> Path | None:
    """The folder of a run; None where nothing is written. All processes must call it together.

    Args:
        trainer: of the run.
    """
    return Path(trainer.log_dir) if trainer.log_dir is not None else None
