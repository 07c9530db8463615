"""The folder of a cross-validation: other flags are refused, and what is finished is known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from qa_lightning.crossval.study import FINAL, Study
from qa_lightning.errors import InputError
from qa_lightning.runs.listing import runs_of

STOPPER = "qa_lightning.training.callbacks.StopAfter"
FLAGS = {
    "seed_everything": 1,
    "validate_first": True,
    "average_best": None,
    "data": {"dataset": "a.csv", "max_length": 48, "columns": {"question": None}},
    "trainer": {"max_epochs": 3, "callbacks": None, "enable_progress_bar": True},
}


PARTS = ["abc-1", "abc-2", "abc-3"]  # fingerprints of the questions of each fold


def begun(tmp_path, **trainer) -> Study:
    study = Study(tmp_path / "study", 3)
    study.begin("abc", PARTS, yaml.safe_dump(FLAGS | {"trainer": FLAGS["trainer"] | trainer}))
    return study


def leave_run(
    study: Study, name: str, finished: bool = True, answers: bool = True, of: str = "abc", epochs: int | None = None
) -> Path:
    """A run of version N, the N-th of its folder; on the questions whose fingerprints begin with ``of``."""
    logs = study.folder / name / "lightning_logs"
    folder = logs / f"version_{len(list(logs.glob('*')))}"
    folder.mkdir(parents=True)
    data = {"train": {"fingerprint": of}, "validation": {"fingerprint": f"{of}-{name[-1]}"}}
    start = {"started": "2026-01-01T00:00:00+00:00", "data": data}
    (folder / "run.json").write_text(json.dumps([start | ({"finished": "2026-01-01T00:01:00"} if finished else {})]))
    callbacks = [] if epochs is None else [{"class_path": STOPPER, "init_args": {"epochs": epochs}}]
    (folder / "config.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": callbacks}}))
    if answers:
        (folder / "fold_answers.npz").touch()
    return folder


def test_the_same_flags_go_on_and_a_file_may_have_moved(tmp_path) -> None:
    study = begun(tmp_path)
    moved = FLAGS | {"data": FLAGS["data"] | {"dataset": "elsewhere/a.csv"}}
    study.begin("abc", PARTS, yaml.safe_dump(moved))
    assert yaml.safe_load((study.folder / "flags.yaml").read_text())["data"]["dataset"] == "elsewhere/a.csv"


def test_other_flags_are_one_refusal_that_names_them_all(tmp_path) -> None:
    study = begun(tmp_path)
    other = FLAGS | {"seed_everything": 2, "data": FLAGS["data"] | {"max_length": 64, "columns": {"question": "Q"}}}
    with pytest.raises(InputError) as refused:
        Study(study.folder, 4).begin("abc", PARTS, yaml.safe_dump(other))
    (problem,) = refused.value.problems
    for told in (
        "--folds was 3, is 4",
        "--seed_everything was 1, is 2",
        "--data.max_length was 48, is 64",
        "--data.columns.question was null, is Q",
    ):
        assert told in problem
    assert "max_epochs" not in problem
    with pytest.raises(InputError, match="the questions are not those that it was begun with"):
        study.begin("abd", PARTS, yaml.safe_dump(FLAGS))
    assert yaml.safe_load((study.folder / "flags.yaml").read_text()) == FLAGS


def test_a_flag_that_the_study_does_not_know_is_to_have_its_usual_value(tmp_path) -> None:
    study = begun(tmp_path)
    newer = FLAGS | {"data": FLAGS["data"] | {"keep_no_answer": 1.0, "more": {"depth": None}}}
    usual = {"seed_everything": 42, "data": {"keep_no_answer": 1.0, "more": {"depth": None}}}
    changed = newer | {"data": newer["data"] | {"keep_no_answer": 0.5}}
    with pytest.raises(InputError, match=r"other flags or data: --data.keep_no_answer was 1.0, is 0.5\. Go on"):
        study.begin("abc", PARTS, yaml.safe_dump(changed), usual=usual)
    study.begin("abc", PARTS, yaml.safe_dump(newer), usual=usual)


def test_a_teacher_that_has_changed_is_refused(tmp_path) -> None:
    study = Study(tmp_path / "taught", 3)
    study.folder.mkdir()
    study.begin("abc", PARTS, yaml.safe_dump(FLAGS), "one")
    study.begin("abc", PARTS, yaml.safe_dump(FLAGS), "one")
    with pytest.raises(InputError, match="the teacher's weights are not those that it was begun with"):
        study.begin("abc", PARTS, yaml.safe_dump(FLAGS), "another")


def test_a_run_is_done_when_it_left_its_answers_and_resumed_when_it_was_stopped(tmp_path) -> None:
    study = begun(tmp_path)
    leave_run(study, "fold-1")
    leave_run(study, "fold-2", finished=False)
    study.write_final_flags(None)
    leave_run(study, FINAL, answers=False)
    assert [study.is_done(name) for name in ("fold-1", "fold-2", "fold-3", FINAL)] == [True, False, False, True]
    assert study.words("fold-2")[-2:] == ["--ckpt_path", "last"]
    third = study.words("fold-3")
    assert "--ckpt_path" not in third
    assert third[third.index("--data.fold") + 1] == "3/3"
    assert third[third.index("--trainer.default_root_dir") + 1] == str(study.folder / "fold-3")


def test_a_finished_run_without_its_answers_is_trained_again(tmp_path) -> None:
    study = begun(tmp_path)
    leave_run(study, "fold-1", answers=False)
    assert not study.is_done("fold-1")
    assert "--ckpt_path" not in study.words("fold-1")


def test_a_run_on_other_questions_is_neither_done_nor_resumed(tmp_path) -> None:
    study = begun(tmp_path)
    leave_run(study, "fold-1", of="edited")
    leave_run(study, "fold-2", of="edited", finished=False)
    for name in ("fold-1", "fold-2"):
        assert study.has_other_questions(name)
        assert not study.is_done(name)
        assert "--ckpt_path" not in study.words(name)
    leave_run(study, "fold-1")
    assert study.is_done("fold-1")
    assert not study.has_other_questions("fold-1")


def test_runs_without_the_file_that_tells_of_what_study_they_are_are_refused(tmp_path) -> None:
    study = begun(tmp_path)
    leave_run(study, "fold-2")
    (study.folder / "study.json").unlink()
    with pytest.raises(InputError, match=r"holds runs \(fold-2\) and no study.json"):
        begun(tmp_path)


def test_the_folder_of_a_search_is_refused_as_such(tmp_path) -> None:
    study = begun(tmp_path)
    (study.folder / "study.json").write_text('{"space": {}, "pruner": "median"}')
    with pytest.raises(InputError, match=r"study is another study's, such as a search's; name another folder"):
        begun(tmp_path)


@pytest.mark.parametrize("finished", [True, False])
def test_a_final_model_that_trained_another_number_of_epochs_is_trained_anew(tmp_path, finished) -> None:
    study = begun(tmp_path)
    study.write_final_flags(2)
    leave_run(study, FINAL, finished, epochs=2)
    assert study.is_done(FINAL) is finished
    assert ("--ckpt_path" in study.words(FINAL)) is not finished
    for epochs in (1, None):
        study.write_final_flags(epochs)
        assert not study.is_done(FINAL)
        assert "--ckpt_path" not in study.words(FINAL)


def test_the_final_model_has_the_flags_without_what_waits_for_a_validation(tmp_path) -> None:
    early = {"class_path": "lightning.pytorch.callbacks.EarlyStopping", "init_args": {"monitor": "val/f1"}}
    other = {"class_path": "lightning.pytorch.callbacks.LearningRateMonitor"}
    study = begun(tmp_path, callbacks=[early, other])
    assert study.write_final_flags(2) == ["EarlyStopping"]
    flags = yaml.safe_load((study.folder / "final.yaml").read_text())
    stop = {"class_path": STOPPER, "init_args": {"epochs": 2}}
    assert flags["trainer"]["callbacks"] == [other, stop]
    assert flags["trainer"]["max_epochs"] == 3
    assert flags["validate_first"] is False
    assert flags["data"] == FLAGS["data"]
    words = study.words(FINAL)
    assert words[words.index("--data.fold") + 1] == "all"
    assert words[words.index("--trainer.limit_val_batches") + 1] == "0"
    assert flags["average_best"] is None
    assert study.write_final_flags(None) == ["EarlyStopping"]
    assert yaml.safe_load((study.folder / "final.yaml").read_text())["trainer"]["callbacks"] == [other]


def test_compare_takes_the_folder_and_shows_its_runs(tmp_path) -> None:
    study = begun(tmp_path)
    for name in ("fold-10", FINAL, "fold-2"):
        leave_run(study, name)
    assert [run.parents[1].name for run in runs_of(study.folder)] == ["fold-2", "fold-10", FINAL]
    assert runs_of(study.folder / "fold-2") == [study.newest("fold-2").folder]


def test_the_final_model_averages_no_best_checkpoints_for_it_has_none(tmp_path) -> None:
    study = Study(tmp_path / "study", 3)
    study.begin("abc", PARTS, yaml.safe_dump(FLAGS | {"average_best": 3, "keep_averaged": True}))
    assert study.write_final_flags(None) == ["--average_best"]
    flags = yaml.safe_load((study.folder / "final.yaml").read_text())
    assert (flags["average_best"], flags["keep_averaged"]) == (None, False)
