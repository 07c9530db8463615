"""Flags of ``train`` in a study: which make no sense there, and which have changed, with the data, since it began."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from qa_lightning.files import explained_writes
from qa_lightning.runs.peers.connection import launched_by
from qa_lightning.training.flags import ParsedFlags, choose_precision

_PRECISION = "precision"
# What a flag does not change about the runs of a study.
_WITHOUT_EFFECT = (
    *("config", "save_every_minutes", "data.cache_dir", "data.prepare_workers"),
    *("trainer.default_root_dir", "trainer.enable_progress_bar"),
)


def take_precision(trainer: Any, begun: Path) -> None:
    """Set the Trainer's flag of the precision, if it is open: to that which a study began with, on whatever machine.

    Args:
        trainer: the flags of the Trainer.
        begun: the file of the study's flags. If there is none, the study begins here, with the usual one; so do the
            runs of a study of old, whose file leaves it open.
    """
    if trainer.precision is None:
        with suppress(OSError, ValueError, LookupError, TypeError, yaml.YAMLError):
            trainer.precision = yaml.safe_load(begun.read_text(encoding="utf-8"))["trainer"][_PRECISION]
    choose_precision(trainer)


def refused_flags(config: Any, kind: str, others: Mapping[str, tuple[Any, Any, str]]) -> list[str]:
    """A line for each flag of ``train`` that makes no sense in a study.

    Args:
        config: flag -> value.
        kind: what the study is called, such as ``a search``.
        others: flag of this kind of study -> its value, the value that is none, and why it makes no sense.
    """
    given = {
        "--ckpt_path": (config.ckpt_path, None, "a study that was stopped goes on by itself, with the same --study"),
        "--trainer.default_root_dir": (config.trainer.default_root_dir, None, "--study names the folder"),
        **others,
    }
    problems = [
        f"{flag} {value}: not in {kind}, where {why}; leave it out"
        for flag, (value, usual, why) in given.items()
        if value is not None and (value != usual or type(value) is not type(usual))  # 1 batch is not 1.0, all of them
    ]
    if _is_one_of_several():
        problems.append(f"{kind} starts its own processes: start it once, without torchrun or srun")
    return problems


def _is_one_of_several() -> bool:
    """Whether torchrun or srun started this process, and others like it."""
    try:
        launcher = launched_by()
    except RuntimeError:  # Lightning refuses `srun --ntasks`
        return True
    return launcher is not None and launcher.world_size() > 1


def usual_flags(flags: ParsedFlags) -> Any:
    """What each flag of ``train`` is where it is not given, as YAML has it."""
    return yaml.safe_load(flags.parser.dump(flags.parser.get_defaults(), skip_none=False))


def changed_flags(before: Any, now: Any, usual: Any = None, *, but: Sequence[str] = ()) -> Iterator[str]:
    """A line for each flag that is not what it was; those that change nothing about the runs may change.

    Args:
        before, now: as YAML has them.
        usual: `usual_flags`, for those that the version which began the study did not have.
        but: further flags that may change.
    """
    old, new = dict(_flat(before)), dict(_flat(now))
    old |= {name: value for name, value in _flat(usual) if name in new and name not in old}
    for name in dict.fromkeys([*new, *old]):
        if name == f"trainer.{_PRECISION}" and old.get(name) is None:
            continue  # of a study of old: see `take_precision`
        if name not in (*_WITHOUT_EFFECT, *but) and old.get(name) != new.get(name):
            yield f"--{name} was {_as_flag(old.get(name))}, is {_as_flag(new.get(name))}"


def changed_inputs(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """A line for the questions, and for a teacher, if they are not those that a study was begun with.

    Args:
        before, now: ``fingerprint`` of the questions, and ``teacher``, a digest of its weights.
    """
    if before.get("fingerprint") not in (None, now["fingerprint"]):  # older studies lack one
        yield "the questions are not those that it was begun with, or are read in another way"
    if before.get("teacher", now["teacher"]) != now["teacher"]:
        yield "the teacher's weights are not those that it was begun with"


def _as_flag(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _flat(values: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items() if isinstance(values, Mapping) else ():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def study_writes(folder: Path) -> AbstractContextManager[None]:
    """Within, a system error means that the study's folder cannot be written; see `explained_writes`."""
    return explained_writes(f"--study {folder}", "free some space or make it writable, or name another folder")
