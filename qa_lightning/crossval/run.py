"""Runs a cross-validation: trains each fold, joins their answers, fits to these, and trains a final model on all."""

from __future__ import annotations

import json
import logging
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np

from qa_lightning.crossval.joined import Joined, join_folds
from qa_lightning.crossval.study import FINAL, Study
from qa_lightning.data.division import ALL, Fold, Groups
from qa_lightning.data.sources import also_read
from qa_lightning.decoding.spans import Scaling
from qa_lightning.distillation.teacher import teacher_digest
from qa_lightning.errors import InputError, LostProcessError
from qa_lightning.evaluation.result import FILES, write_result
from qa_lightning.files import hold_folder, write_json
from qa_lightning.layout import (
    FINAL_FLAGS,
    FOLD_ANSWERS,
    MODEL_FOLDER,
    REPORT,
    STUDY,
    STUDY_FLAGS,
    STUDY_FOLDS,
    STUDY_RESULT,
)
from qa_lightning.metrics.confidence import FIGURES, coverage_line, fitted_lines
from qa_lightning.models.folder import save_settings
from qa_lightning.models.loading import CONFIG
from qa_lightning.models.settings import CONFIG_KEY, AnswerSettings, Fitted
from qa_lightning.pages.report import ErrorReport
from qa_lightning.runs.record import PastRun
from qa_lightning.studies.flags import refused_flags, study_writes, take_precision, usual_flags
from qa_lightning.studies.processes import TrainJob, run_jobs, slots_for
from qa_lightning.training.datamodule import SquadDataModule
from qa_lightning.training.flags import ParsedFlags
from qa_lightning.wording import command, counted, relative, visible

log = logging.getLogger("qa_lightning")

_WRITTEN = (  # into the folder of a study, beside its mark, STUDY, and the folders of its runs
    *(STUDY_FLAGS, FINAL_FLAGS, STUDY_RESULT, STUDY_FOLDS, *FILES, *(f"{name}.png" for name in FIGURES)),
    *(REPORT, str(Path(REPORT).with_suffix(".jsonl"))),
)


