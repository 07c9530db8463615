"""Claims a run's folder, and keeps its record there, ``run.json``: command, versions, seed, data, source revision.

A run claims ``version_N`` by creating that folder, which only one process can do, and records its start there at once.
Runs are identified and ordered by these records, not by the times of files.
"""

from __future__ import annotations

import logging
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from qa_lightning.files import digest, write_json
from qa_lightning.layout import (
    BEST_CHECKPOINT,
    CHECKPOINT_FOLDER,
    FLAGS,
    LAST_CHECKPOINT,
    MODEL_FOLDER,
    RECORD,
    by_last_start,
    read_starts,
    run_number,
)
from qa_lightning.runs.signals import slurm_job
from qa_lightning.wording import PACKAGE, package_version, program_name

log = logging.getLogger("qa_lightning")

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


def describe_start(seed: int, resumed_from: str | None, launch: str | None = None) -> dict[str, Any]:
    """The part of a run's record that is known before data is prepared, as JSON values.

    Args:
        seed: the seed of the whole run.
        resumed_from: the checkpoint it was resumed from; None if it began at the first step.
        launch: names this start by torchrun, and its restarts; None elsewhere.
    """
    return {
        "started": _now(),
        "command": this_command(),
        "resumed_from": resumed_from,
        "slurm_job": slurm_job(),
        "launch": launch,
        "seed": seed,
        "versions": {"python": platform.python_version(), **package_versions()},
        "git": git_revision(Path(__file__).parent),
    }


