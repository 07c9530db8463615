from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import subprocess

import pytest

from qa_lightning.runs.record import (
    append_run,
    claim_folder,
    find_runs,
    git_revision,
    last_start,
    mark_finished,
    package_versions,
    release_folder,
)


def test_starts_are_appended_and_nothing_half_written_stays(tmp_path) -> None:
    path = tmp_path / "version_0" / "run.json"
    append_run(path, {"seed": 1})
    append_run(path, {"seed": 2, "command": ["train.py", "--größe"]})
    assert [run["seed"] for run in json.loads(path.read_text(encoding="utf-8"))] == [1, 2]
    assert [file.name for file in path.parent.iterdir()] == ["run.json"]


def test_the_end_of_a_start_is_noted_beside_it_and_earlier_starts_stay(tmp_path) -> None:
    path = tmp_path / "run.json"
    starts = [{"seed": 1, "command": ["train.py"]}, {"seed": 2}, {"seed": 3}]
    for start in starts:
        append_run(path, start)
    mark_finished(path, {"best/f1": 80.0}, "digest", {"best_epoch": 2})
    first, second, third = json.loads(path.read_text(encoding="utf-8"))
    assert [first, second] == starts[:2]
    assert third["seed"] == 3
    assert (third["scores"], third["weights"]) == ({"best/f1": 80.0}, "digest")
    assert third["measured"] == {"best_epoch": 2}
    assert "finished" in third
    assert last_start(path) == third


@pytest.mark.skipif(shutil.which("git") is None, reason="no git here")
def test_the_revision_is_the_checkouts_and_says_whether_files_differ(tmp_path) -> None:
    def git(*words: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        command = ["git", "-C", str(tmp_path), *identity, *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    git("init")
    (tmp_path / "file.py").write_text("1")
    git("add", ".")
    git("commit", "-m", "one")
    commit = git("rev-parse", "HEAD")
    assert git_revision(tmp_path) == {"commit": commit, "changed": False}
    (tmp_path / "file.py").write_text("2")
    assert git_revision(tmp_path) == {"commit": commit, "changed": True}


@pytest.mark.skipif(shutil.which("git") is None, reason="no git here")
def test_asking_for_the_revision_writes_nothing_into_the_checkout(tmp_path) -> None:
    """Else a process that is killed meanwhile leaves a lock there, and git refuses its user's next commit."""
    subprocess.run(["git", "-C", str(tmp_path), "init"], check=True, capture_output=True)
    (tmp_path / "file.py").write_text("1")
    subprocess.run(["git", "-C", str(tmp_path), "add", "."], check=True)
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "-C", str(tmp_path), *identity, "commit", "-m", "one"], check=True, capture_output=True)
    os.utime(tmp_path / "file.py", (1, 1))  # git's index holds another time, which `git status` would correct
    index = tmp_path / ".git" / "index"
    before = index.read_bytes(), index.stat().st_mtime_ns
    assert git_revision(tmp_path)["changed"] is False
    assert (index.read_bytes(), index.stat().st_mtime_ns) == before


def test_without_git_there_is_no_revision(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert git_revision(tmp_path) is None


def test_versions_are_of_the_packages_that_matter() -> None:
    assert {"torch", "lightning", "transformers", "tokenizers"} <= package_versions().keys()


def _claim(logs, count, queue) -> None:
    queue.put([claim_folder(logs).name for _ in range(count)])


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_processes_that_claim_at_the_same_time_get_folders_of_their_own(tmp_path) -> None:
    (tmp_path / "logs" / "version_7").mkdir(parents=True)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=_claim, args=(tmp_path / "logs", 50, queue)) for _ in range(6)]
    for process in processes:
        process.start()
    names = [name for _ in processes for name in queue.get(timeout=60)]
    for process in processes:
        process.join()
    assert sorted(names) == sorted(f"version_{number}" for number in range(8, 308))


def test_a_claim_is_given_back_only_while_nothing_was_trained(tmp_path) -> None:
    folder = claim_folder(tmp_path)
    append_run(folder / "run.json", {})
    (folder / "config.yaml").write_text("")
    release_folder(folder)
    assert not folder.exists()
    folder = claim_folder(tmp_path)
    (folder / "checkpoints").mkdir()
    release_folder(folder)
    assert folder.exists()