@dataclass(frozen=True)
class CrossValidation:
    """A cross-validation with the flags of ``train``.

    Args:
        flags: parsed.
        folds: number of folds.
        folder: the study's; made if it is missing. What is there and finished is not trained again.
        parallel: folds that are trained at a time.

    Raises:
        InputError: flags make no sense here, or cannot work; all problems together.
    """

    flags: ParsedFlags
    folds: int
    folder: Path
    parallel: int = 1

    def __post_init__(self) -> None:
        if problems := [*_refusals(self.flags), *self.flags.problems()]:
            raise InputError(problems)
        take_precision(self.flags.config.trainer, self.folder / STUDY_FLAGS)
        if problems := self.flags.misfits():
            raise InputError(problems)

    @property
    def study(self) -> Study:
        """What is on disk."""
        return Study(self.folder, self.folds)

    def run(self) -> None:
        """Train what is not finished, and write the results.

        Raises:
            InputError: the data cannot be divided, or the folder belongs to another study, or cannot be written.
            LostProcessError: a fold failed.
        """
        slots = slots_for(self.parallel, self.flags.config.trainer)
        with study_writes(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                held = hold_folder(self.folder)
            except BlockingIOError:
                raise InputError(
                    f"--study {self.folder} is being trained by another process; wait for its end"
                ) from None
        try:
            data = self._prepare()
            self._train(self.study.names, slots)
            joined = self._join(data)
            with study_writes(self.folder):
                epochs = self._write_final_flags()
            self._train([FINAL], slots_for(1, self.flags.config.trainer))
            with study_writes(self.folder):
                self._finish(joined, epochs)
        finally:
            if held is not None:
                os.close(held)

    def _prepare(self) -> SquadDataModule:
        """All questions, once they are known to be enough for the folds, and to be those of the study."""
        self._refuse_files()
        given = self.flags.config.data.as_dict()
        columns = given.pop("columns")
        data = SquadDataModule(**given | {"fold": ALL, "columns": columns})
        data.prepare_data()
        data.setup("fit")
        assert data.validation_set is not None
        groups = Groups.of(data.validation_set.examples)
        sizes = np.bincount(groups.folds(self.folds, data.seed))[1:]
        log.info(
            f"crossval:  {counted(len(groups.names), 'question')} about {counted(len(groups.sizes), groups.by)}, in "
            f"{self.folds} folds of {sizes.min():,} to {sizes.max():,} questions; no {groups.by} is in two of them"
        )
        for line in self._notes(data.validation_set.examples["title"], groups):
            log.warning(line)
        parts = [
            replace(data.prepared("validation"), fold=Fold(number, self.folds, data.seed)).examples_folder.name
            for number in range(1, 1 + self.folds)
        ]
        with study_writes(self.folder):
            teacher = teacher_digest(self.flags.config.model.teacher)
            self.study.begin(data.fingerprint("train"), parts, self.flags.as_yaml(), teacher, usual_flags(self.flags))
        return data

    def _refuse_files(self) -> None:
        """Refuse a folder without a study that has files of the names that a study writes, or whose files are read."""
        if (self.folder / STUDY).is_file():
            return
        begun = self.folder / STUDY_FLAGS
        mine = begun.is_file() and begun.read_bytes() == self.flags.as_yaml().encode()  # of a start that was killed
        found = [name for name in _WRITTEN if os.path.lexists(self.folder / name) and not (mine and name == begun.name)]
        if found:
            raise InputError(
                f"--study {self.folder} holds {', '.join(found)}, which the study would replace, and no {STUDY} of a "
                "study that was begun; name another folder with --study, or move them away"
            )
        dataset = self.flags.config.data.dataset
        if also_read((self.folder / name for name in _WRITTEN), {"--data.dataset": dataset}):
            raise InputError(
                f"--study {self.folder}: what the study writes there would be read as --data.dataset {dataset}; name "
                "another folder with --study"
            )

    def _notes(self, titles: Sequence[str | None], groups: Groups) -> Iterator[str]:
        """What about these questions and flags makes the scores others than they look."""
        largest, size = Counter(groups.names.tolist()).most_common(1)[0]
        if size * self.folds > len(groups.names) + self.folds:
            own = Counter(title for title, name in zip(titles, groups.names, strict=True) if name == largest and title)
            is_article = groups.by == "article" and bool(own)  # beside articles, a context without a title is a group
            what = f"article (title {own.most_common(1)[0][0]!r})" if is_article else "context"
            fix = "; leave a title that names no article empty" if is_article else ""
            yield (
                f"note: one {what} has {size / len(groups.names):.0%} of the questions, so that the folds "
                f"cannot be of equal size{fix}"
            )
        if (teacher := self.flags.config.model.teacher) is not None:
            yield (
                f"note: if --model.teacher {teacher} was trained on some of these questions, the folds learn their "
                "answers from it, and the scores are too high"
            )

    def _train(self, names: Sequence[str], slots: Sequence[Mapping[str, str]]) -> None:
        """Train the folds ``names`` that are not finished, or the final model.

        Raises:
            LostProcessError: one failed.
        """
        study = self.study
        left = [name for name in names if not study.is_done(name)]
        for name in names:
            if name not in left:
                log.info(f"{name}: finished before")
        statuses = run_jobs([TrainJob(name, study.words(name)) for name in left], slots, study.is_done)
        lost = [name for name in left if not study.is_done(name)]
        for name, status in statuses.items():
            if status and name not in lost:
                log.warning(f"{name} ended with status {status}, for what is above, but left all that it was to")
        if lost:
            raise LostProcessError(_what_was_lost(study, names, lost, statuses))

    def _runs(self) -> list[PastRun]:
        return [run for name in self.study.names if (run := self.study.newest(name)) is not None]

    def _join(self, data: SquadDataModule) -> Joined:
        """Join, score and write the out-of-fold answers."""
        model = self.flags.config.model
        joined = join_folds(
            data,
            [run.folder / FOLD_ANSWERS for run in self._runs()],
            f"{self.folds} folds of {model.model_name}",
            Scaling(threshold=model.null_score_diff_threshold),
            model.mixed_script,
            model.max_answer_length,
        )
        assert joined.result.scored is not None
        folds = dict(zip(joined.result.predictions, joined.fold.tolist(), strict=True))
        with study_writes(self.folder):
            write_result(joined.result, self.folder)
            write_json(self.folder / STUDY_FOLDS, folds)
            ErrorReport(joined.result.scored).write(self.folder / REPORT)
        log.info("\nquestions of each fold, answered by the model that was trained on the others:")
        for line in joined.lines():
            log.info(line)
        assert joined.result.confidence is not None
        for line in fitted_lines(joined.result.confidence):
            log.info(line)
        log.info(coverage_line(joined.result.confidence))
        return joined

    def _write_final_flags(self) -> int | None:
        """Write the flags of the final model; returns the epochs that it trains, None for all of the flags'."""
        best = [_best_epoch(run) for run in self._runs()]
        known = [epoch for epoch in best if epoch is not None]
        epochs = math.ceil(median(known)) if len(known) == self.folds else None
        flags = self.flags.config.trainer
        told = ", ".join("?" if epoch is None else str(epoch) for epoch in best)
        log.info(f"\nbest epochs of the folds: {told}")
        if epochs is not None and epochs == flags.max_epochs:
            epochs = None
        left_out = self.study.write_final_flags(epochs)
        if left_out:
            log.info(f"without a validation, the final model is trained without {', '.join(left_out)}")
        many = f"{counted(epochs, 'epoch')}, their median" if epochs else "as many epochs as the flags say"
        log.info(f"final model: trained on all questions, {many}")
        return epochs

    def _finish(self, joined: Joined, epochs: int | None) -> None:
        """Write the fitted threshold and temperature into the final model, and all figures."""
        run, found = self.study.newest(FINAL), joined.result.confidence
        assert run is not None
        assert found is not None
        folder = run.folder / MODEL_FOLDER
        saved = json.loads((folder / CONFIG).read_text(encoding="utf-8")).get(CONFIG_KEY)
        settings = AnswerSettings.of_config(saved, str(folder / CONFIG), None)
        fitted_to = f"out of {self.folds} folds of {self.study.fingerprint}"
        fitted = Fitted(found.scaling, joined.result.version_2, fitted_to, found.scores_at_precision)
        save_settings(settings.fitted(fitted), folder)
        runs = self._runs()
        values = joined.as_json()
        for own, one in zip(values["folds"], runs, strict=True):
            own |= {"best_epoch": _best_epoch(one), "run": str(one.folder.relative_to(self.folder))}
        values["final"] = {
            "model": str(folder.relative_to(self.folder)),
            "epochs": epochs or self.flags.config.trainer.max_epochs,
            "temperature": found.scaling.temperature,
            "threshold": found.scaling.threshold,
            "calibrator": fitted.as_json()["calibrator"],
            "fitted_to": fitted_to,
        }
        write_json(self.folder / STUDY_RESULT, values)
        shown = relative(self.folder)
        log.info(f"\nscores:      {shown / STUDY_RESULT}; report of errors: {shown / REPORT}")
        log.info(f"final model: {relative(folder)}, with the threshold and temperature of the out-of-fold answers")
        log.info(visible(f"compare:     {command('compare')} {shown}"))


def _best_epoch(run: PastRun) -> int | None:
    measured = run.starts[-1].get("measured") if run.starts else None
    found = measured.get("best_epoch") if isinstance(measured, Mapping) else None
    return found if isinstance(found, int) else None


def _what_was_lost(study: Study, names: Sequence[str], lost: Sequence[str], statuses: Mapping[str, int]) -> str:
    """The message that some folds failed, each with its reason, and how the study goes on.

    Args:
        study: of which these are.
        names: of all folds, or of the final model.
        lost: those that are not done.
        statuses: of those that were started.
    """
    reasons: dict[str, list[str]] = {}
    for name in lost:
        if name in statuses:
            reasons.setdefault(_how_it_ended(statuses[name], study.has_other_questions(name)), []).append(name)
    failed = "; ".join(f"{', '.join(of)} {how}" for how, of in reasons.items())
    done = [name for name in names if name not in lost]
    stays = f". Finished and kept: {', '.join(done)}" if done else ""
    return f"{failed}{stays}. The same command goes on with what is left"


def _how_it_ended(status: int, changed: bool) -> str:
    if status == 0 and changed:
        return (
            "trained on other questions than the study was begun with: their file was changed meanwhile. Put the "
            "former one back, or name another folder with --study"
        )
    if status == 0:
        return "left no answers to its questions; its own messages are above"
    if status > 0:
        return f"ended with status {status}; its own message is above"
    why = " (the system does so when memory runs out)" if -status == 9 else ""
    return f"was killed by signal {-status}{why}"


def _refusals(flags: ParsedFlags) -> list[str]:
    """A line for each flag of ``train`` that makes no sense in a cross-validation."""
    config = flags.config
    data, trainer = config.data, config.trainer
    fraction = usual_flags(flags)["data"]["validation_fraction"]
    folds = "the folds say which questions validate"
    others = {
        "--data.validation": (data.validation, None, folds),
        "--data.validation_fraction": (data.validation_fraction, fraction, folds),
        "--data.fold": (data.fold, None, "each fold has its turn"),
        "--data.max_validation_examples": (data.max_validation_examples, None, "each question is answered once"),
        "--trainer.limit_val_batches": (trainer.limit_val_batches, 1.0, "each question is answered once"),
        "--trainer.fast_dev_run": (trainer.fast_dev_run or None, None, "it leaves no answers to join"),
        "--trainer.overfit_batches": (trainer.overfit_batches or None, None, "it validates on what it trains on"),
        "--trainer.num_nodes": (trainer.num_nodes, 1, "a study runs on one machine"),
    }
    problems = refused_flags(config, "a cross-validation", others)
    if data.dataset is None:
        problems.append("--data.dataset names the questions; it is null")
    return problems