def describe_run(
    devices: str,
    precision: str,
    data: Mapping[str, Any],
    base_model: Mapping[str, Any],
    teacher: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The part of a run's record that is known when training begins, as JSON values.

    Args:
        devices: such as ``2 x CUDA``.
        precision: the Trainer's, such as ``bf16-mixed``.
        data: source, fingerprint, and numbers of questions and windows of each split.
        base_model: the name of the model that is fine-tuned, and whether it comes from the Hub.
        teacher: the same of the model that it learns from, with temperature and weight; None without one.
    """
    described = {"devices": devices, "precision": precision, "data": dict(data), "base_model": dict(base_model)}
    return described if teacher is None else described | {"teacher": dict(teacher)}


def processor() -> str:
    """The name of this machine's CPU."""
    known = Path("/proc/cpuinfo")
    lines = known.read_text(encoding="utf-8", errors="replace").splitlines() if known.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def package_versions() -> dict[str, str]:
    """Name -> version of the installed packages that affect results."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # not installed, but imported from a source tree
            continue
    return found | {"torch": str(torch.__version__)}  # names the build, which the package's metadata may leave out


def source_version() -> str:
    """The version of this package, with a digest of its source: checkouts of one version may differ."""
    return f"{package_version()} (source {digest(sorted(PACKAGE.rglob('*.py')), names=True)[:8]})"


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
            # no lock file, which a kill or a full disk would leave in the checkout
            env=os.environ | {"LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0"},
        )
        return ended.stdout.strip() if ended.returncode == 0 else None

    commit = ask("rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit, "changed": bool(ask("status", "--porcelain", "--untracked-files=no"))}


def append_run(path: Path, run: Mapping[str, Any]) -> None:
    """Append a start to the list in ``path``: a resumed run has one entry per start. Readable entries are kept."""
    write_json(path, [*read_starts(path)[0], dict(run)])


def complete_start(path: Path, values: Mapping[str, Any]) -> None:
    """Add to the last entry in ``path``."""
    *before, last = read_starts(path)[0] or [{}]
    write_json(path, [*before, last | dict(values)])


def mark_finished(
    path: Path,
    scores: Mapping[str, float],
    weights: str,
    measured: Mapping[str, float],
    average: Mapping[str, Any] | None = None,
    best_checkpoint: bool = True,
) -> None:
    """Add to the last entry in ``path`` that the run finished, and what is known at its end.

    Args:
        path: the record.
        scores: of the model: the best checkpoint, or the mean of the best.
        weights: the digest of the weights that were written.
        measured: as far as they are known, ``best_epoch``, counted from 1; ``windows_per_second``, in training;
            ``peak_memory_bytes``, of the first process.
        average: of the best checkpoints, if they were averaged; see `MeanOfBest`.
        best_checkpoint: whether there was one; else the weights are those that the run ended with.
    """
    end: dict[str, Any] = {"finished": _now(), "scores": dict(scores), "weights": weights, "measured": dict(measured)}
    end["best_checkpoint"] = best_checkpoint
    complete_start(path, end | ({"average_best": dict(average)} if average else {}))


def last_start(path: Path) -> dict[str, Any]:
    """The last entry in ``path``; empty if there is none or the file cannot be read."""
    starts, _ = read_starts(path)
    return starts[-1] if starts else {}


@dataclass(frozen=True)
class PastRun:
    """A run found in the folder of runs.

    Attributes:
        folder: ``version_N``.
        starts: the record's entries, one per start; empty if the run died before it wrote one.
        problem: why the record cannot be read as a whole; None if it can.
    """

    folder: Path
    starts: tuple[Mapping[str, Any], ...] = field(default=())
    problem: str | None = None

    @property
    def finished(self) -> bool:
        """Whether the last start finished; if the record is damaged, whether there is a model."""
        if self.problem and (self.folder / MODEL_FOLDER).is_dir():
            return True
        return bool(self.starts) and isinstance(self.starts[-1].get("finished"), str)

    @property
    def pruned(self) -> bool:
        """Whether a search pruned it in its last start."""
        return bool(self.starts) and isinstance(self.starts[-1].get("pruned"), Mapping)

    @property
    def job(self) -> str | None:
        """The SLURM job of its last start, or what names that start by torchrun."""
        last = self.starts[-1] if self.starts else {}
        jobs = (last.get(name) for name in ("slurm_job", "launch"))
        return next((job for job in jobs if isinstance(job, str)), None)

    @property
    def command(self) -> list[str] | None:
        """The words of its last start; None if they are not known."""
        given = self.starts[-1].get("command") if self.starts else None
        return list(map(str, given)) if isinstance(given, list) else None

    @property
    def resumed_from(self) -> Path | None:
        """The checkpoint from which the last start resumed."""
        given = self.starts[-1].get("resumed_from") if self.starts else None
        return Path(given) if isinstance(given, str) else None


def this_command() -> list[str]:
    """The words that started this process, as the record has them."""
    return [program_name(), *sys.argv[1:]]


def claim_folder(logs: Path) -> Path:
    """Create ``version_N`` in ``logs`` with the next free N; runs that start at the same time get different folders.

    Raises:
        OSError: it cannot be created.
    """
    number = 1 + max((run_number(folder) for folder in logs.glob("version_*")), default=-1)
    while True:
        folder = logs / f"version_{number}"
        logs.mkdir(parents=True, exist_ok=True)
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        except FileNotFoundError:  # another run has just taken its claim back, and ``logs`` with it
            continue
        else:
            return folder


def release_folder(folder: Path) -> None:
    """Undo a claim: remove a folder that has neither checkpoints nor a model, and that of the runs if it is empty."""
    if not any((folder / name).exists() for name in (CHECKPOINT_FOLDER, MODEL_FOLDER)):
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):
            folder.parent.rmdir()


def find_runs(logs: Path) -> list[PastRun]:
    """The runs in ``logs``, in the order of `layout.by_last_start`; a damaged record gives a warning."""
    runs = [past_run(folder) for folder in logs.glob("version_*") if is_run(folder)]
    for run in runs:
        if run.problem:
            log.warning(f"{run.folder / RECORD} {run.problem}; of its starts, {len(run.starts)} can be read")
    known = {run.folder: run for run in runs}
    return [known[folder] for folder in by_last_start({run.folder: run.starts for run in runs})]


def newest_run(logs: Path) -> PastRun | None:
    """The run in ``logs`` that started last; None without any."""
    runs = find_runs(logs)
    return runs[-1] if runs else None


def past_run(folder: Path) -> PastRun:
    """What the record in a folder says."""
    starts, problem = read_starts(folder / RECORD)
    return PastRun(folder, tuple(starts), problem)


def is_run(folder: Path) -> bool:
    """Whether a folder is a run of this package; an empty folder is one that was killed before it wrote anything."""
    if not folder.is_dir():
        return False
    if any((folder / name).exists() for name in (RECORD, LAST_CHECKPOINT, BEST_CHECKPOINT)):
        return True
    left = {path.name for path in folder.iterdir() if not path.name.startswith(f".{RECORD}.")}
    try:
        config = (folder / FLAGS).read_text(encoding="utf-8", errors="replace") if left else ""
    except OSError:
        return False
    return not left or "save_every_minutes:" in config  # a flag that only this project has


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


class RunFolder(Callback):
    """Holds the path of the run's folder on every process, and puts checkpoints there that have no other folder.

    Attributes:
        path: the folder; None until it is claimed, and for runs that write nothing.
    """

    def __init__(self) -> None:
        self.path: Path | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Set the folder of checkpoints, before their callbacks ask the logger for one."""
        for callback in trainer.checkpoint_callbacks:
            if self.path and isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
                callback.dirpath = str(self.path / CHECKPOINT_FOLDER)


def own_folder(trainer: Trainer) -> Path | None:
    """The folder that this run claimed; None if it claimed none, as with a Trainer in Python."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback.path for callback in callbacks if isinstance(callback, RunFolder)), None)


def run_folder(trainer: Trainer) -> Path | None:
    """The folder of a run, with any logger; None if the run writes nothing. All processes must call it together.

    Args:
        trainer: of the run.
    """
    if any(isinstance(callback, RunFolder) for callback in trainer.callbacks):  # type: ignore[attr-defined]
        return own_folder(trainer)
    return Path(trainer.log_dir) if trainer.log_dir is not None else None
