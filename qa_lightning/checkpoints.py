"""Checkpoint files that are whole or not there: written beside the old one, made durable, then put in its place."""

from __future__ import annotations

import logging
import os
import pickle
import tempfile
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from qa_lightning.errors import InputError

log = logging.getLogger("qa_lightning")


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
            reason = " ".join(str(error).split())[:200]
            kept = "the one before stays" if target.exists() else "there is none before it"
            log.warning(
                f"checkpoint {target} could not be written, {kept} and training goes on; free some space or make the "
                f"folder writable ({type(error).__name__}: {reason})"
            )


def resolve_checkpoint(given: str | None, logs: Path) -> Path | None:
    """The checkpoint that ``--ckpt_path`` means; one that cannot be read is never taken.

    Args:
        given: a file, ``last`` for the newest run's last one (or, where that is damaged, its best one), or None.
        logs: the folder of runs.

    Raises:
        InputError: there is no such file, or none that can be read.
    """
    if given is None:
        return None
    if given != "last":
        path = Path(given).expanduser()
        if not path.is_file():
            raise InputError(f"--ckpt_path {given}: no such file; give the path of a .ckpt file, or `last`")
        if problem := load_problem(path):
            raise InputError(f"--ckpt_path {given}: {problem}")
        return path
    found = sorted(logs.glob("version_*/checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise InputError(f"--ckpt_path last: no run in {logs} has a checkpoints/last.ckpt; start without the flag")
    problems: list[str] = []
    for path in (found[-1], found[-1].with_name("best.ckpt")):
        if not path.is_file():
            continue
        problem = load_problem(path)
        if problem is None:
            if problems:
                log.warning(f"{problems[0]}; going on from {path.name}, the best one of that run, instead")
            return path
        problems.append(f"{path}: {problem}")
    raise InputError([f"--ckpt_path last: {problem}" for problem in problems])


def load_problem(path: Path) -> str | None:
    """Why a checkpoint file cannot be loaded, or None. Nothing that stands in it is executed (``weights_only``)."""
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
    return f"is no checkpoint of a training run: it lacks {', '.join(missing)}" if missing else None


def _write(checkpoint: dict[str, Any], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    for part in target.parent.glob(f".{target.name}.*.part"):  # of a run that was killed while it wrote
        part.unlink(missing_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o666 & ~_umask())
        Path(name).replace(target)
        _sync_folder(target.parent)
    finally:
        Path(name).unlink(missing_ok=True)


def _umask() -> int:
    """The permissions that new files lack here, which a temporary file does not follow."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    """Make a rename durable, where the system can."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
