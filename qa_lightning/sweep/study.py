"""The study of a search: Optuna's, in a journal file that all processes share, on all machines that see its folder.

A journal is a file that is only appended to, under a lock that network file systems have, too; SQLite's locks are not
safe there. A trial belongs to the process that locked its folder. If that process is gone, the next one that looks for
work takes the trial over and goes on with it.

Limits: where file systems have no ``flock`` between machines, a process of another machine counts as gone once it has
not touched its mark for `SILENT` seconds, by the clock of the file system.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qa_lightning.errors import InputError, import_extra, one_line
from qa_lightning.files import hold_folder, lives, lock_file, untouched, write_json
from qa_lightning.layout import LOGS, SWEEP_TRIALS
from qa_lightning.runs.record import PastRun, newest_run
from qa_lightning.sweep.space import Choices, Range, Space

SILENT = 60.0  # seconds without a sign of life after which a process on another machine counts as gone
_NAME = "sweep"  # of the study in the journal
_OWNER = "owner.json"  # in a trial's folder while a process works on it


def load_optuna() -> Any:
    """The package optuna.

    Raises:
        InputError: it is not installed.
    """
    optuna = import_extra("optuna", "sweep", "sweep")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def pruner_of(name: str) -> Any:
    """Optuna's pruner for the word after ``--pruner``."""
    pruners = load_optuna().pruners
    if name == "median":
        return pruners.MedianPruner()
    if name == "halving":
        return pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)
    return pruners.NopPruner()


@dataclass
class Claim:
    """A trial's folder that this process has for itself.

    Args:
        folder: of the trial.
        handle: of its lock; None where the file system has none, and once it is released.
    """

    folder: Path
    handle: int | None

    def beat(self) -> None:
        """Show that this process lives."""
        with suppress(OSError):
            os.utime(self.folder / _OWNER)

    def release(self) -> None:
        """Let others have it."""
        with suppress(OSError):
            (self.folder / _OWNER).unlink(missing_ok=True)
        if self.handle is not None:
            os.close(self.handle)
            self.handle = None


