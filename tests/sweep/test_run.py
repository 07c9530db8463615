"""A search with a script in place of the trainings: failures, what is refused, what is shown and written."""

from __future__ import annotations

import errno
import json
import shutil

import pytest
import yaml
from safetensors.torch import load_file, save_file

from qa_lightning.errors import InputError
from qa_lightning.studies import processes
from qa_lightning.studies.processes import StartedJob
from qa_lightning.sweep import study as study_module
from tests.helpers import commands
from tests.helpers.data import make_rows, write_json

pytest.importorskip("optuna")

# Leaves a record as a run does, or fails with the status that its batch size is.
SCRIPT = """
import json, os, pathlib, sys
flags = dict(word[2:].split("=") for word in sys.argv if "=" in word)
root = pathlib.Path(sys.argv[sys.argv.index("--trainer.default_root_dir") + 1])
batch = int(flags["data.batch_size"])
if batch == 9: os.kill(os.getpid(), 9)
if batch < 9:
    print("error: memory ran out", file=sys.stderr)
    sys.exit(batch)
run = root / "lightning_logs" / "version_0"
run.mkdir(parents=True)
(run / "config.yaml").write_text(f"save_every_minutes: 1\\ndata: {{batch_size: {batch}}}")
start = {"started": "2026-01-01T00:00:00+00:00"}
if batch == 13:
    start |= {"pruned": {"validation": 1, "score": 3.0}}
else:
    start |= {"finished": "2026-01-01T00:01:00+00:00", "scores": {"best/f1": batch, "best/exact_match": 1.0}}
(run / "run.json").write_text(json.dumps([start]))
sys.exit(143 if batch == 13 else 0)
"""


@pytest.fixture
def search(tmp_path, monkeypatch):
    """Runs a search over some batch sizes; returns the exit status."""
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    monkeypatch.setattr(processes, "_COMMAND", ("-S", str(script)))
    monkeypatch.setenv("COLUMNS", "200")

    def run(sizes: list[int], *words: str, more: str = "") -> int:
        (tmp_path / "space.yaml").write_text(f"data.batch_size: {sizes}\n{more}\n")
        usual = ("--data.dataset", "synthetic", "--model.model_name", "tiny", "--trainer.accelerator", "cpu")
        given = (*usual, "--space", str(tmp_path / "space.yaml"), "--study", str(tmp_path / "study"))
        return commands.sweep([*given, *words])

    return run


def result(tmp_path) -> dict:
    return json.loads((tmp_path / "study" / "sweep.json").read_text(encoding="utf-8"))


def test_failing_trials_are_a_line_each_and_pruned_ones_are_marked(search, tmp_path, capsys) -> None:
    assert search([2, 9, 13, 20, 21], "--trials", "12", "--parallel", "2") == 0
    found = result(tmp_path)
    kinds = {(one["values"]["data.batch_size"], one["state"]) for one in found["trials"]}
    assert kinds == {(2, "failed"), (9, "failed"), (13, "pruned"), (20, "complete"), (21, "complete")}
    assert found["best"]["values"] == {"data.batch_size": 21}
    out = capsys.readouterr().out
    table = out[out.rindex(" run ") :]
    for one in found["trials"]:
        if one["state"] == "failed":
            why = "memory ran out" if one["values"]["data.batch_size"] == 2 else "killed by signal 9 (the system does"
            assert f"\n{one['trial']}: failed: {why}" in table
    assert "(pruned)" in table
    best = found["best"]
    assert f"best trial:  {best['trial']}, F1 21.00; its model: {tmp_path / 'study' / best['model']}" in table
    assert best["command"][-1] == "--data.batch_size=21"
    assert "--model.model_name tiny --trainer.accelerator cpu --data.batch_size=21\n" in table


def test_a_finished_study_runs_nothing_and_more_trials_go_on(search, tmp_path) -> None:
    assert search([20, 21], "--trials", "2") == 0
    first = result(tmp_path)["trials"]
    assert search([20, 21], "--trials", "2") == 0
    assert result(tmp_path)["trials"] == first
    assert search([20, 21], "--trials", "4") == 0
    assert result(tmp_path)["trials"][:2] == first
    assert len(result(tmp_path)["trials"]) == 4


