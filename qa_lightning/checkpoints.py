"""Checkpoint files that are whole or not there: written beside the old one, made durable, then put in its place."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

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
