"""Runs a search: begins trials as processes of ``train``, some at a time, notes how each ended, and shows them all."""

from __future__ import annotations

import json
import logging
import math
import shlex
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import yaml  # type: ignore[import-untyped]

from qa_lightning.data.division import ALL
from qa_lightning.distillation.teacher import teacher_digest
from qa_lightning.errors import InputError, one_line
from qa_lightning.files import lock_file, write_file, write_json
from qa_lightning.layout import LOGS, MODEL_FOLDER, STUDY, STUDY_FLAGS, SWEEP_RESULT, SWEEP_TRIALS
from qa_lightning.pages.runs import RunTable
from qa_lightning.runs.listing import read_runs, runs_of, sorted_runs
from qa_lightning.studies.flags import (
    changed_flags,
    changed_inputs,
    refused_flags,
    study_writes,
    take_precision,
    usual_flags,
)
from qa_lightning.studies.processes import StartedJob, TrainJob, slots_for
from qa_lightning.sweep.space import Choices, Space, flag_words, length_misfits, read_space, roomiest, space_misfits
from qa_lightning.sweep.study import Trial, Trials, used
from qa_lightning.sweep.trial import environment_of
from qa_lightning.training.datamodule import SquadDataModule
from qa_lightning.training.flags import ParsedFlags
from qa_lightning.wording import command, command_words, counted, relative, visible

log = logging.getLogger("qa_lightning")

HOPELESS = 3  # trials of this process that failed first; its others would fail, too
# Flags that do not change how data are prepared.
_BATCHES = tuple(
    f"data.{name}" for name in ("batch_size", "eval_batch_size", "batching", "tokens_per_batch", "keep_no_answer")
)
_OF_THIS_START = ("save_every_minutes", "data.cache_dir", "data.prepare_workers")  # may differ from the first start's
_LOOK_AGAIN = 5.0  # seconds between two looks for a trial whose process is gone, while others' trials run