def test_a_search_whose_trials_all_fail_ends_after_three(search, tmp_path) -> None:
    with pytest.raises(InputError) as refused:
        search([2, 3], "--trials", "20")
    problems = refused.value.problems
    assert problems[0].endswith("study came to its end:")
    assert problems[1:] == [f"trial-{number}: failed: memory ran out" for number in range(3)]


def test_it_ends_so_with_several_at_a_time_too(search, tmp_path) -> None:
    with pytest.raises(InputError, match="came to its end"):
        search([2, 3], "--trials", "20", "--parallel", "2")
    assert 3 <= len(result(tmp_path)["trials"]) <= 5


def test_a_process_whose_own_trials_all_fail_ends_whatever_others_did(search, tmp_path) -> None:
    assert search([20, 21], "--trials", "2") == 0
    (tmp_path / "train.py").write_text("import sys; sys.exit('error: there is no GPU')")
    with pytest.raises(InputError, match=r"the first 3 trials that this process ran failed.*start it again") as refused:
        search([20, 21], "--trials", "20")
    assert refused.value.problems[1:] == [f"trial-{number}: failed: there is no GPU" for number in (2, 3, 4)]
    assert len(result(tmp_path)["trials"]) == 5
    (tmp_path / "train.py").write_text(SCRIPT)
    assert search([20, 21], "--trials", "6") == 0


def test_a_trial_whose_folder_was_removed_keeps_its_score(search, tmp_path, capsys) -> None:
    assert search([20, 21], "--trials", "1") == 0
    before = result(tmp_path)["best"]
    shutil.rmtree(tmp_path / "study" / "trial-0")
    assert search([20, 21], "--trials", "1") == 0
    assert result(tmp_path)["best"] == before | {"model": None}
    assert f"best trial:  trial-0, F1 {before['score']:.2f}; its folder was removed" in capsys.readouterr().out


def test_a_search_under_torchrun_is_refused(search, monkeypatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "")
    assert search([20, 21], "--trials", "1") == 0
    torchrun = {"RANK": "0", "LOCAL_RANK": "0", "GROUP_RANK": "0", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "2"}
    for name, value in {**torchrun, "TORCHELASTIC_RUN_ID": "none"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="a search starts its own processes: start it once, without torchrun"):
        search([20, 21], "--trials", "2")


def test_lengths_and_data_that_cannot_work_are_an_error_before_any_trial(search, tmp_path) -> None:
    """The same command, corrected, is not refused then."""
    lengths = ("--data.max_length", "64", "--data.max_question_length", "64")
    with pytest.raises(InputError, match=r"must be smaller than the room for context, -3 tokens"):
        search([20, 21], "--trials", "1", "--data.doc_stride", "16", *lengths)
    assert not (tmp_path / "study").exists()
    assert search([20, 21], "--trials", "1") == 0


def test_a_study_that_is_a_file_is_one_error(search, tmp_path) -> None:
    (tmp_path / "study").write_text("")
    with pytest.raises(InputError, match=r"--study .*study is a file; name another folder"):
        search([20, 21], "--trials", "1")


def test_other_flags_and_another_space_are_refused_with_both_values(search, tmp_path) -> None:
    assert search([20, 21], "--trials", "1") == 0
    with pytest.raises(InputError, match=r"was begun with other flags or data: --data.max_length was 384, is 128"):
        search([20, 21], "--trials", "2", "--data.max_length", "128")
    with pytest.raises(
        InputError, match=r"space.yaml is another space; that of the study has values of data.batch_size"
    ):
        search([20, 22], "--trials", "2")
    with pytest.raises(InputError, match=r"--pruner was median, is none"):
        search([20, 21], "--trials", "2", "--pruner", "none")
    assert len(result(tmp_path)["trials"]) == 1


