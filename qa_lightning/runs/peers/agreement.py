"""What the hosts of a run agree on before they train: flags, versions, model, data, and who has the run's folder."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.strategies import Strategy

from qa_lightning.checks.hosts import described_data, described_flags, described_model
from qa_lightning.files import file_mark
from qa_lightning.layout import RECORD
from qa_lightning.runs.peers.processes import Peers
from qa_lightning.runs.record import package_versions

log = logging.getLogger("qa_lightning")


def compare_settings(peers: Peers, flags: Mapping[str, Any], model: Mapping[str, Any]) -> None:
    """Refuse to go on where hosts differ in flags, versions or the model's settings.

    Args:
        peers: all processes of the run; each calls this.
        flags: full name -> value.
        model: the model's ``config.json``.

    Raises:
        InputError: something differs.
    """
    versions = package_versions() | {"python": ".".join(map(str, sys.version_info[:2]))}
    peers.compare(
        "settings",
        {
            "start all hosts with the same flags": described_flags(flags),
            "install the same versions on all hosts": versions,
            "give all hosts the same --model.model_name": described_model(model),
        },
    )


def compare_data(peers: Peers, splits: Mapping[str, Mapping[str, Any]] | None, teacher: str | None = None) -> None:
    """Refuse to go on where hosts have prepared other data, or have another teacher.

    Args:
        peers: all processes of the run; each calls this.
        splits: see `SquadDataModule.describe`; None for a process that leaves that to another one of its host.
        teacher: a key of the teacher's logits; None without a teacher.

    Raises:
        InputError: the data differ.
    """
    described = None
    if splits is not None:
        described = {"give all hosts the same data": described_data(splits)}
        if teacher is not None:
            described["give all hosts the same teacher"] = {"the teacher's logits": f"fingerprint {teacher[:8]}"}
    peers.compare("data", described)


def find_folder(peers: Peers, trainer: Trainer, folder: Path, checkpoint: Path | None) -> str | None:
    """Find out whether all hosts see the run's folder, and say it; those that do not are sent checkpoints from now on.

    Args:
        peers: all processes of the run; each calls this.
        trainer: of the run.
        folder: the run's, which holds its record.
        checkpoint: the file to resume from.

    Returns:
        The host that has the folder, where this one does not see it.

    Raises:
        InputError: the folder is not shared, and the strategy needs that.
    """
    files = [file_mark(path) for path in (folder / RECORD, checkpoint) if path is not None]
    seen = peers.gather("files", files)
    without = sorted({peers.hosts[rank] for rank in range(peers.world_size) if seen[rank] != seen[0]})
    first, names, logs = peers.hosts[0], ", ".join(without), folder.parent
    if not without:
        if trainer.is_global_zero and len(set(peers.hosts.values())) > 1:
            log.info(f"all hosts share {logs}")
        return None
    strategy: Any = trainer.strategy
    if type(strategy).load_checkpoint is not Strategy.load_checkpoint:
        problem = f"{logs} on {names} is not that on {first}, and this --trainer.strategy needs it on all hosts: let "
        raise peers.common([f"{problem}--trainer.default_root_dir name a folder that they share"])
    strategy.checkpoint_io.sends = True
    if trainer.is_global_zero:
        log.info(
            f"{logs} is not shared: checkpoints, records and the model are only on {first}, which sends {names} what "
            f"it needs; to resume, start with {first} as the first host, or copy the folder"
        )
    return first if seen[peers.rank] != seen[0] else None