@dataclass
class Sweep:
    """A search with the flags of ``train``, by this process; others may work on the same folder.

    Args:
        flags: parsed, of all trials.
        given: the same as words, for the command that trains the best trial again.
        space_file: what varies.
        trials: number of trials of the study, of all processes and starts together.
        folder: the study's; made if it is missing.
        pruner: one of `sweep.PRUNERS`.
        parallel: trials that this process runs at a time.
        usual_space: ``space_file`` is the one that comes with the package.

    Raises:
        InputError: flags or space make no sense, or cannot work; all problems together.
    """

    flags: ParsedFlags
    given: Sequence[str]
    space_file: Path
    trials: int
    folder: Path
    pruner: str = "median"
    parallel: int = 1
    usual_space: bool = False
    _began: dict[int, int] = field(default_factory=dict)  # number of a trial -> scores that it had then
    _failed: dict[str, str] = field(default_factory=dict)  # name -> why

    def __post_init__(self) -> None:
        problems = [*_refusals(self.flags.config), *self.flags.problems()]
        take_precision(self.flags.config.trainer, self.folder / STUDY_FLAGS)
        try:
            self.space: Space = read_space(self.space_file, self.flags)
        except InputError as error:
            problems += error.problems
        else:
            # nobody is to change a file of the package
            fix = "pass --space FILE without it" if self.usual_space else f"take it out of {self.space_file}"
            problems += [
                f"--{name}: the search gives it its values; leave it out, or {fix}"
                for name in self.space
                if any(word == f"--{name}" or word.startswith(f"--{name}=") for word in self.given)
            ]
        if problems := problems or self.flags.misfits() or space_misfits(self.space_file, self.space, self.flags):
            raise InputError(problems)

    def run(self) -> None:
        """Run the trials that are left, and show and write the results of all.

        Raises:
            InputError: the folder belongs to another study, or cannot be written; or all trials failed.
        """
        slots = slots_for(self.parallel, self.flags.config.trainer)
        space = {"space": {name: _described(values) for name, values in self.space.items()}, "pruner": self.pruner}
        self._compare(space)  # before data are prepared with other flags
        now = space | self._prepare()
        with study_writes(self.folder):
            self._begin(now)
            self._study = Trials(self.folder, self.pruner, int(self.flags.config.seed_everything))
        self._run(slots)
        self._tell()
        if self._is_hopeless() and (len(self._study.all) < self.trials or self._study.unfinished):
            failed = [f"{name}: failed: {reason}" for name, reason in self._failed.items()]
            raise InputError(
                [
                    f"--study {self.folder}: the first {len(failed)} trials that this process ran failed, so that it "
                    "begins no others; mend what made them fail, and start it again:",
                    *failed,
                ]
            )

    def _prepare(self) -> dict[str, Any]:
        """Prepare the data, so that what is wrong with it is one error before any trial, if all trials have the same.

        Returns:
            What tells the questions and the teacher; see `changed_inputs`.

        Raises:
            InputError: the data are bad, or do not go together with the lengths of windows.
        """
        given = self.flags.config.data.as_dict()
        columns = given.pop("columns")
        searched = roomiest(self.space)
        try:
            data = SquadDataModule(**given | searched, columns=columns)
        except InputError as error:
            where = f"with the roomiest lengths of --space {self.space_file}: " if searched else ""
            raise InputError([where + problem for problem in error.problems]) from None
        if problems := length_misfits(self.space_file, self.space, data):
            raise InputError(problems)
        if not any(name.startswith("data.") and name not in _BATCHES for name in self.space):
            data.prepare_data()
        fingerprint = [data.fingerprint("train"), data.fingerprint("validation")]
        return {"fingerprint": fingerprint, "teacher": teacher_digest(self.flags.config.model.teacher)}

    def _begin(self, now: Mapping[str, Any]) -> None:
        """Write down flags, space and what tells the data, or compare them with those of the study that is there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with lock_file(self.folder / ".sweep.lock"):
            if not (self.folder / STUDY).is_file():
                self._refuse_runs(STUDY)
                write_file(self.folder / STUDY_FLAGS, self.flags.as_yaml())
                write_json(self.folder / STUDY, now)
                return
            if not (self.folder / SWEEP_TRIALS).is_file():
                self._refuse_runs(SWEEP_TRIALS)
        self._compare(now)

    def _refuse_runs(self, missing: str) -> None:
        """Refuse a folder with trials of which it is not known what they were trained with."""
        if found := sorted(logs.parent.name for logs in self.folder.glob(f"trial-*/{LOGS}")):
            raise InputError(
                f"--study {self.folder} holds runs ({', '.join(found)}) and no {missing}, which tells their values; "
                "name another folder, or remove them"
            )

    def _compare(self, now: Mapping[str, Any]) -> None:
        """Refuse a folder whose study has other flags, another space, or, where they are known, other data."""
        if not (self.folder / STUDY).is_file():
            return
        try:
            before = json.loads((self.folder / STUDY).read_text(encoding="utf-8"))
            given = yaml.safe_load((self.folder / STUDY_FLAGS).read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise InputError(f"--study {self.folder} cannot be read ({one_line(error)}); name another") from None
        if not isinstance(before, dict) or "space" not in before:
            raise InputError(f"--study {self.folder} is no search's, but another study's; name another folder")
        changed = list(changed_flags(given, yaml.safe_load(self.flags.as_yaml()), usual_flags(self.flags)))
        if before["space"] != json.loads(json.dumps(now["space"])):
            names = f"{', '.join(before['space'])}" if isinstance(before["space"], dict) else "others"
            changed.insert(0, f"--space {self.space_file} is another space; that of the study has values of {names}")
        if before.get("pruner", self.pruner) != self.pruner:
            changed.insert(0, f"--pruner was {before['pruner']}, is {self.pruner}")
        if "fingerprint" in now:
            changed += changed_inputs(before, now)
        if changed:
            raise InputError(
                f"--study {self.folder} was begun with other flags or data: {'; '.join(changed)}. Go on with those "
                "that it was begun with, or name another folder"
            )

    def _run(self, slots: Sequence[dict[str, str]]) -> None:
        free, running = list(range(len(slots)))[::-1], dict[StartedJob, Trial]()
        ended: SimpleQueue[StartedJob] = SimpleQueue()
        try:
            while True:
                while free and (trial := self._next(running)) is not None:
                    slot = free.pop()
                    environment = slots[slot] | environment_of(self.folder, trial.number, self.pruner)
                    running[StartedJob(self._job(trial), slot, environment, ended)] = trial
                if not running and (self._is_hopeless() or not self._study.unfinished):
                    return
                self._wait(free, running, ended)
        finally:
            for one in running:
                one.stop()
            for one, trial in running.items():
                one.wait()
                trial.claim.release()  # it stays unfinished, and whoever looks next for a trial goes on with it

    def _wait(self, free: list[int], running: dict[StartedJob, Trial], ended: SimpleQueue[StartedJob]) -> None:
        """Wait for the end of a trial, or until it is time to look for one whose process is gone."""
        until = time.monotonic() + (_LOOK_AGAIN if free else math.inf)
        beat = 0.0
        while time.monotonic() < until:
            if time.monotonic() - beat > _LOOK_AGAIN:
                beat = time.monotonic()
                for trial in running.values():
                    trial.claim.beat()
            with suppress(Empty):
                one = ended.get(timeout=0.5)  # so that signals are handled meanwhile
                with study_writes(self.folder):
                    self._settle(running[one], _reason(one.wait(), one.error))
                del running[one]
                free.append(one.slot)
                return

    def _next(self, running: dict[StartedJob, Trial]) -> Trial | None:
        """The next trial to start; those that only had to be noted are noted."""
        while not self._is_hopeless():
            with study_writes(self.folder):
                trial = self._study.next(self.space, self.trials, {one.number for one in running.values()})
            if trial is None:
                return None
            run = trial.run
            if run is None or not (run.finished or run.pruned):
                self._began[trial.number] = self._scores_of(trial.number)
                again = "goes on" if run is not None else ", ".join(word[2:] for word in flag_words(trial.values))
                log.info(f"{trial.name}: {again}")
                return trial
            with study_writes(self.folder):
                self._settle(trial, "")
        return None

    def _is_hopeless(self) -> bool:
        """Whether trials fail here from the first one on. Those of others say nothing: what is broken may be here."""
        if len(self._failed) < HOPELESS:
            return False
        return all(self._scores_of(number) <= before for number, before in self._began.items())

    def _scores_of(self, number: int) -> int:
        """How many scores a trial has so far, of its validations and of its end."""
        frozen = self._study.all[number]
        return len(frozen.intermediate_values) + (frozen.value is not None)

    def _job(self, trial: Trial) -> TrainJob:
        own = {name: value for name in _OF_THIS_START if (value := self.flags.config[name]) is not None}
        words = ["--config", str(self.folder / STUDY_FLAGS), *flag_words(own), *flag_words(trial.values)]
        words += ["--trainer.default_root_dir", str(trial.claim.folder), "--trainer.enable_progress_bar", "false"]
        return TrainJob(trial.name, [*words, "--ckpt_path", "last"] if trial.run is not None else words)

    def _settle(self, trial: Trial, reason: str) -> None:
        """Note how a trial ended.

        Args:
            trial: whose process has ended.
            reason: why it failed, if it did.
        """
        run = trial.run
        if run is not None and run.pruned:
            self._study.pruned(trial)
            log.info(f"{trial.name}: pruned")
            return
        scores = run.starts[-1].get("scores", {}) if run is not None and run.finished else {}
        score = scores.get("best/best_f1", scores.get("best/f1"))
        if isinstance(score, (int, float)) and math.isfinite(score):
            self._study.complete(trial, float(score))
            log.info(f"{trial.name}: F1 {score:.2f}")
            return
        self._failed[trial.name] = reason or "it left no score"
        self._study.failed(trial, self._failed[trial.name])
        log.info(f"{trial.name}: failed: {self._failed[trial.name]}")

    def _tell(self) -> None:
        """Show the table and the best trial, and write all into a file.

        Raises:
            InputError: no trial came to its end.
        """
        found = [self._as_json(frozen) for frozen in self._study.all]
        runs, _ = read_runs(run for run in runs_of(self.folder) if run.parent.parent.name in _shown(found))
        if runs:
            from rich.console import Console

            console = Console()
            console.print(*RunTable(sorted_runs(runs, "f1")).rich_tables(console.width))
        failed = [f"{one['trial']}: failed: {one['failed']}" for one in found if one["state"] == "failed"]
        complete = [one for one in found if one["state"] == "complete"]
        self._write({"trials": found, "best": None})
        if not complete:
            raise InputError([f"no trial of {relative(self.folder)} came to its end:", *failed])
        for line in failed:
            print(visible(line))
        best = max(complete, key=lambda one: one["score"])  # the first of equals
        words = [*command_words("train"), *self.given, *flag_words(best["values"])]
        self._write({"trials": found, "best": best | {"command": words}})
        many = [counted(sum(one["state"] == state for one in found), "trial") for state in ("complete", "pruned")]
        log.info(f"sweep:       {many[0]} complete, {many[1]} pruned, {len(failed)} failed")
        where = f"its model: {relative(self.folder / best['model'])}" if best["model"] else "its folder was removed"
        log.info(f"best trial:  {best['trial']}, F1 {best['score']:.2f}; {where}")
        log.info(visible(f"train again: {shlex.join(words)}"))
        log.info(visible(f"compare:     {command('compare')} {relative(self.folder)}"))

    def _write(self, result: dict[str, Any]) -> None:
        with study_writes(self.folder):
            write_json(self.folder / SWEEP_RESULT, result)

    def _as_json(self, frozen: Any) -> dict[str, Any]:
        """A trial, for people and other tools."""
        folder = self._study.folder_of(frozen.number)
        state = {"FAIL": "failed"}.get(frozen.state.name, frozen.state.name.lower())
        values = used(frozen.params, frozen.distributions)
        found = {"trial": folder.name, "state": state, "values": values, "score": frozen.value}
        found["f1_after_each_validation"] = [score for _, score in sorted(frozen.intermediate_values.items())]
        if state == "failed":
            found["failed"] = frozen.user_attrs.get("failed", "its process was killed before it began")
        if state == "complete":
            runs = [run for run in runs_of(self.folder) if run.parent.parent.name == folder.name]
            found["model"] = str((runs[0] / MODEL_FOLDER).relative_to(self.folder)) if runs else None
        return found


def _shown(found: Sequence[dict[str, Any]]) -> set[str]:
    return {one["trial"] for one in found if one["state"] in ("complete", "pruned")}


def _described(values: Any) -> Any:
    """The values of a flag, as JSON."""
    if isinstance(values, Choices):
        return list(values.values)
    return {"low": values.low, "high": values.high, "step": values.step, "log": values.log}


def _reason(status: int, error: str) -> str:
    """Why a trial failed, in one line; empty for the status of success."""
    if status == -9:
        return "killed by signal 9 (the system does so when memory runs out)"
    if status < 0:
        return f"killed by signal {-status}"
    return (error or f"status {status}; its own message is above") if status else ""


def _refusals(config: Any) -> list[str]:
    """A line for each flag of ``train`` that makes no sense in a search."""
    trainer = config.trainer
    others = {
        "--trainer.fast_dev_run": (trainer.fast_dev_run or None, None, "it leaves no scores"),
        "--trainer.overfit_batches": (trainer.overfit_batches or None, None, "its scores are of questions it learned"),
        "--trainer.num_nodes": (trainer.num_nodes, 1, "a trial runs on one machine; start the command on each of them"),
    }
    problems = refused_flags(config, "a search", others)
    if config.data.fold == ALL:
        problems.append(f"--data.fold {ALL}: not in a search, which needs questions to validate on; leave it out")
    if trainer.limit_val_batches == 0:
        problems.append("--trainer.limit_val_batches 0: not in a search, which needs scores; leave it out")
    return problems