def test_other_questions_and_another_teacher_under_their_names_are_refused(search, tmp_path, model_folder) -> None:
    data = tmp_path / "data.json"
    teacher = shutil.copytree(model_folder, tmp_path / "teacher")
    write_json(data, make_rows(20))
    words = ("--data.dataset", str(data), "--data.validation", str(data), "--model.teacher", str(teacher))
    assert search([20, 21], "--trials", "1", *words) == 0
    assert search([20, 21], "--trials", "2", *words) == 0
    write_json(data, make_rows(21))
    with pytest.raises(InputError, match=r"begun with other flags or data: the questions are not those that it was"):
        search([20, 21], "--trials", "3", *words)
    write_json(data, make_rows(20))
    weights = load_file(teacher / "model.safetensors")
    save_file({name: value + 1 for name, value in weights.items()}, teacher / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"begun with other flags or data: the teacher's weights are not those that"):
        search([20, 21], "--trials", "3", *words)
    assert len(result(tmp_path)["trials"]) == 2


def test_other_questions_are_refused_also_where_lengths_are_searched(search, tmp_path) -> None:
    data = tmp_path / "data.json"
    write_json(data, make_rows(20))
    words = ("--data.dataset", str(data), "--data.validation", str(data))
    assert search([20, 21], "--trials", "1", *words, more="data.max_length: [128, 384]\ndata.doc_stride: [16, 32]") == 0
    write_json(data, make_rows(21))
    with pytest.raises(InputError, match=r"begun with other flags or data: the questions are not those that it was"):
        search([20, 21], "--trials", "2", *words, more="data.max_length: [128, 384]\ndata.doc_stride: [16, 32]")


def test_lengths_that_leave_no_room_for_the_context_are_refused_before_any_trial(search, tmp_path) -> None:
    with pytest.raises(InputError, match=r"--data.max_length 128: --data.doc_stride 128 must be smaller than the room"):
        search([20, 21], more="data.max_length: [128, 384]")
    assert not (tmp_path / "study").exists()


def test_lengths_that_no_trial_has_are_not_looked_at(search, tmp_path) -> None:
    assert search([20, 21], "--trials", "1", "--data.doc_stride", "330", more="data.max_length: [512, 768]") == 0
    shutil.rmtree(tmp_path / "study")
    with pytest.raises(InputError, match=r"with the roomiest lengths of --space .*: --data.doc_stride 750 must be"):
        search([20, 21], "--trials", "1", "--data.doc_stride", "750", more="data.max_length: [512, 768]")


def test_a_search_goes_on_in_the_precision_that_it_began_with(search, tmp_path, monkeypatch) -> None:
    """On another machine, whose usual one is another; and one of old, which left it open, in that of each machine."""
    flags = tmp_path / "study" / "flags.yaml"
    assert search([20, 21], "--trials", "1") == 0
    monkeypatch.setattr("qa_lightning.training.flags.default_precision", {"cpu": "bf16-mixed"}.get)
    assert search([20, 21], "--trials", "2") == 0
    assert yaml.safe_load(flags.read_text())["trainer"]["precision"] == "32-true"
    with pytest.raises(InputError, match=r"--trainer.precision was 32-true, is bf16-mixed"):
        search([20, 21], "--trials", "3", "--trainer.precision", "bf16-mixed")
    flags.write_text(flags.read_text().replace("precision: 32-true", "precision: null"))
    assert search([20, 21], "--trials", "3") == 0


@pytest.mark.parametrize("missing", ["study.json", "trials.log"])
def test_trials_of_unknown_values_are_refused(search, tmp_path, missing) -> None:
    assert search([20, 21], "--trials", "1") == 0
    (tmp_path / "study" / missing).unlink()
    with pytest.raises(InputError, match=rf"study holds runs \(trial-0\) and no {missing}, which tells their values"):
        search([20, 21], "--trials", "1")


def test_where_and_how_often_things_are_written_may_change(search, tmp_path, monkeypatch) -> None:
    asked = []
    started = StartedJob.__init__

    def noting(self, job, *rest) -> None:
        asked.append(job.words)
        started(self, job, *rest)

    monkeypatch.setattr(StartedJob, "__init__", noting)
    assert search([20, 21], "--trials", "1") == 0
    assert (
        search([20, 21], "--trials", "2", "--data.cache_dir", str(tmp_path / "big"), "--save_every_minutes", "7") == 0
    )
    assert f"--data.cache_dir={tmp_path / 'big'}" in asked[1]
    assert "--save_every_minutes=7.0" in asked[1]


