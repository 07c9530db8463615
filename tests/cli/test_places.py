"""A command that cannot write where it must ends with one line that names the place and the fix."""

from __future__ import annotations

import contextlib
import pwd
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from qa_lightning.errors import InputError
from qa_lightning.export import onnx
from tests.helpers import commands
from tests.helpers.data import make_rows, write_json

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="mounts and users of POSIX")


@pytest.fixture
def full(tmp_path):
    """A folder on a disk without any room."""
    disk = tmp_path / "full"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("no right to mount a small disk")
    try:
        with (disk / "fill").open("wb", buffering=0) as fill, contextlib.suppress(OSError):
            while True:
                fill.write(bytes(1024))
        yield disk
        assert not [path for path in disk.rglob("*") if path.is_file() and path.suffix not in ("", ".lock")]
        assert not list(disk.rglob("*.part"))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def problem(command: str, *words: object) -> str:
    """The one line with which a command, as a function, refuses."""
    with pytest.raises(InputError) as caught:
        getattr(commands, command)([str(word) for word in words])
    (line,) = str(caught.value).split("\n")
    return line


@pytest.fixture
def data(tmp_path) -> str:
    return write_json(tmp_path / "data.json", make_rows(6))


def test_what_a_command_writes_does_not_fit_on_the_disk(full, model_folder, data, monkeypatch) -> None:
    expected = "cannot be written (No space left on device)"
    said = problem("check_data", data, "--json", full / "report.json")
    assert said == f"--json {full / 'report.json'}: {expected}; free some space, or name another file"
    said = problem("evaluate", "--model", model_folder, "--data", data, "--output_dir", full / "out")
    assert said == f"--output_dir {full / 'out'}: {expected}; free some space, or name another folder"
    said = problem("predict", "--model", model_folder, "--input", data, "--output", full / "answers.jsonl")
    assert said == f"--output {full / 'answers.jsonl'} {expected}; free some space, or make its folder writable"
    pytest.importorskip("onnxscript")
    monkeypatch.setattr(onnx, "write_onnx", lambda *given: (given[-1] / "model.onnx").write_bytes(bytes(9999)))
    said = problem("export", "--model", model_folder, "--format", "onnx", "--output", full / "onnx")
    assert said == f"--output {full / 'onnx'} {expected}; name another folder"


def test_the_cache_does_not_fit_on_the_disk(full, model_folder, data, monkeypatch) -> None:
    monkeypatch.setenv("QA_LIGHTNING_CACHE", str(full / "cache"))
    said = problem("evaluate", "--model", model_folder, "--data", data)
    assert said.startswith(str(full / "cache"))
    assert "cannot be made (No space left on device); free some space there" in said
    assert "let QA_LIGHTNING_CACHE name another folder (`qa-lightning train --data.cache_dir` does, too)" in said


def test_temporary_files_do_not_fit_on_the_disk(full, model_folder, data, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(full))
    said = problem("check_data", data, "--model", model_folder)
    assert said == (
        f"temporary files cannot be written in {full} (No space left on device); free some space there, or let TMPDIR "
        "name another folder"
    )
    # The others write none.
    assert commands.evaluate(["--model", model_folder, "--data", data]) == 0
    assert commands.predict(["--model", model_folder, "--input", data, "--output", str(tmp_path / "a.jsonl")]) == 0


def test_without_a_home_only_the_cache_is_missed(model_folder, data, tmp_path, monkeypatch, capsys) -> None:
    def nobody(user: int) -> None:
        raise KeyError(user)

    for name in ("HOME", "XDG_CACHE_HOME", "QA_LIGHTNING_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    expected = "; let QA_LIGHTNING_CACHE, or HOME, name a folder"
    assert problem("evaluate", "--model", model_folder, "--data", data).endswith(expected)
    assert problem("predict", "--model", "tiny", "--question", "Who?", "--context", "Ann.").endswith(expected)
    assert commands.check_data([data, "--model", model_folder]) == 0
    assert commands.predict(["--model", model_folder, "--input", data, "--output", str(tmp_path / "a.jsonl")]) == 0
    assert Path(tmp_path / "a.jsonl").stat().st_size
