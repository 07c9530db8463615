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
from qa_lightning.layout import FINAL_FLAGS, FLAGS, FOLD_ANSWERS, LOGS, STUDY, STUDY_FLAGS
from qa_lightning.runs.record import PastRun, newest_run
from qa_lightning.studies.flags import changed_flags, changed_inputs

FINAL = "final"  # the folder of the run on all data
# The fingerprint of the questions tells the first, wherever their file lies; the second, which is refused now, had no
# effect in the studies of older versions that have it.
_TOLD = ("data.dataset", "data.validation_fraction")
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

    def begin(
        self, fingerprint: str, held_out: Sequence[str], flags: str, teacher: str | None = None, usual: Any = None
    ) -> None:
        """Write down flags and data, or compare them with those of the study that is there.

        Args:
            fingerprint: of the questions.
            held_out: fingerprints of the questions of each fold.
            flags: of ``train``, as YAML.
            teacher: a digest of the teacher, if there is one.
            usual: see `changed_flags`.

        Raises:
            InputError: the study that is there has others, or cannot be read; or there are runs of an unknown one.
            OSError: nothing can be written.
        """
        now = {"folds": self.folds, "fingerprint": fingerprint, "held_out": list(held_out), "teacher": teacher}
        if not (self.folder / STUDY).is_file() and (found := [one for one in (*self.names, FINAL) if self.newest(one)]):
            raise InputError(
                f"--study {self.folder} holds runs ({', '.join(found)}) and no {STUDY}, which tells their flags and "
                "data; name another folder, or remove them"
            )
        if (self.folder / STUDY).is_file():
            try:
                before = json.loads((self.folder / STUDY).read_text(encoding="utf-8"))
                given = yaml.safe_load((self.folder / STUDY_FLAGS).read_text(encoding="utf-8"))
            except (OSError, ValueError, yaml.YAMLError) as error:
                raise InputError(
                    f"--study {self.folder} cannot be read ({one_line(error)}); name another folder"
                ) from None
            if not isinstance(before, dict) or "folds" not in before:
                raise InputError(f"--study {self.folder} is another study's, such as a search's; name another folder")
            if changed := [*_differences(before, now), *changed_flags(given, yaml.safe_load(flags), usual, but=_TOLD)]:
                raise InputError(
                    f"--study {self.folder} was begun with other flags or data: {'; '.join(changed)}. Go on with those "
                    "that it was begun with, or name another folder"
                )
        write_file(self.folder / STUDY_FLAGS, flags)
        write_json(self.folder / STUDY, now)

    def newest(self, name: str) -> PastRun | None:
        """The last run of a fold, or of the final model; None before the first."""
        return newest_run(self.folder / name / LOGS)

    @property
    def fingerprint(self) -> str:
        """That of the questions that it was begun with."""
        return str(self._begun["fingerprint"])

    @property
    def _begun(self) -> Mapping[str, Any]:
        begun: Mapping[str, Any] = json.loads((self.folder / STUDY).read_text(encoding="utf-8"))
        return begun

    def is_done(self, name: str) -> bool:
        """Whether the run of a fold, or of the final model, is finished, has its questions, and left what it was to."""
        run = self.newest(name)
        if run is None or not run.finished or _questions(run, name) != self._wanted_questions(name):
            return False
        return self._trained_as_long(run) if name == FINAL else (run.folder / FOLD_ANSWERS).is_file()

    def has_other_questions(self, name: str) -> bool:
        """Whether the last run of a fold, or of the final model, is known to have other questions than the study."""
        run = self.newest(name)
        return run is not None and _questions(run, name) not in (None, self._wanted_questions(name))

    def _wanted_questions(self, name: str) -> str:
        """The fingerprint of the questions that a fold validates on; of those that the final model is trained on."""
        return self.fingerprint if name == FINAL else str(self._begun["held_out"][self.names.index(name)])

    def _trained_as_long(self, run: PastRun) -> bool:
        """Whether a run of the final model ends at the epoch that is now in the flags of it."""
        files = (run.folder / FLAGS, self.folder / FINAL_FLAGS)
        try:
            had, has = (_last_epoch(yaml.safe_load(path.read_text(encoding="utf-8"))) for path in files)
        except (OSError, ValueError, LookupError, TypeError, yaml.YAMLError):
            return False
        return had == has

    def _goes_on(self, name: str) -> bool:
        """Whether a run was stopped that is to be resumed."""
        run = self.newest(name)
        if run is None or run.finished or self.has_other_questions(name):
            return False
        # one that was stopped before it wrote its flags begins anew, in its folder
        return name != FINAL or not (run.folder / FLAGS).is_file() or self._trained_as_long(run)

    def words(self, name: str) -> list[str]:
        """The flags of ``train`` for a fold, or for the final model; they resume a run that was stopped."""
        final = name == FINAL
        fold = ALL if final else f"{1 + self.names.index(name)}/{self.folds}"
        words = ["--config", str(self.folder / (FINAL_FLAGS if final else STUDY_FLAGS)), "--data.fold", fold]
        words += ["--trainer.default_root_dir", str(self.folder / name), "--trainer.enable_progress_bar", "false"]
        if final:
            words += ["--trainer.limit_val_batches", "0"]
        return [*words, "--ckpt_path", "last"] if self._goes_on(name) else words

    def write_final_flags(self, epochs: int | None) -> list[str]:
        """Write the flags of the final model: those of the folds, without what waits for a validation.

        Args:
            epochs: train so many, with the schedule of the folds; None for all.

        Returns:
            The callbacks and flags that are left out.
        """
        flags = yaml.safe_load((self.folder / STUDY_FLAGS).read_text(encoding="utf-8"))
        callbacks = _callbacks(flags)
        kept = [one for one in callbacks if not str(_arguments(one).get("monitor", "")).startswith("val/")]
        if epochs is not None:
            kept.append({"class_path": _STOPPER, "init_args": {"epochs": epochs}})
        flags["trainer"]["callbacks"], flags["validate_first"] = kept, False
        without = ["--average_best"] if flags.get("average_best") else []
        flags["average_best"], flags["keep_averaged"] = None, False  # best by a validation
        write_file(self.folder / FINAL_FLAGS, yaml.safe_dump(flags, sort_keys=False))
        return without + [str(one["class_path"]).rpartition(".")[2] for one in callbacks if one not in kept]


def _callbacks(flags: Mapping[str, Any]) -> list[Any]:
    given = flags["trainer"].get("callbacks") or []
    return given if isinstance(given, list) else [given]


def _last_epoch(flags: Mapping[str, Any]) -> int | None:
    """The epoch after which `StopAfter` ends a run; None if it trains all."""
    found = (_arguments(one).get("epochs") for one in _callbacks(flags) if one.get("class_path") == _STOPPER)
    return next(found, None)


def _questions(run: PastRun, name: str) -> str | None:
    """The fingerprint of the questions that a run validated on, or was trained on as the final model; None if unknown.

    Of the last start that recorded it: one that only wrote the model has the data of that before.
    """
    split = "train" if name == FINAL else "validation"
    for start in reversed(run.starts):
        try:
            return str(start["data"][split]["fingerprint"])
        except (LookupError, TypeError):
            continue
    return None


def _arguments(callback: Any) -> Mapping[str, Any]:
    found = callback.get("init_args") if isinstance(callback, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    if before.get("folds") != now["folds"]:
        yield f"--folds was {before.get('folds')}, is {now['folds']}"
        before = {**before, "fingerprint": now["fingerprint"]}  # others, with other folds
    yield from changed_inputs(before, now)
