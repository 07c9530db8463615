"""Files that are written whole or not at all, also by several processes at once and after a kill."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qa_lightning import files
from qa_lightning.files import lives, new_folder, write_file
from qa_lightning.paths import write_problem


def _write(path: Path, content: bytes, times: int) -> None:
    for _ in range(times):
        write_file(path, content)


def test_processes_that_write_the_same_file_leave_one_of_their_contents(tmp_path) -> None:
    """A part that a living process writes is not taken for one that a killed process left."""
    path, contents = tmp_path / "a.json", [letter * 50_000 for letter in (b"a", b"b")]
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write, args=(path, content, 150)) for content in contents]
    for one in writers:
        one.start()
    for one in writers:
        one.join()
    assert [one.exitcode for one in writers] == [0, 0]
    assert path.read_bytes() in contents
    assert [one.name for one in tmp_path.iterdir()] == ["a.json"]


def dead_process() -> int:
    ended = subprocess.Popen([sys.executable, "-S", "-c", ""])
    ended.wait()
    return ended.pid


@pytest.mark.parametrize("folder", [False, True])
def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path, folder) -> None:
    path = tmp_path / "model"
    dead, alive = (
        tmp_path / f".model.{files._host()}-{process}.abc.part" for process in (dead_process(), os.getppid())
    )
    far, long_ago, older = (tmp_path / f".model.{name}.part" for name in ("01234567-1.abc", "01234567-2.abc", "abc"))
    own, same_number = (tmp_path / f".model.{files._host()}-{os.getpid()}.{name}.part" for name in ("abc", "def"))
    for part in (dead, alive, far, long_ago, older, own, same_number):
        part.mkdir() if folder else part.touch()
    before = time.time() - 700
    for part in (long_ago, older):
        os.utime(part, (before, before))
    os.utime(same_number, (0, 0))  # of a container before it was started again
    if folder:
        with new_folder(path) as part:
            (part / "a").touch()
    else:
        write_file(path, "a")
    assert {one for one in tmp_path.iterdir() if one != path} == {alive, far, own}


def test_a_file_is_written_where_a_link_leads_to_and_no_device_is_replaced(tmp_path) -> None:
    (tmp_path / "link").symlink_to("far/file")
    for content in ("a", "b"):  # it is not there at first
        write_file(tmp_path / "link", content)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "far" / "file").read_text() == content
    (tmp_path / "null").symlink_to(os.devnull)
    os.mkfifo(tmp_path / "pipe")
    for name in ("null", "pipe"):
        with pytest.raises(OSError, match="it is a pipe or a device"):
            write_file(tmp_path / name, "a")
    assert (tmp_path / "null").is_symlink()
    assert {path.name for path in tmp_path.iterdir()} == {"far", "link", "null", "pipe"}


def test_a_folder_is_replaced_where_a_link_leads_to(tmp_path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "old").touch()
    (tmp_path / "link").symlink_to("far")
    with new_folder(tmp_path / "link") as part:
        (part / "new").touch()
    assert (tmp_path / "link").is_symlink()
    assert [path.name for path in (tmp_path / "far").iterdir()] == ["new"]


def test_a_process_of_somebody_else_lives(monkeypatch) -> None:
    def refused(process: int, signal: int) -> None:
        raise PermissionError

    assert lives(os.getpid())
    assert not lives(dead_process())
    monkeypatch.setattr(os, "kill", refused)
    assert lives(1)


def test_a_folder_that_could_be_written_is_not_left_behind(tmp_path) -> None:
    (tmp_path / "here").mkdir()
    for folder in (tmp_path / "a" / "b" / "c", tmp_path / "here"):
        assert write_problem(folder) is None
    assert [path.name for path in tmp_path.iterdir()] == ["here"]
    (tmp_path / "file").touch()
    assert write_problem(tmp_path / "file" / "a") == "where nothing can be written (Not a directory)"
