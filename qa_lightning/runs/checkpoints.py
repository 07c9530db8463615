"""Checkpoint files that are whole or not there: written beside the old one, made durable, then put in its place."""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from qa_lightning.errors import InputError
from qa_lightning.files import write_file
from qa_lightning.runs.curves import curve_files
from qa_lightning.runs.record import last_start

log = logging.getLogger("qa_lightning")

CURVES = "curves"  # key in a checkpoint


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints atomically; a run goes on where one cannot be written.

    Lightning's own stages the file in ``$TMPDIR`` and moves it, which a full disk can interrupt half way, and takes
    the run down with it. Here the new file grows in the checkpoint's own folder and replaces the old one by
    ``rename`` after ``fsync``: whoever looks, after whatever crash, finds the old file or the new one.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Write ``checkpoint``; where that fails, say so and keep what is there.

        Args:
            checkpoint: as Lightning dumps it.
            path: of the file.
            storage_options: not used.
        """
        target = Path(path)
        try:
            _write(checkpoint, target)
        except (OSError, RuntimeError) as error:  # torch's zip writer turns a failed write into a RuntimeError
            cause = error if isinstance(error, OSError) else error.__context__  # what the zip writer stumbled over
            reason = " ".join(str(cause or error).split())[:200]
            kept = "the one before stays" if target.exists() else "there is none before it"
            log.warning(
                f"checkpoint {target} could not be written, {kept} and training goes on; free some space or make the "
                f"folder writable ({reason})"
            )


@dataclass(frozen=True)
class Beginning:
    """Where a run begins.

    Attributes:
        checkpoint: that it goes on from; None begins at the first step.
        folder: of the run that is gone on with, and written to again; None for a new one.
        step: steps of the optimizer that are done.
        epochs: that are done.
        curves: lengths in bytes of the run's files of curves, when the checkpoint was written.
    """

    checkpoint: Path | None = None
    folder: Path | None = None
    step: int = 0
    epochs: int = 0
    curves: Mapping[str, int] = field(default_factory=dict)

    def cut_curves(self) -> None:
        """Take from the files of curves in ``folder`` what will be logged again: all that came after the checkpoint."""
        for file in curve_files(self.folder) if self.folder else []:
            length = self.curves.get(file.name, 0)
            if length == 0:
                file.unlink()
            elif length < file.stat().st_size:
                os.truncate(file, length)


def find_beginning(given: str | None, logs: Path, job: str | None = None) -> Beginning:
    """Where ``--ckpt_path`` says that a run begins; a checkpoint that cannot be read is never taken.

    Args:
        given: a file, ``last`` for the newest run, or None.
        logs: the folder of runs.
        job: the batch job that this is; where it has a run already that is not finished, None means that one.

    Raises:
        InputError: there is no such file or run, or none that can be read.
    """
    if given not in (None, "last"):
        path = Path(given).expanduser()
        if not path.is_file():
            raise InputError(f"--ckpt_path {given}: no such file; give the path of a .ckpt file, or `last`")
        begun = read_beginning(path)
        if isinstance(begun, str):
            raise InputError(f"--ckpt_path {given}: {begun}")
        return begun
    runs = sorted((folder for folder in logs.glob("version_*") if _age(folder)), key=_age)
    if given is None:
        runs = [
            folder for folder in runs if job is not None and last_start(folder / "run.json").get("slurm_job") == job
        ]
        if not runs or "finished" in last_start(runs[-1] / "run.json"):
            return Beginning()
    if not runs:
        raise InputError(f"--ckpt_path last: there is no run in {logs}; start without the flag")
    return _go_on_with(runs[-1])


def _age(run: Path) -> float:
    """When a run was last heard of; 0 for a folder without one."""
    files = (run / "run.json", run / "checkpoints" / "last.ckpt")
    return max((file.stat().st_mtime for file in files if file.exists()), default=0.0)


def _go_on_with(run: Path) -> Beginning:
    """From the last checkpoint of ``run``, or, where that is damaged, from its best one."""
    folder: Path | None = run
    if "finished" in last_start(run / "run.json"):
        log.info(f"{run} is finished and stays as it is: this run has a folder of its own")
        folder = None
    problems: list[str] = []
    for path in (run / "checkpoints" / "last.ckpt", run / "checkpoints" / "best.ckpt"):
        if not path.is_file():
            continue
        begun = read_beginning(path)
        if not isinstance(begun, str):
            if problems:
                log.warning(f"{problems[0]}; going on from {path.name}, the best one of that run, instead")
            return replace(begun, folder=folder)
        problems.append(f"{path}: {begun}")
    if problems:
        raise InputError([f"--ckpt_path last: {problem}" for problem in problems])
    log.info(f"{run} was stopped before its first checkpoint: it begins again")
    return Beginning(None, run)


def read_beginning(path: Path) -> Beginning | str:
    """What can be gone on with from a checkpoint, in a new folder, or why it cannot be loaded.

    Nothing that stands in it is executed (``weights_only``).
    """
    if path.stat().st_size == 0:
        return "is empty; the run may have been cut off by a full disk. Choose another checkpoint"
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        reason = " ".join(str(error).split())[:150]
        return f"holds more than tensors and plain values, and is not loaded since that could run code ({reason})"
    except Exception as error:  # whatever the zip and pickle readers meet in a damaged file
        reason = " ".join(str(error).split())[:150]
        return f"is damaged or no checkpoint ({type(error).__name__}: {reason}); choose another one"
    missing = [key for key in ("state_dict", "loops", "global_step") if key not in checkpoint]
    if missing:
        return f"is no checkpoint of a training run: it lacks {', '.join(missing)}"
    epochs = checkpoint["loops"].get("fit_loop", {}).get("epoch_progress", {}).get("current", {})
    return Beginning(path, None, checkpoint["global_step"], epochs.get("processed", 0), checkpoint.get(CURVES, {}))


def _write(checkpoint: dict[str, Any], target: Path) -> None:
    write_file(target, lambda file: torch.save(checkpoint, file))