def test_a_full_disk_is_one_line(search, tmp_path, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(study_module, "claim", full)
    with pytest.raises(InputError, match=r"--study .*study cannot be written \(No space left on device\); free some"):
        search([20, 21], "--trials", "1")


def test_flags_that_make_no_sense_are_refused_together(search, tmp_path) -> None:
    with pytest.raises(InputError) as refused:
        search(
            [20, 21],
            *("--ckpt_path", "last", "--data.batch_size", "8", "--trainer.default_root_dir", str(tmp_path)),
            *("--trainer.limit_val_batches", "0", "--model.layer_decay", "2", "--data.fold", "all"),
        )
    problems = "\n".join(refused.value.problems)
    for beginning in (
        "--ckpt_path last: not in a search",
        "--trainer.default_root_dir",
        "--trainer.limit_val_batches 0: not in a search",
        "--data.fold all: not in a search",
        "--model.layer_decay is 2.0; it must be",
        "--data.batch_size: the search gives it its values; leave it out",
    ):
        assert beginning in problems
    assert not (tmp_path / "study").exists()
    with pytest.raises(InputError, match=r"--trials is 0.*\n.*--parallel is 0.*\n--pruner is 'medain'.*mean median"):
        search([20, 21], "--trials", "0", "--parallel", "0", "--pruner", "medain")


def test_a_flag_that_the_usual_space_varies_is_no_reason_to_change_a_file_of_the_package(search, tmp_path) -> None:
    usual = ("--data.dataset", "synthetic", "--study", str(tmp_path / "study"))
    with pytest.raises(InputError, match=r"its values; leave it out, or pass --space FILE without it$"):
        commands.sweep([*usual, "--model.learning_rate", "3e-5"])
    with pytest.raises(InputError, match=r"its values; leave it out, or take it out of .*space.yaml$"):
        search([20, 21], "--data.batch_size", "8")


def test_a_search_of_an_older_version_goes_on_with_the_usual_values_of_newer_flags(search, tmp_path) -> None:
    flags = tmp_path / "study" / "flags.yaml"
    assert search([20, 21], "--trials", "1") == 0
    older = yaml.safe_load(flags.read_text())
    assert older["data"].pop("keep_no_answer") == 1.0
    flags.write_text(yaml.safe_dump(older))
    with pytest.raises(InputError, match=r"--data.keep_no_answer was 1.0, is 0.5"):
        search([20, 21], "--trials", "2", "--data.keep_no_answer", "0.5")
    assert search([20, 21], "--trials", "2") == 0


def test_flags_that_exclude_each_other_are_refused_before_the_study_begins(search, tmp_path) -> None:
    with pytest.raises(InputError, match=r"--average_best 3 averages weights, as --ema_decay 0\.9 does"):
        search([20, 21], "--ema_decay", "0.9", "--average_best", "3")
    assert not (tmp_path / "study").exists()
    assert search([20, 21], "--trials", "1", "--average_best", "3") == 0


def test_the_folder_of_a_cross_validation_is_refused(search, tmp_path) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "study.json").write_text('{"folds": 5, "fingerprint": "abc"}')
    (tmp_path / "study" / "flags.yaml").write_text("{}")
    with pytest.raises(InputError, match="is no search's, but another study's; name another folder"):
        search([20, 21])


def test_a_trial_whose_end_was_not_noted_is_noted_and_not_run_again(search, tmp_path, monkeypatch) -> None:
    from qa_lightning.sweep.run import Sweep

    class KilledError(Exception):
        pass

    def killed(self, trial, reason) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(Sweep, "_settle", killed)
        with pytest.raises(KilledError):
            search([20, 21], "--trials", "1")
    (record,) = (tmp_path / "study").glob("trial-0/lightning_logs/*/run.json")
    before = record.stat().st_mtime_ns
    assert search([20, 21], "--trials", "1") == 0
    assert [one["state"] for one in result(tmp_path)["trials"]] == ["complete"]
    assert record.stat().st_mtime_ns == before