def claim(folder: Path) -> Claim | None:
    """Take a trial's folder, which is made if it is missing; None if another process works on it.

    Call it while no other process can: see `Trials.next`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        handle = hold_folder(folder)
    except BlockingIOError:
        return None
    if _is_owned(folder, handle is not None):
        if handle is not None:
            os.close(handle)
        return None
    write_json(folder / _OWNER, {"host": socket.gethostname(), "process": os.getpid()})
    return Claim(folder, handle)


def _is_owned(folder: Path, locked: bool) -> bool:
    """Whether the process that last claimed a folder may still work on it.

    Args:
        folder: of the trial.
        locked: whether this process has the lock, so that no other process of this machine has.
    """
    try:
        owner = json.loads((folder / _OWNER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    if owner.get("host") == socket.gethostname():
        alive = not locked and isinstance(owner.get("process"), int) and lives(owner["process"])
        if alive is not None:
            return alive
    with suppress(FileNotFoundError):
        return untouched(folder / _OWNER) < SILENT
    return False  # it has just been given back


@dataclass(frozen=True)
class Trial:
    """A trial that this process works on.

    Args:
        number: Optuna's, from 0.
        values: flag -> value.
        claim: on its folder.
    """

    number: int
    values: Mapping[str, Any]
    claim: Claim

    @property
    def name(self) -> str:
        """Of its folder, and before its lines."""
        return self.claim.folder.name

    @property
    def run(self) -> PastRun | None:
        """Its run, the newest if there are several; None before it began."""
        return newest_run(self.claim.folder / LOGS)


class Trials:
    """The trials of a search, which processes share.

    Args:
        folder: of the study; it is there.
        pruner: one of `sweep.PRUNERS`.
        seed: of the sampler; each trial is sampled with a seed of its own that this one decides, so that the search
            goes on as it would have after a stop, and two processes do not sample the same.

    Raises:
        InputError: optuna is not installed, or the journal cannot be read.
        OSError: it cannot be written.
    """

    def __init__(self, folder: Path, pruner: str = "none", seed: int = 0) -> None:
        self._optuna, self._folder, self._seed = load_optuna(), folder, seed
        journal = self._optuna.storages.journal
        path = str((folder / SWEEP_TRIALS).resolve())
        lock = journal.JournalFileOpenLock(path)
        backend = journal.JournalFileBackend(path, lock)
        lock.acquire()
        try:
            _mend(Path(path))
        finally:
            lock.release()
        try:
            self.storage = self._optuna.storages.JournalStorage(backend)
            self._study = self._optuna.create_study(
                study_name=_NAME,
                storage=self.storage,
                pruner=pruner_of(pruner),
                direction="maximize",
                load_if_exists=True,
            )
        except (ValueError, KeyError) as error:
            raise InputError(f"{path} cannot be read ({one_line(error)}); name another folder with --study") from None

    @property
    def all(self) -> list[Any]:
        """Optuna's ``FrozenTrial`` of each trial, in the order of their numbers."""
        return list(self._study.get_trials(deepcopy=False))

    def next(self, space: Space, wanted: int, own: set[int]) -> Trial | None:
        """Take over a trial whose process is gone, or begin a new one.

        Args:
            space: that is searched.
            wanted: number of trials of the whole study.
            own: numbers of the trials that this process works on.

        Returns:
            None if there is nothing to begin.
        """
        with self._alone():
            trials = self.all
            for frozen in trials:
                if not frozen.state.is_finished() and frozen.number not in own:
                    taken = self._take_over(frozen.number, space)
                    if taken is not None:
                        return taken
            if len(trials) >= wanted:
                return None
            number = len(trials)
            seed = int(np.random.SeedSequence(self._seed).generate_state(number + 1)[-1])
            self._study.sampler = self._optuna.samplers.TPESampler(seed=seed)
            asked = self._study.ask({name: self._distribution(values) for name, values in space.items()})
            claimed = claim(self.folder_of(asked.number))
            assert claimed is not None
            return Trial(asked.number, used(asked.params, asked.distributions), claimed)

    def _take_over(self, number: int, space: Space) -> Trial | None:
        """A trial whose process is gone; None if it is not, or if the trial cannot or need not be gone on with."""
        claimed = claim(self.folder_of(number))
        if claimed is None:
            return None
        frozen = self.storage.get_trial(self._id(number))  # only now: its process may just have finished it
        if not frozen.state.is_finished():
            if set(frozen.params) == set(space):
                return Trial(number, used(frozen.params, frozen.distributions), claimed)
            # its process was killed while it was sampled
            self._study.tell(number, state=self._optuna.trial.TrialState.FAIL)
        claimed.release()
        return None

    def folder_of(self, number: int) -> Path:
        """The folder of a trial."""
        return self._folder / f"trial-{number}"

    @property
    def unfinished(self) -> bool:
        """Whether some process works on a trial, or was killed while it did."""
        return any(not frozen.state.is_finished() for frozen in self.all)

    def complete(self, trial: Trial, score: float) -> None:
        """Note the score of a trial that came to its end."""
        self._study.tell(trial.number, score)
        trial.claim.release()

    def pruned(self, trial: Trial) -> None:
        """Note that a trial was pruned."""
        self._study.tell(trial.number, state=self._optuna.trial.TrialState.PRUNED)
        trial.claim.release()

    def failed(self, trial: Trial, reason: str) -> None:
        """Note why a trial failed; it is not tried again."""
        self.storage.set_trial_user_attr(self._id(trial.number), "failed", reason)
        self._study.tell(trial.number, state=self._optuna.trial.TrialState.FAIL)
        trial.claim.release()

    def prunes(self, number: int, step: int, score: float) -> tuple[int, bool]:
        """Note the score of a validation; returns its number, from 1, and whether the trial is to be pruned.

        Args:
            number: of the trial.
            step: optimizer steps so far. A validation that is repeated after a stop is no further one.
            score: to be maximized.
        """
        trial = self._id(number)
        steps = list(self.storage.get_trial(trial).user_attrs.get("validated_at", []))
        if step not in steps:
            steps.append(step)
            self.storage.set_trial_user_attr(trial, "validated_at", steps)
        validation = steps.index(step) + 1
        self.storage.set_trial_intermediate_value(trial, validation, score)
        frozen = self.storage.get_trial(trial)
        return validation, bool(self._study.pruner.prune(self._study, frozen))

    def _id(self, number: int) -> int:
        study = self.storage.get_study_id_from_name(_NAME)
        return int(self.storage.get_trial_id_from_study_id_trial_number(study, number))

    def _distribution(self, values: Range | Choices) -> Any:
        kinds = self._optuna.distributions
        if isinstance(values, Choices):
            alike = len(set(values.values)) < len(values.values)  # Optuna would note 1 for 1.0, but not "1" for "1.0"
            words = [one if isinstance(one, str) else json.dumps(one) for one in values.values]
            return kinds.CategoricalDistribution(tuple(words) if alike else values.values)
        if isinstance(values.low, int) and isinstance(values.high, int):
            return kinds.IntDistribution(values.low, values.high, values.log, int(values.step or 1))
        return kinds.FloatDistribution(values.low, values.high, values.log, values.step)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """While no other process looks for a trial."""
        with lock_file(self._folder / ".sweep.lock"):
            yield


def used(params: Mapping[str, Any], distributions: Mapping[str, Any]) -> dict[str, Any]:
    """The values that a trial trains with: those of lists as they are, others with four digits, which people can read.

    Args:
        params: name -> value that was sampled.
        distributions: name -> Optuna's distribution that it is from.
    """
    return {name: _short(value, distributions[name]) for name, value in params.items()}


def _short(value: Any, distribution: Any) -> Any:
    if not isinstance(value, float) or not hasattr(distribution, "high"):
        return value
    return min(max(float(f"{value:.4g}"), distribution.low), distribution.high)


def _mend(path: Path) -> None:
    """Cut off a last line that a power failure or a full disk left without its end: Optuna would read no further."""
    with path.open("rb+") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            file.truncate(whole)
