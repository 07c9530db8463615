"""The folder of a cross-validation: with which flags it began, the runs of its folds, and what of them is done.

Below it, each fold has a folder of its own with a usual run, ``fold-1/lightning_logs/version_0``, and so has the final
model. The same command goes on with what is not finished.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from qa_lightning.data.division import ALL
from qa_lightning.errors import InputError, one_line
from qa_lightning.files import write_file, write_json
from qa_lightning.layout import FINAL_FLAGS, FOLD_ANSWERS, LOGS, STUDY, STUDY_FLAGS
from qa_lightning.runs.record import PastRun, find_runs

FINAL = "final"  # the folder of the run on all data
# Flags that change nothing in what is trained. The questions are told by their fingerprint, wherever their file lies.
_WITHOUT_EFFECT = (
    "config",
    "save_every_minutes",
    "data.dataset",
    "data.cache_dir",
    "data.prepare_workers",
    "trainer.default_root_dir",
    "trainer.enable_progress_bar",
)
_STOPPER = "qa_lightning.training.callbacks.StopAfter"


@dataclass(frozen=True)
class Study:
    """A cross-validation on disk.

    Args:
        folder: holds all of it.
        folds: number of folds.
    """

    folder: Path
    folds: int

    @property
    def names(self) -> list[str]:
        """The names of the folds' folders."""
        return [f"fold-{number}" for number in range(1, self.folds + 1)]

    def begin(self, fingerprint: str, flags: str) -> None:
        """Write down flags and data, or compare them with those of the study that is there.

        Args:
            fingerprint: of the questions.
            flags: of ``train``, as YAML.

        Raises:
            InputError: the study that is there has others, or cannot be read.
            OSError: nothing can be written.
        """
        now = {"folds": self.folds, "fingerprint": fingerprint}
        if (self.folder / STUDY).is_file():
            try:
                before = json.loads((self.folder / STUDY).read_text(encoding="utf-8"))
                given = yaml.safe_load((self.folder / STUDY_FLAGS).read_text(encoding="utf-8"))
            except (OSError, ValueError, yaml.YAMLError) as error:
                raise InputError(
                    f"--study {self.folder} cannot be read ({one_line(error)}); name another folder"
                ) from None
            if changed := [*_differences(before, now), *changed_flags(given, yaml.safe_load(flags))]:
                raise InputError(
                    f"--study {self.folder} was begun with other flags or data: {'; '.join(changed)}. Go on with those "
                    "that it was begun with, or name another folder"
                )
        write_file(self.folder / STUDY_FLAGS, flags)
        write_json(self.folder / STUDY, now)

    def newest(self, name: str) -> PastRun | None:
        """The last run of a fold, or of the final model; None before the first."""
        runs = find_runs(self.folder / name / LOGS)
        return runs[-1] if runs else None

    def is_done(self, name: str) -> bool:
        """Whether the run of a fold, or of the final model, is finished and left all that it was to."""
        run = self.newest(name)
        return run is not None and run.finished and (name == FINAL or (run.folder / FOLD_ANSWERS).is_file())

    def words(self, name: str) -> list[str]:
        """The flags of ``train`` for a fold, or for the final model; they resume a run that was stopped."""
        run, final = self.newest(name), name == FINAL
        fold = ALL if final else f"{1 + self.names.index(name)}/{self.folds}"
        words = ["--config", str(self.folder / (FINAL_FLAGS if final else STUDY_FLAGS)), "--data.fold", fold]
        words += ["--trainer.default_root_dir", str(self.folder / name), "--trainer.enable_progress_bar", "false"]
        if final:
            words += ["--trainer.limit_val_batches", "0"]
        return [*words, "--ckpt_path", "last"] if run is not None and not run.finished else words

    def write_final_flags(self, epochs: int | None) -> list[str]:
        """Write the flags of the final model: those of the folds, without what waits for a validation.

        Args:
            epochs: train so many, with the schedule of the folds; None for all.

        Returns:
            The callbacks and flags that are left out.
        """
        flags = yaml.safe_load((self.folder / STUDY_FLAGS).read_text(encoding="utf-8"))
        given = flags["trainer"].get("callbacks") or []
        callbacks = given if isinstance(given, list) else [given]
        kept = [one for one in callbacks if not str(_arguments(one).get("monitor", "")).startswith("val/")]
        if epochs is not None:
            kept.append({"class_path": _STOPPER, "init_args": {"epochs": epochs}})
        flags["trainer"]["callbacks"], flags["validate_first"] = kept, False
        without = ["--average_best"] if flags.get("average_best") else []
        flags["average_best"] = None  # best by a validation
        write_file(self.folder / FINAL_FLAGS, yaml.safe_dump(flags, sort_keys=False))
        return without + [str(one["class_path"]).rpartition(".")[2] for one in callbacks if one not in kept]


def _arguments(callback: Any) -> Mapping[str, Any]:
    found = callback.get("init_args") if isinstance(callback, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    if before.get("folds") != now["folds"]:
        yield f"--folds was {before.get('folds')}, is {now['folds']}"
    elif before.get("fingerprint") != now["fingerprint"]:
        yield "the questions are not those that it was begun with, or are read in another way"


def changed_flags(before: Any, now: Any, without_effect: Sequence[str] = _WITHOUT_EFFECT) -> Iterator[str]:
    """A line for each flag that is not what it was.

    Args:
        before, now: as YAML has them.
        without_effect: flags that may change.
    """
    old, new = dict(_flat(before)), dict(_flat(now))
    for name in dict.fromkeys([*new, *old]):
        if name not in without_effect and old.get(name) != new.get(name):
            yield f"--{name} was {_as_flag(old.get(name))}, is {_as_flag(new.get(name))}"


def _as_flag(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _flat(values: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items() if isinstance(values, Mapping) else ():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value
