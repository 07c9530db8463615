"""Finds what differs between the hosts of one run that must be equal: flags, versions, the model, the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qa_lightning.wording import counted

# Flags that may differ: folders, which hosts have where they like, and what is compared by its content.
OWN_FLAGS = frozenset(
    {
        "ckpt_path",  # the first process finds the checkpoint, for all
        "config",
        "data.cache_dir",
        "data.dataset",
        "data.model_name",
        "data.num_workers",
        "data.prepare_workers",
        "data.validation",
        "model.model_name",
        "model.teacher",
        "trainer.default_root_dir",
        "trainer.enable_progress_bar",
        "trainer.logger",
    }
)
_NAMED = 4  # hosts, at most, that a message names


def described_flags(flags: Mapping[str, Any]) -> dict[str, str]:
    """Flag -> value in words, of those that must be equal.

    Args:
        flags: full name -> value.
    """
    return {f"--{name}": str(value) for name, value in flags.items() if name not in OWN_FLAGS}


def described_model(config: Mapping[str, Any]) -> dict[str, str]:
    """Setting -> value in words, of the model's ``config.json``, without where it comes from and who wrote it."""
    own = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")
    return {f"{name} in the model's config.json": str(value) for name, value in config.items() if name not in own}


def described_data(splits: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Split -> its size and fingerprint in words.

    Args:
        splits: see `SquadDataModule.describe`.
    """
    return {
        f"the {'training' if split == 'train' else split} data": (
            f"{counted(data['questions'], 'question')} in {counted(data['windows'], 'window')} "
            f"(fingerprint {data['features'][:8]})"
        )
        for split, data in splits.items()
    }


def host_differences(hosts: Sequence[str], described: Sequence[Mapping[str, str] | None], fix: str) -> list[str]:
    """A line for each thing that is not equal on all processes.

    Args:
        hosts: the host of each process.
        described: name -> value in words, of each process; None for one that does not tell.
        fix: ends each line.
    """
    told = [(rank, values) for rank, values in enumerate(described) if values is not None]
    names = dict.fromkeys(name for _, values in told for name in values)
    problems = []
    for name in names:
        found: dict[str, list[int]] = {}
        for rank, values in told:
            found.setdefault(values.get(name, "missing"), []).append(rank)
        if len(found) > 1:
            each = ", ".join(
                f"{value:.80} on {where}" for value, where in zip(found, _where(hosts, found), strict=True)
            )
            problems.append(f"{name}: {each}; {fix}")
    return problems


def _where(hosts: Sequence[str], found: Mapping[str, Sequence[int]]) -> list[str]:
    """The hosts that have each value, in words; its processes, if some host has several values."""
    groups = [list(dict.fromkeys(hosts[rank] for rank in ranks)) for ranks in found.values()]
    if sum(map(len, groups)) > len({host for group in groups for host in group}):
        groups = [[f"process {rank} ({hosts[rank]})" for rank in ranks] for ranks in found.values()]
    return [
        ", ".join(group[:_NAMED]) + (f" and {len(group) - _NAMED} more" if len(group) > _NAMED else "")
        for group in groups
    ]
