from __future__ import annotations

import json
import shutil
import subprocess

import pytest

from qa_lightning.runs.record import append_run, git_revision, last_start, mark_finished, package_versions


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
    mark_finished(path, {"best/f1": 80.0}, "digest")
    first, second, third = json.loads(path.read_text(encoding="utf-8"))
    assert [first, second] == starts[:2]
    assert third["seed"] == 3
    assert (third["scores"], third["weights"]) == ({"best/f1": 80.0}, "digest")
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


def test_without_git_there_is_no_revision(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert git_revision(tmp_path) is None


def test_versions_are_of_the_packages_that_matter() -> None:
    assert {"torch", "lightning", "transformers", "tokenizers"} <= package_versions().keys()
