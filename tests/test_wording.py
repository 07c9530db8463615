"""Commands are named as the process was called, in every message; a wrong name gets the nearest right one."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from qa_lightning import wording
from qa_lightning.errors import InputError, Voice, naming_flags, speaking, worded
from qa_lightning.models.loading import load_model
from tests.helpers.paths import ROOT

SCRIPTS = ROOT / "scripts"

# argv[0] -> a command in a message, in a usage line, and the program of a run's record
CALLS = [
    ("/usr/bin/qa-lightning", "qa-lightning check-data", "qa-lightning check-data", "qa-lightning"),
    (str(ROOT / "qa_lightning" / "__main__.py"), "qa-lightning check-data", "qa-lightning check-data", "qa-lightning"),
    ("", "qa-lightning check-data", "qa-lightning check-data", ""),
    ("-c", "qa-lightning check-data", "qa-lightning check-data", "-c"),
    ("elsewhere/scripts/train.py", "qa-lightning check-data", "qa-lightning check-data", "train.py"),
    ("scripts/train.py", "python scripts/check_data.py", "check_data.py", "train.py"),
    (str(SCRIPTS / "train.py"), f"python {SCRIPTS}/check_data.py", "check_data.py", "train.py"),
]


@pytest.mark.parametrize(("called", "message", "usage", "program"), CALLS)
def test_a_command_is_named_as_the_process_was_called(monkeypatch, called, message, usage, program) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", [called, "--flag"])
    monkeypatch.setattr(shutil, "which", lambda name: str(Path(sys.executable).with_name(name)))
    assert wording.command("check-data") == message
    assert wording.usage_name("check-data") == usage
    assert wording.program_name() == program


def test_the_words_to_paste_run_this_python(monkeypatch, tmp_path) -> None:
    """PATH leads to this Python, to another one or to none; this one lies below the folder, in it or elsewhere."""
    own, other = tmp_path / "here" / ".venv" / "bin", tmp_path / "other"
    here = own.parents[1]
    for folder in (own, other):
        folder.mkdir(parents=True)
        (folder / "qa-lightning").touch(0o755)
        (folder / "python").symlink_to(sys.executable)
    (own / "python3").symlink_to("python")
    (here / "scripts").symlink_to(SCRIPTS)

    def words(name: str, called: str = "qa-lightning", path: Path | None = None, python: Path = own / "python"):
        monkeypatch.setenv("PATH", str(path) if path else "")
        monkeypatch.setattr(sys, "executable", str(python))
        monkeypatch.setattr(sys, "argv", [called])
        return wording.command_words(name)

    monkeypatch.chdir(here)
    assert words("predict", path=own) == ["qa-lightning", "predict"]
    assert words("predict") == [".venv/bin/python", "-m", "qa_lightning", "predict"]
    assert words("predict", path=other) == [".venv/bin/python", "-m", "qa_lightning", "predict"]
    assert words("check-data", "scripts/train.py", path=own) == ["python", "scripts/check_data.py"]
    assert words("check-data", "scripts/train.py", path=own, python=own / "python3")[0] == "python"
    assert words("check-data", "scripts/train.py", path=other) == [".venv/bin/python", "scripts/check_data.py"]
    assert words("check-data", "scripts/train.py") == [".venv/bin/python", "scripts/check_data.py"]
    monkeypatch.chdir(own)
    assert words("predict") == ["./python", "-m", "qa_lightning", "predict"]
    monkeypatch.chdir(other)
    assert words("predict") == [str(own / "python"), "-m", "qa_lightning", "predict"]


def test_a_script_in_a_message_runs_as_it_is_printed(monkeypatch, tmp_path) -> None:
    """Also below a folder with a space in its name, and without a Python in PATH."""
    folder = tmp_path / "a folder"
    folder.mkdir()
    (folder / "venv").symlink_to(sys.prefix)
    python = Path("a folder/venv") / Path(sys.executable).relative_to(sys.prefix)
    (folder / "scripts").symlink_to(SCRIPTS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setattr(sys, "executable", str(tmp_path / python))
    monkeypatch.setattr(sys, "argv", ["a folder/scripts/train.py"])
    line = wording.command("predict")
    assert shlex.split(line) == [str(python), "a folder/scripts/predict.py"]
    with speaking(Voice()):
        assert worded(f"see `{line} --model M`") == f"see `{line} --model M`"
    done = subprocess.run(f"{line} --help", shell=True, capture_output=True, text=True)
    assert "usage: predict.py" in done.stdout + done.stderr


def test_no_message_names_a_script_but_by_this_module() -> None:
    for path in (ROOT / "qa_lightning").rglob("*.py"):
        if path.name != "wording.py":
            assert re.search(r"scripts/|\b(train|predict|check_data|export)\.py --", path.read_text("utf-8")) is None, (
                path
            )


def test_a_message_names_the_command_whoever_reads_it(monkeypatch, tmp_path) -> None:
    (tmp_path / "model.onnx").touch()
    named = "`qa-lightning train --config quickstart`"
    with pytest.raises(InputError, match=re.escape(named)):
        load_model("nobody/no-such-model")
    assert worded(f"run {named}, or pass --data.max_length 3") == f"run {named}, or pass --data.max_length 3"
    with speaking(Voice()):
        assert worded(f"run {named}, or pass --data.max_length 3") == f"run {named}, or pass max_length=3"
    monkeypatch.setattr(sys, "argv", [str(SCRIPTS / "train.py")])
    monkeypatch.setattr(shutil, "which", lambda name: str(Path(sys.executable).with_name(name)))
    with naming_flags(), pytest.raises(InputError, match=re.escape(f"`python {SCRIPTS}/train.py --config quickstart`")):
        load_model("nobody/no-such-model")


@pytest.mark.parametrize(
    ("word", "known", "expected"),
    [
        ("evalute", ["train", "evaluate"], "; did you mean evaluate?"),
        ("--data.bach_size", ["--data.batch_size", "--data.dataset"], "; did you mean --data.batch_size?"),
        ("--batch_size", ["--data.batch_size", "--data.dataset"], "; did you mean --data.batch_size?"),
        ("sing", ["train", "evaluate"], ""),
    ],
)
def test_the_nearest_right_name_is_told(word, known, expected) -> None:
    assert wording.did_you_mean(word, known) == expected


@pytest.mark.parametrize("script", ["train", "check_data", "evaluate", "predict", "export"])
def test_scripts_run_their_checkout_from_anywhere_installed_or_not(script: str, tmp_path) -> None:
    """In another folder, with a package of the same name there, and without PYTHONPATH."""
    other = tmp_path / "qa_lightning"
    other.mkdir()
    (other / "__init__.py").write_text("raise AssertionError('the wrong package')")
    code = (
        "import runpy, sys; sys.path[0] = sys.argv[1]; sys.argv = sys.argv[2:];"
        "runpy.run_path(sys.argv[0]);"  # as __mp_main__ has it: nothing runs but the imports
        "import qa_lightning; print(qa_lightning.__file__); print(sys.path[0]); print(*sys.path, sep='\\n')"
    )
    path = SCRIPTS / f"{script}.py"
    words = [sys.executable, "-c", code, str(SCRIPTS), str(path)]
    done = subprocess.run(words, cwd=tmp_path, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True)
    assert done.stderr == ""
    file, first, *rest = done.stdout.splitlines()
    assert Path(file) == ROOT / "qa_lightning" / "__init__.py"
    assert first == str(ROOT)
    assert str(SCRIPTS) not in rest  # its evaluate.py would hide the library


@pytest.mark.parametrize("script", ["check_data", "evaluate"])
def test_scripts_say_their_own_name_and_load_no_torch(script: str, tmp_path) -> None:
    path = SCRIPTS / f"{script}.py"
    code = f"import sys; sys.argv = [{str(path)!r}, '--help']; sys.path[0] = ''\nimport runpy\n"
    code += f"try: runpy.run_path({str(path)!r}, run_name='__main__')\n"
    code += "finally: print('torch' in sys.modules, sys.modules['qa_lightning'].__file__)"
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, cwd=tmp_path, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: {script}.py ")
    assert done.stdout.splitlines()[-1] == f"False {ROOT / 'qa_lightning' / '__init__.py'}"


def test_the_command_to_ask_with_is_one_line_for_the_shell(monkeypatch) -> None:
    from qa_lightning.training.finish import ask_command

    monkeypatch.setattr(shutil, "which", lambda name: str(Path(sys.executable).with_name(name)))
    monkeypatch.setattr(sys, "argv", ["qa-lightning"])
    line = ask_command(Path("a folder/model"), "Who's there?", 'He said "Ben".')
    words = ["qa-lightning", "predict", "--model", "a folder/model"]
    assert shlex.split(line) == [*words, "--question", "Who's there?", "--context", 'He said "Ben".']
