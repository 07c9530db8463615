"""The steps of a cross-validation, with stand-ins for its trainings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from qa_lightning.cli.studies import running
from qa_lightning.cli.studies.crossval import crossval
from qa_lightning.crossval import run
from qa_lightning.crossval.run import CrossValidation
from qa_lightning.errors import InputError, LostProcessError
from qa_lightning.runs.signals import Stop, Stopped
from qa_lightning.training.datamodule import SquadDataModule
from qa_lightning.training.flags import ParsedFlags
from tests.helpers.data import make_rows, write_json


@pytest.fixture
def flags(tmp_path, model_folder):
    """Those of `train`, for twelve questions; others may be added."""
    source = write_json(tmp_path / "rows.json", make_rows(12))
    lengths = ["--data.max_length", "48", "--data.doc_stride", "12", "--data.max_question_length", "12"]
    given = ["--data.dataset", source, "--model.model_name", model_folder, *lengths]
    given += ["--data.cache_dir", str(tmp_path / "cache")]
    return lambda *more: ParsedFlags([*given, *more])


class Trainings:
    """In place of processes: jobs that leave a finished run on the questions of their fold, as those now are.

    Attributes:
        statuses: name -> exit status; 0 for others.
    """

    def __init__(self, model: str) -> None:
        self.model, self.statuses = model, {}

    def __call__(self, jobs, slots, is_done) -> dict[str, int]:
        for job in jobs:
            words = dict(zip(job.words[::2], job.words[1::2], strict=True))
            flags = yaml.safe_load(Path(words["--config"]).read_text())
            lengths = {name: flags["data"][name] for name in ("max_length", "doc_stride", "max_question_length")}
            given = {name: flags["data"][name] for name in ("dataset", "cache_dir")} | lengths
            data = SquadDataModule(
                **given, model_name=self.model, seed=flags["seed_everything"], fold=words["--data.fold"]
            )
            data.prepare_data()
            folder = Path(words["--trainer.default_root_dir"]) / "lightning_logs" / "version_0"
            folder.mkdir(parents=True)
            record = [{"finished": "2026-01-01T00:00:00", "data": data.describe()}]
            (folder / "run.json").write_text(json.dumps(record))
            (folder / "fold_answers.npz").touch()
        return {job.name: self.statuses.get(job.name, 0) for job in jobs}


@pytest.fixture
def trainings(monkeypatch, model_folder) -> Trainings:
    made = Trainings(model_folder)
    monkeypatch.setattr(run, "run_jobs", made)
    return made


def prepared(study: CrossValidation) -> CrossValidation:
    study.folder.mkdir()
    study._prepare()
    return study


def test_a_fold_that_fails_at_its_end_alone_does_not_stop_the_study(flags, trainings, tmp_path, caplog) -> None:
    trainings.statuses["fold-1"] = 1
    study = prepared(CrossValidation(flags(), 3, tmp_path / "study"))
    study._train(study.study.names, [{}])
    assert all(map(study.study.is_done, study.study.names))
    assert "fold-1 ended with status 1, for what is above, but left all that it was to" in caplog.text


def test_each_fold_that_failed_is_told_with_its_own_status(flags, tmp_path) -> None:
    study = prepared(CrossValidation(flags(), 4, tmp_path / "study")).study
    told = run._what_was_lost(study, study.names, ["fold-2", "fold-3", "fold-4"], {"fold-2": -9, "fold-3": 1})
    assert told == (
        "fold-2 was killed by signal 9 (the system does so when memory runs out); fold-3 ended with status 1; its own "
        "message is above. Finished and kept: fold-1. The same command goes on with what is left"
    )


def test_a_file_that_is_changed_while_a_study_runs_is_noticed(flags, trainings, tmp_path) -> None:
    study = prepared(CrossValidation(flags(), 3, tmp_path / "study"))
    study._train(["fold-1"], [{}])
    write_json(tmp_path / "rows.json", make_rows(12, unanswerable=1))
    with pytest.raises(LostProcessError, match=r"fold-2, fold-3 trained on other questions .*kept: fold-1"):
        study._train(study.study.names, [{}])


def test_the_precision_is_written_down_for_other_machines(flags, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("qa_lightning.training.flags.default_precision", {"cpu": "bf16-mixed"}.get)
    study = CrossValidation(flags("--trainer.accelerator", "cpu"), 3, tmp_path / "study")
    assert yaml.safe_load(study.flags.as_yaml())["trainer"]["precision"] == "bf16-mixed"
    given = CrossValidation(flags("--trainer.precision", "32-true"), 3, tmp_path / "study")
    assert yaml.safe_load(given.flags.as_yaml())["trainer"]["precision"] == "32-true"
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "flags.yaml").write_text("trainer: {precision: 16-mixed}")
    elsewhere = CrossValidation(flags("--trainer.accelerator", "auto"), 3, tmp_path / "begun")
    assert yaml.safe_load(elsewhere.flags.as_yaml())["trainer"]["precision"] == "16-mixed"


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (("--ema_decay", "0.9", "--average_best", "3"), "--average_best 3 averages weights, as --ema_decay 0.9 does"),
        (("--trainer.callbacks", "LearningRateMonitor", "--trainer.logger", "false"), "LearningRateMonitor writes to"),
        (("--data.batch_size", "auto", "--trainer.accumulate_grad_batches", "2"), "it accumulates as memory needs it"),
    ],
)
def test_flags_that_exclude_each_other_are_refused_before_the_study_begins(flags, tmp_path, given, problem) -> None:
    with pytest.raises(InputError, match=problem) as refused:
        CrossValidation(flags("--trainer.accelerator", "cpu", *given), 3, tmp_path / "study")
    assert len(refused.value.problems) == 1


def test_one_batch_of_the_validation_is_not_all_of_it(flags, tmp_path) -> None:
    given = flags("--trainer.accelerator", "cpu")
    given.config.trainer.limit_val_batches = 1  # where 1.0 is all
    with pytest.raises(InputError, match=r"--trainer.limit_val_batches 1: not in a cross-validation, where each"):
        CrossValidation(given, 3, tmp_path / "study")


SRUN = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_NTASKS": "4", "SLURM_JOB_NAME": "study"}


@pytest.mark.parametrize(
    "environment",
    [
        {"WORLD_SIZE": "4", "TORCHELASTIC_RUN_ID": "one", "RANK": "0"},
        SRUN,
        SRUN | {"SLURM_NTASKS_PER_NODE": "4"},
    ],
    ids=["torchrun", "srun --ntasks", "srun --ntasks-per-node"],
)
def test_a_study_that_is_started_several_times_is_refused(flags, tmp_path, monkeypatch, environment) -> None:
    monkeypatch.setenv("WORLD_SIZE", "")
    CrossValidation(flags(), 3, tmp_path / "study")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="start it once, without torchrun or srun"):
        CrossValidation(flags(), 3, tmp_path / "study")


@pytest.mark.parametrize("name", ["predictions.json", "risk_coverage.png", "report.jsonl", "flags.yaml"])
def test_files_that_a_study_would_replace_are_refused_before_it_begins(flags, trainings, tmp_path, name) -> None:
    study = CrossValidation(flags(), 3, tmp_path / "study")
    study.folder.mkdir()
    (study.folder / "notes.txt").touch()
    (study.folder / name).write_text("mine")
    with pytest.raises(InputError, match=rf"study holds {name}, which the study would replace, .*name another folder"):
        study.run()
    assert sorted(path.name for path in study.folder.iterdir()) == sorted([name, "notes.txt"])
    (study.folder / name).unlink()
    study._prepare()
    (study.folder / name).touch()
    (study.folder / "flags.yaml").write_text(study.flags.as_yaml())
    study._prepare()  # one that goes on has such files
    (study.folder / "study.json").unlink()
    if name != "flags.yaml":
        (study.folder / name).unlink()
    study._prepare()  # as one has that was killed when it had only written its flags


def test_a_folder_whose_files_would_be_read_as_questions_is_refused(flags, tmp_path) -> None:
    (tmp_path / "study").mkdir()
    write_json(tmp_path / "study" / "rows.json", make_rows(12))
    given = flags("--data.dataset", str(tmp_path / "study" / "*.json"))
    with pytest.raises(InputError, match=r"study: what the study writes there would be read as --data.dataset"):
        CrossValidation(given, 3, tmp_path / "study")._prepare()


def test_a_share_of_the_contexts_has_no_effect_and_is_refused(flags, tmp_path) -> None:
    with pytest.raises(InputError, match=r"--data.validation_fraction 0.5: not in a cross-validation, where the folds"):
        CrossValidation(flags("--data.validation_fraction", "0.5"), 3, tmp_path / "study")
    CrossValidation(flags("--data.validation_fraction", "0.1"), 3, tmp_path / "study")


def test_a_study_of_an_older_version_goes_on(flags, tmp_path) -> None:
    study = prepared(CrossValidation(flags(), 3, tmp_path / "study"))
    older = yaml.safe_load((study.folder / "flags.yaml").read_text())
    assert older["data"].pop("keep_no_answer") == 1.0
    older["data"]["validation_fraction"] = 0.5  # which had no effect, and was not refused
    (study.folder / "flags.yaml").write_text(yaml.safe_dump(older))
    study._prepare()


def test_only_what_is_written_is_said_not_to_be_writable(flags, tmp_path, monkeypatch) -> None:
    (tmp_path / "taken").touch()
    with pytest.raises(InputError, match=r"--study .*taken cannot be written"):
        CrossValidation(flags(), 3, tmp_path / "taken").run()
    study = CrossValidation(flags(), 3, tmp_path / "study")

    def no_processes(*_):
        raise OSError("no more processes")

    monkeypatch.setattr(run, "run_jobs", no_processes)
    with pytest.raises(OSError, match="no more processes"):
        study.run()


def test_what_makes_the_scores_others_than_they_look_is_said(flags, tmp_path, caplog, model_folder) -> None:
    prepared(CrossValidation(flags(), 3, tmp_path / "even"))
    assert "note:" not in caplog.text
    titles = [*["N/A"] * 9, "a", "b", "c"]
    rows = [row | {"title": title} for row, title in zip(make_rows(12), titles, strict=True)]
    write_json(tmp_path / "rows.json", rows)
    prepared(CrossValidation(flags("--model.teacher", model_folder), 3, tmp_path / "uneven"))
    assert "one article (title 'N/A') has 75% of the questions" in caplog.text
    assert "; leave a title that names no article empty" in caplog.text
    assert f"if --model.teacher {model_folder} was trained on some of these questions" in caplog.text


def test_a_large_context_without_a_title_beside_articles_is_no_article(flags, tmp_path, caplog) -> None:
    rows = [row | {"title": title} for row, title in zip(make_rows(12), [*[""] * 9, "a", "b", "c"], strict=True)]
    for row in rows[:9]:
        row |= {name: rows[0][name] for name in ("context", "answers")}
    write_json(tmp_path / "rows.json", rows)
    prepared(CrossValidation(flags(), 3, tmp_path / "study"))
    assert "note: one context has 75% of the questions" in caplog.text
    assert "title" not in caplog.text


@pytest.mark.parametrize("stop", [Stop.REQUEUE, Stop.TERMINATE])
def test_a_slurm_job_is_requeued_once_its_folds_have_saved(flags, monkeypatch, tmp_path, stop) -> None:
    asked = []

    class Stopping:
        def __init__(self, *_):
            pass

        def run(self):
            raise Stopped(stop)

    monkeypatch.setattr(run, "CrossValidation", Stopping)
    monkeypatch.setattr(running, "requeue_job", lambda: asked.append(True))
    assert crossval(["--study", str(tmp_path / "study")]) == stop.status
    assert asked == [True] * (stop is Stop.REQUEUE)
