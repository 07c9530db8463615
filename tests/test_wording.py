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
    assert wording.command("check-data") == message
    assert wording.usage_name("check-data") == usage
    assert wording.program_name() == program


def test_the_words_to_paste_run_here(monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", "/usr/bin/python3")
    monkeypatch.setattr(sys, "argv", ["/usr/bin/qa-lightning"])
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    assert wording.command_words("predict") == ["qa-lightning", "predict"]
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert wording.command_words("predict") == ["python", "-m", "qa_lightning", "predict"]
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv" / "bin" / "python"))
    assert wording.command_words("predict") == [".venv/bin/python", "-m", "qa_lightning", "predict"]
    (tmp_path / "scripts").symlink_to(SCRIPTS)
    monkeypatch.setattr(sys, "argv", ["scripts/train.py"])
    assert wording.command_words("check-data") == [".venv/bin/python", "scripts/check_data.py"]


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

    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(sys, "argv", ["qa-lightning"])
    line = ask_command(Path("a folder/model"), "Who's there?", 'He said "Ben".')
    words = ["qa-lightning", "predict", "--model", "a folder/model"]
    assert shlex.split(line) == [*words, "--question", "Who's there?", "--context", 'He said "Ben".']