WHOLE = [{"started": "2026-11-26T10:00:00+00:00", "finished": "2026-11-26T11:00:00+00:00"}, {"seed": 2}]
TEXT = json.dumps(WHOLE)
BROKEN = {
    "empty": (b"", []),
    "zeros": (bytes(500), []),
    "no JSON": (b"what is this", []),
    "no text": (b"\xff\xfe\x00\xd8", []),
    "cut off": (TEXT[:-3].encode(), WHOLE[:1]),
    "zeros at the end": (TEXT[:-3].encode() + bytes(100), WHOLE[:1]),
    "nested without end": (b"[" * 100_000, []),
    "a dict": (json.dumps(WHOLE[0]).encode(), WHOLE[:1]),
    "a number": (b"7", []),
    "a list of others": (json.dumps([1, "two", None, WHOLE[0], [WHOLE[0]]]).encode(), WHOLE[:1]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_record_is_one_line_costs_no_other_run_and_keeps_what_can_be_read(tmp_path, said, name) -> None:
    content, readable = BROKEN[name]
    record(tmp_path / "version_0", "2026-11-26T09:00:00+00:00")
    (tmp_path / "version_1").mkdir()
    path = tmp_path / "version_1" / "run.json"
    path.write_bytes(content)
    record(tmp_path / "version_2", "2026-11-26T08:00:00+00:00")
    runs = find_runs(tmp_path)
    assert {run.folder.name for run in runs} == {"version_0", "version_1", "version_2"}
    (line,) = said.messages
    assert line.startswith(f"{path} ")
    assert line.endswith(f"of its starts, {len(readable)} can be read")
    assert last_start(path) == (readable[-1] if readable else {})
    append_run(path, {"seed": 3})
    assert json.loads(path.read_text()) == [*readable, {"seed": 3}]
    mark_finished(path, {}, "digest", {})
    assert "finished" in last_start(path)


def test_values_of_wrong_types_in_a_record_are_no_traceback(tmp_path) -> None:
    for number, values in enumerate(
        [{"started": 5, "finished": 7, "slurm_job": [1], "resumed_from": {}}, {"started": "soon"}, {"started": None}]
    ):
        (tmp_path / f"version_{number}").mkdir()
        (tmp_path / f"version_{number}" / "run.json").write_text(json.dumps([values]))
    runs = find_runs(tmp_path)
    assert [run.folder.name for run in runs] == ["version_0", "version_1", "version_2"]
    assert [(run.finished, run.job, run.resumed_from) for run in runs] == [(False, None, None)] * 3


def record(folder, *starts: str) -> None:
    for start in starts:
        append_run(folder / "run.json", {"started": start})


def test_runs_are_in_the_order_of_their_last_starts_whatever_the_times_of_their_files(tmp_path) -> None:
    record(tmp_path / "version_0", "2026-11-26T09:00:00+00:00", "2026-11-26T12:00:00.500+00:00")
    record(tmp_path / "version_1", "2026-11-26T12:00:00.400+00:00")
    record(tmp_path / "version_2", "2026-11-26T13:30:00+02:00")
    for number, folder in enumerate(("version_0", "version_2", "version_1")):
        os.utime(tmp_path / folder / "run.json", (number, number))
    assert [run.folder.name for run in find_runs(tmp_path)] == ["version_2", "version_1", "version_0"]


def test_a_run_without_a_record_comes_after_those_before_it_and_other_peoples_folders_are_none(tmp_path) -> None:
    record(tmp_path / "version_0", "2026-11-26T09:00:00+00:00")
    (tmp_path / "version_1").mkdir()
    (tmp_path / "version_2").mkdir()
    (tmp_path / "version_2" / "config.yaml").write_text("seed_everything: 1\nsave_every_minutes: 15.0\n")
    (tmp_path / "version_2" / "events.out.tfevents.1").write_text("")
    (tmp_path / "version_3").mkdir()
    (tmp_path / "version_3" / "hparams.yaml").write_text("{}")
    (tmp_path / "version_4" / "checkpoints").mkdir(parents=True)
    (tmp_path / "version_4" / "config.yaml").write_text("seed_everything: 1\n")
    (tmp_path / "version_5").write_text("a file")
    assert [run.folder.name for run in find_runs(tmp_path)] == ["version_0", "version_1", "version_2"]


def test_a_damaged_record_beside_a_model_is_taken_as_finished(tmp_path) -> None:
    """What may be a finished run must stay as it is."""
    (tmp_path / "version_0" / "model").mkdir(parents=True)
    (tmp_path / "version_0" / "run.json").write_text("[{")
    (run,) = find_runs(tmp_path)
    assert run.finished
