"""Atomic, durable checkpoint files, and the choice of the checkpoint that a run starts from.

A file is written beside the old one, synced to disk, then renamed over it. The price: the disk needs room for both.
"""

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
    """Writes checkpoints atomically; a failed write is a warning and does not end the run.

    Lightning's own class stages the file in ``$TMPDIR`` and then moves it: a full disk can interrupt the move half
    way, and that ends the run. Here the new file is written in the checkpoint's own folder and renamed over the old
    one after ``fsync``: after any crash there is the old file or the new one, whole.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Write ``checkpoint``; if that fails, warn and keep the file that is there.

        Args:
            checkpoint: as Lightning's Trainer makes it.
            path: the file to write.
            storage_options: ignored.
        """
        target = Path(path)
        try:
            _write(checkpoint, target)
        except (OSError, RuntimeError) as error:  # torch's zip writer turns a failed write into a RuntimeError
            cause = error if isinstance(error, OSError) else error.__context__  # the error that stopped the zip writer
            reason = " ".join(str(cause or error).split())[:200]
            kept = "the previous one is kept" if target.exists() else "there is no previous one"
            log.warning(
                f"checkpoint {target} could not be written, {kept} and training continues; free some space or make "
                f"the folder writable ({reason})"
            )


@dataclass(frozen=True)
class Beginning:
    """Where a run begins: at the first step, or at a checkpoint.

    Attributes:
        checkpoint: the file to resume from; None begins at the first step.
        folder: the resumed run's folder, which this run writes to again; None makes a new one.
        step: optimizer steps that are done.
        epochs: epochs that are done.
        curves: file name -> size in bytes of each curves file when the checkpoint was written.
    """

    checkpoint: Path | None = None
    folder: Path | None = None
    step: int = 0
    epochs: int = 0
    curves: Mapping[str, int] = field(default_factory=dict)

    def cut_curves(self) -> None:
        """Cut the curves files in ``folder`` back to their size at the checkpoint: later points are logged again.

        A file that the checkpoint does not list is deleted.
        """
        for file in curve_files(self.folder) if self.folder else []:
            length = self.curves.get(file.name, 0)
            if length == 0:
                file.unlink()
            elif length < file.stat().st_size:
                os.truncate(file, length)


def find_beginning(given: str | None, logs: Path, job: str | None = None) -> Beginning:
    """Find where a run begins, from ``--ckpt_path``; a checkpoint that cannot be read is never chosen.

    Args:
        given: a file, ``last`` for the newest run, or None.
        logs: the folder that holds the runs.
        job: id of this batch job. If ``given`` is None and the job's newest run is not finished, that run is resumed.

    Raises:
        InputError: there is no such file or run, or its checkpoints cannot be read.
    """
    if given not in (None, "last"):
        path = Path(given).expanduser()
        if not path.is_file():
            raise InputError(f"--ckpt_path {given}: no such file; give the path of a .ckpt file, or `last`")
        begun = read_beginning(path)
        if isinstance(begun, str):
            raise InputError(f"--ckpt_path {given}: {begun}")
        return begun
    runs = sorted((folder for folder in logs.glob("version_*") if _last_write(folder)), key=_last_write)
    if given is None:
        runs = [
            folder for folder in runs if job is not None and last_start(folder / "run.json").get("slurm_job") == job
        ]
        if not runs or "finished" in last_start(runs[-1] / "run.json"):
            return Beginning()
    if not runs:
        raise InputError(f"--ckpt_path last: there is no run in {logs}; start without the flag")
    return _resume(runs[-1])


def _last_write(run: Path) -> float:
    """Time of the newest write to a run's record or last checkpoint, in seconds since 1970; 0 if it has neither."""
    files = (run / "run.json", run / "checkpoints" / "last.ckpt")
    return max((file.stat().st_mtime for file in files if file.exists()), default=0.0)


def _resume(run: Path) -> Beginning:
    """Begin at the last checkpoint of ``run``, at the best one if the last is damaged or missing.

    Without any checkpoint it begins at the first step, in the same folder.
    """
    folder: Path | None = run
    if "finished" in last_start(run / "run.json"):
        log.info(f"{run} is finished and stays as it is: this run gets a new folder")
        folder = None
    problems: list[str] = []
    for path in (run / "checkpoints" / "last.ckpt", run / "checkpoints" / "best.ckpt"):
        if not path.is_file():
            continue
        begun = read_beginning(path)
        if not isinstance(begun, str):
            if problems:
                log.warning(f"{problems[0]}; resuming from {path.name}, the best checkpoint of that run, instead")
            return replace(begun, folder=folder)
        problems.append(f"{path}: {begun}")
    if problems:
        raise InputError([f"--ckpt_path last: {problem}" for problem in problems])
    log.info(f"{run} was stopped before its first checkpoint: it starts again from the first step")
    return Beginning(None, run)


def read_beginning(path: Path) -> Beginning | str:
    """Read a `Beginning`, in a new folder, from a checkpoint; a string says why that is not possible.

    No code in the file is executed (``weights_only``).
    """
    if path.stat().st_size == 0:
        return "the file is empty, perhaps because the disk was full; choose another checkpoint"
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        reason = " ".join(str(error).split())[:150]
        return (
            "the file holds more than tensors and plain values, and loading it could run code; choose another "
            f"checkpoint ({reason})"
        )
    except Exception as error:  # a damaged file can raise anything in the zip and pickle readers
        reason = " ".join(str(error).split())[:150]
        return f"the file is damaged or not a checkpoint; choose another one ({type(error).__name__}: {reason})"
    missing = [key for key in ("state_dict", "loops", "global_step") if key not in checkpoint]
    if missing:
        return f"the file is not a checkpoint of a training run, it lacks {', '.join(missing)}; choose another one"
    epochs = checkpoint["loops"].get("fit_loop", {}).get("epoch_progress", {}).get("current", {})
    return Beginning(path, None, checkpoint["global_step"], epochs.get("processed", 0), checkpoint.get(CURVES, {}))


def _write(checkpoint: dict[str, Any], target: Path) -> None:
    write_file(target, lambda file: torch.save(checkpoint, file))
