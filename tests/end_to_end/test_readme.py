"""The README's commands, files, names and Python blocks exist and work."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from functools import cache

import pytest
import yaml

import qa_lightning
from qa_lightning.cli.main import COMMANDS as COMMANDS_THAT_EXIST
from tests.helpers import commands
from tests.helpers.data import make_rows, write_json
from tests.helpers.paths import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.S)


def commands_of(page: str) -> list[list[str]]:
    """The words of each command in the page's bash blocks."""
    return [
        words
        for language, block in re.findall(r"```(\w+)\n(.*?)```", page, flags=re.S)
        if language == "bash"
        for line in block.replace("\\\n", " ").splitlines()
        if (words := shlex.split(line, comments=True))
    ]


@cache
def run_help(command: str) -> str:
    """The output of ``qa-lightning COMMAND --help``."""
    words = [sys.executable, "-m", "qa_lightning", command, "--help"]
    return subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT).stdout


COMMANDS = commands_of(README)


def test_the_first_screen_trains_and_tests() -> None:
    assert [command[:2] for command in COMMANDS[:2]] == [["make", "quickstart"], ["make", "test"]]
    assert README[: README.index("make test")].count("\n") < 20
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(r"^quickstart:.*\n\t.*scripts/train.py --config configs/quickstart.yaml$", makefile, flags=re.M)
    assert re.search(r"^test:.*\n\t.*python -m pytest\b", makefile, flags=re.M)
    ci = (ROOT / ".ci" / "run").read_text()
    assert re.search(r"^make test\b", ci, flags=re.M)


TRAINING = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
TABLE = [shlex.split(text)[1:] for text in re.findall(r"`(qa-lightning [a-z][^`]*)`", README + TRAINING)]
TRAIN = [words[1:] for words in [*TABLE, *(c[1:] for c in commands_of(TRAINING))] if words and words[0] == "train"]


@pytest.mark.parametrize("flags", TRAIN, ids=shlex.join)
def test_training_commands_are_understood(flags, capsys) -> None:
    arguments = [word for word in flags if word not in ("--ckpt_path", "last", "--help")]
    with pytest.raises(SystemExit) as caught:
        commands.train([*arguments, "--print_config"])
    assert caught.value.code == 0
    config = yaml.safe_load(capsys.readouterr().out)
    for flag, value in zip(arguments[::2], arguments[1::2], strict=True):
        if flag != "--config":
            group, name = flag.removeprefix("--").split(".")
            assert str(config[group][name]) == str(yaml.safe_load(value)) or float(config[group][name]) == float(value)


@pytest.mark.parametrize("words", TABLE, ids=shlex.join)
def test_commands_and_flags_that_it_names_exist(words) -> None:
    assert words[0] in COMMANDS_THAT_EXIST
    if words[0] != "train":
        shown = run_help(words[0])
        assert [word for word in words if word.startswith("--") and word not in shown] == []


def test_scripts_configs_and_pictures_that_it_names_exist() -> None:
    named = set(re.findall(r"(?:scripts|configs|docs)/[\w.]+\.(?:py|yaml|png|md)", README))
    assert len(named) >= 5
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


def test_the_fault_table_names_tests_that_exist() -> None:
    table = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", table))
    assert len(named) > 12
    assert [name for name in sorted(named) if f"def {name}(" not in tests] == []
    assert all([*(ROOT / "tests").rglob(name)] for name in re.findall(r"`(\w+\.py)`", table))


def test_the_python_blocks_run(tmp_path, monkeypatch, model_folder) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("train.json", "dev.json"):
        write_json(tmp_path / name, make_rows(12))
    asking, training = (block for language, block in BLOCKS if language == "python")
    training = training.replace('"bert-base-cased"', repr(model_folder))
    training = training.replace("batch_size=16", "batch_size=16, max_length=100, doc_stride=10")
    quiet = "logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator='cpu', max_epochs=1"
    training = training.replace("max_epochs=3", quiet)
    names: dict = {}
    exec(training, names)
    assert names["module"].predictions is not None
    exec(asking.replace("lightning_logs/version_0/model", model_folder), names)
    assert names["answer"]["answer"]


def test_the_public_names_are_those_that_it_shows() -> None:
    for name in qa_lightning.__all__:
        assert getattr(qa_lightning, name) is not None
    for name in ("Reader", "QALightningModule", "SquadDataModule", "SquadMetric", "decode_spans"):
        assert name in README
        assert name in qa_lightning.__all__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        qa_lightning.nothing  # noqa: B018
