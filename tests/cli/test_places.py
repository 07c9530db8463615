"""A command that cannot write where it must ends with one line that names the place and the fix."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from qa_lightning.errors import InputError
from qa_lightning.export import onnx
from tests.helpers import commands
from tests.helpers.data import make_rows, write_json
from tests.helpers.training import train_flags

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
    monkeypatch.setattr(onnx, "write_onnx", lambda *given: (given[3] / "model.onnx").write_bytes(bytes(9999)))
    said = problem("export", "--model", model_folder, "--format", "onnx", "--output", full / "onnx")
    assert said == f"--output {full / 'onnx'} {expected}; name another folder"


def refused(capsys, command: str, *words: object) -> str:
    """The one line with which a command refuses, whether with its flags or later."""
    with pytest.raises((InputError, SystemExit)) as caught:
        getattr(commands, command)([str(word) for word in words])
    (line,) = (capsys.readouterr().err if caught.type is SystemExit else str(caught.value)).splitlines()
    return line.removeprefix("error: ")


@pytest.mark.parametrize("named", ["{}/*.json", "{0}/predictions.json,{0}/data.json", "{}/predictions.json", "link"])
def test_an_evaluation_does_not_write_over_its_data(named, model_folder, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    for name in ("predictions.json", "data.json"):
        write_json(out / name, make_rows(3))
    (tmp_path / "link").symlink_to(out / "predictions.json")
    (tmp_path / "link.json").symlink_to(out / "predictions.json")
    before = (out / "predictions.json").read_bytes()
    flags = ["--data", "link.json" if named == "link" else named.format(out), "--output_dir", "out"]
    expected = (
        "--output_dir out: predictions.json in it is what --data reads, and would be replaced; name another folder"
    )
    assert refused(capsys, "evaluate", "--model", model_folder, *flags) == expected
    flags = ["--predictions", "link.json", "--data", out / "data.json", "--output_dir", "out"]
    assert refused(capsys, "evaluate", *flags) == expected.replace("--data", "--predictions")
    assert (out / "predictions.json").read_bytes() == before


def test_nothing_is_written_among_the_files_of_a_model(model_folder, data, tmp_path, capsys) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    (tmp_path / "link").symlink_to(folder)
    there = sorted(folder.iterdir())
    model, link = ("--model", folder, "--data", data), tmp_path / "link"
    expected = "is the folder of --model; name another folder"
    assert refused(capsys, "evaluate", *model, "--output_dir", link) == f"--output_dir {link}: {expected}"
    expected = "is in the folder of --model; name a file outside of it"
    assert refused(capsys, "report", *model, "--output", link / "r.html") == f"--output {link / 'r.html'} {expected}"
    other = ("--model", model_folder, "--data", data, "--against", folder)
    said = refused(capsys, "report", *other, "--output", link / "r.html")
    assert said == f"--output {link / 'r.html'} {expected}".replace("--model", "--against")
    said = refused(capsys, "check_data", data, "--model", folder, "--json", folder / "report.json")
    assert said == f"--json {folder / 'report.json'} {expected}"
    assert sorted(folder.iterdir()) == there


def test_a_check_does_not_write_over_its_data(data, tmp_path, capsys) -> None:
    before = Path(data).read_bytes()
    (tmp_path / "link.json").symlink_to(data)
    for words in ([data, "--json", tmp_path / "link.json"], ["synthetic", "--validation", data, "--json", data]):
        assert refused(capsys, "check_data", *words).endswith("; name another file")
    assert Path(data).read_bytes() == before
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "stdout").symlink_to(tmp_path / "pipe")
    assert refused(capsys, "check_data", data, "--json", tmp_path / "stdout").endswith("a device; name a file")
    assert (tmp_path / "stdout").is_symlink()


def test_a_place_for_scores_that_cannot_be_one_is_said_before_scoring(data, tmp_path, capsys) -> None:
    (tmp_path / "nothing").symlink_to(tmp_path / "gone")
    (tmp_path / "taken" / "metrics.json").mkdir(parents=True)
    for place, expected in {
        "data.json": "is a file",
        "data.json/scores": f"is below {data}, which is a file",
        "nothing": "is a link to nothing",
        "nothing/scores": f"is below {tmp_path / 'nothing'}, which is a link to nothing",
        "taken": "holds a folder named metrics.json, where a file is to be written",
    }.items():
        said = refused(capsys, "evaluate", "--model", "no model", "--data", data, "--output_dir", tmp_path / place)
        assert said == f"--output_dir {tmp_path / place}: {expected}; name another folder"
    assert not (tmp_path / "gone").exists()


NO_PATHS = {
    "x" * 300: "File name too long",
    "~nobody-of-this-name/y": "there is no home folder of this user",
    "loop": "Too many levels of symbolic links",
}


@pytest.mark.parametrize("name", NO_PATHS)
def test_what_can_be_no_path_is_one_line(name, model_folder, data, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    for loop in ("loop", "loop.ckpt", "loop.html"):
        Path(loop).symlink_to(loop)
    model, train = ("--model", model_folder), ("--config", "quickstart", "--data.dataset", data)
    asked = ("--model", "no model", "--data", data)
    for command, *words in (
        ("predict", *model, "--input", data, "--output", name),
        ("predict", *model, "--input", data, "--output", "a.jsonl", "--threshold_file", name),
        ("evaluate", *asked, "--output_dir", name),
        ("evaluate", "--predictions", name, "--data", data),
        ("report", *asked, "--output", f"{name}.html"),
        ("check_data", data, "--json", name),
        ("compare", name),
        ("compare", ".", "--output", f"{name}.html"),
        ("export", "--format", "onnx", *model, "--output", name),
        ("export", "--format", "transformers", "--model", f"{name}.ckpt", "--output", "new"),
        ("sweep", *train, "--study", name),
        ("sweep", *train, "--space", name),
        ("crossval", *train, "--study", name),
        ("train", "--config", name),
        ("train", *train, "--ckpt_path", name),
        ("train", *train, "--trainer.default_root_dir", name),
        ("train", *train, "--data.cache_dir", name),
        ("train", *train, "--model.teacher", name),
    ):
        said = refused(capsys, command, *words)
        assert NO_PATHS[name] in said, (command, words)
        place = next(number for number, word in enumerate(words) if str(word).startswith(name))
        assert said.startswith(str(words[place - 1]) if place else "RUN")
    assert {path.name for path in tmp_path.iterdir()} <= {
        "data.json",
        "loop",
        "loop.ckpt",
        "loop.html",
        "lightning_logs",
    }


def test_a_home_is_where_its_user_finds_it(model_folder, data, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert commands.predict(["--model", model_folder, "--input", data, "--output", "~/a.jsonl"]) == 0
    flags = ["--predictions", "~/a.jsonl", "--data", data, "--output_dir", "~/scores", "--batch_size", "32"]
    assert commands.evaluate(flags) == 0
    assert commands.check_data([data, "--json", "~/report.json"]) == 0
    flags = train_flags(tmp_path, model_folder, data, data)
    flags[flags.index("--trainer.default_root_dir") + 1] = "~/runs"
    assert commands.train([*flags, "--trainer.max_steps", "1"]) == 0
    there = {path.name for path in (tmp_path / "home").iterdir()}
    assert there >= {"a.jsonl", "scores", "report.json", "runs"}
    assert not Path("~").exists()


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
