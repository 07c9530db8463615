"""A wheel that is installed without the checkout holds everything that the commands need."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

AT_START = "qa_lightning_restore.pth"

# One process runs all commands, because each process waits for torch. The lines with $ separate their outputs.
SEVERAL = """
import json, sys
import qa_lightning
from qa_lightning.cli.main import dispatch

for words in json.loads(sys.argv.pop()):
    print("$", *words, flush=True)
    status = dispatch(words)
    assert status == 0, (words, status)
print("file", qa_lightning.__file__)
"""


def pip(*words: str | Path) -> None:
    quiet = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-index"]
    subprocess.run([sys.executable, "-m", "pip", words[0], *quiet, *map(str, words[1:])], check=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Build the wheel from a copy: setuptools writes into its source folder, and packs what an old build left there."""
    folder = tmp_path_factory.mktemp("wheel")
    (folder / "source").mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", AT_START):
        shutil.copy(ROOT / name, folder / "source")
    for name in ("qa_lightning", "configs"):
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip("wheel", "--no-build-isolation", "--wheel-dir", folder, folder / "source")
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    pip("install", "--target", folder, wheel)
    return folder


def run(site: Path, folder: Path, *words: str) -> str:
    """Run a command in a folder from which the checkout cannot be imported; returns its output."""
    done = subprocess.run(
        words,
        cwd=folder,
        env=os.environ
        | {
            "PYTHONPATH": str(site),
            "PATH": f"{site / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_holds_the_package_and_the_configs_and_nothing_else(wheel) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    package = {path.relative_to(ROOT).as_posix() for path in (ROOT / "qa_lightning").rglob("*") if path.is_file()}
    package = {name for name in package if "__pycache__" not in name}
    assert names == package | {AT_START} | {
        f"qa_lightning/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "configs").rglob("*.yaml")
    }


def test_every_command_works_in_an_empty_folder(site, tmp_path) -> None:
    (tmp_path / "questions.csv").write_text(
        "frage,context,answer\nWhat does Ben play?,Ben plays the cello.,cello\nWho sings?,Ana sings a lot.,Ana\n"
    )
    few = ["--data.max_train_examples", "128", "--data.max_validation_examples", "40", "--trainer.max_epochs", "1"]
    model = "lightning_logs/version_0/model"
    commands = [
        ["train", "--config", "quickstart", *few, "--trainer.log_every_n_steps", "1"],
        ["check-data", "questions.csv", "--model", model, "--columns.question", "frage"],
        ["evaluate", "--model", model, "--data", "synthetic", "--max_examples", "40", "--output_dir", "scores"],
        ["predict", "--model", model, "--input", "questions.csv", "--output", "a.jsonl", "--columns.question", "frage"],
        ["compare", "lightning_logs/version_0", "--output", "runs.html"],
    ]
    out = run(site, tmp_path, sys.executable, "-c", SEVERAL, json.dumps(commands))
    said = dict(zip((words[0] for words in commands), re.split(r"^\$ .*\n", out, flags=re.MULTILINE)[1:], strict=True))
    assert out.splitlines()[-1] == f"file {site / 'qa_lightning' / '__init__.py'}"
    best = re.search(r"best checkpoint +EM +([\d.]+)", said["train"])
    assert best is not None
    assert (tmp_path / "lightning_logs" / "version_0" / "report.html").is_file()
    assert (tmp_path / "runs.html").is_file()
    assert "nothing was found that is wrong" in said["check-data"]
    assert re.search(rf"^exact_match +{best[1]}00$", said["evaluate"], flags=re.MULTILINE)
    assert len(json.loads((tmp_path / "scores" / "predictions.json").read_text())) == 40
    answers = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert len(answers) == 2
    # The command that the run printed can be pasted, whichever of the two doors leads to this Python.
    (line,) = (line for line in said["train"].splitlines() if line.startswith("ask it:"))
    words = shlex.split(line.removeprefix("ask it:"))
    assert words[words.index("predict") - 1] in ("qa-lightning", "qa_lightning")
    answer = json.loads(run(site, tmp_path, *words, "--json"))
    context = words[words.index("--context") + 1]
    assert context[answer["start"] : answer["end"]] == answer["answer"]


def test_the_console_script_and_the_module_are_the_same(site, tmp_path) -> None:
    for words in (["qa-lightning"], [sys.executable, "-m", "qa_lightning"]):
        assert re.fullmatch(r"qa-lightning \d+\.\d+\.\d+\S*\n", run(site, tmp_path, *words, "--version"))
    assert "check-data  " in run(site, tmp_path, "qa-lightning")
    assert run(site, tmp_path, "qa-lightning", "predict", "--help").startswith("usage: qa-lightning predict ")
