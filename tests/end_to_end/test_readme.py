"""The README's commands, files, names and Python blocks exist and work."""

from __future__ import annotations

import json
import os
import re
import shlex
from functools import cache

import pandas as pd
import pytest
import yaml

import qa_lightning
from qa_lightning.cli.main import COMMANDS as COMMANDS_THAT_EXIST
from tests.helpers import commands
from tests.helpers.data import make_rows
from tests.helpers.paths import ROOT
from tests.helpers.processes import finished

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
    """All flags of ``qa-lightning COMMAND``, with their help."""
    words = ["-m", "qa_lightning", command, "--help_all" if command == "train" else "--help"]
    ended = finished(words, cwd=ROOT)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


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
    arguments = [word for word in flags if word not in ("--ckpt_path", "last", "--help", "--help_all")]
    config = commands.printed_config(arguments, capsys)
    for flag, value in zip(arguments[::2], arguments[1::2], strict=True):
        if flag != "--config":
            group, _, name = flag.removeprefix("--").rpartition(".")
            found = (config[group] if group else config)[name]
            assert str(found) == str(yaml.safe_load(value)) or float(found) == float(value)


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


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # of peft
def test_the_python_blocks_run(tmp_path, monkeypatch, model_folder, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [row | {"answer": row.pop("answers")["text"][0]} for row in make_rows(40)]
    pd.DataFrame(rows).to_csv("questions.csv", index=False)
    (block,) = (block for language, block in BLOCKS if language == "python")
    names: dict = {}
    exec(small(block, model_folder, "batch_size=16"), names)
    printed = capsys.readouterr().out
    assert re.search(r"^epoch 1/1 .* EM +\d+\.\d\d  F1 ", printed, flags=re.M)
    assert f"Predictions for {len(names['module'].predictions)} questions" in printed
    assert printed.splitlines()[-1].startswith(names["answer"]["answer"])
    assert (tmp_path / "my-model" / "model.safetensors").is_file()
    python_page(names | {"questions": names["questions"].head(3), "validation": "questions.csv"}, model_folder)


def small(code: str, model: str, data: str) -> str:
    """Code of a page for a model of 128 positions, in one epoch, without a bar; ``data`` stands in the data's call."""
    code = code.replace('"bert-base-cased"', repr(model)).replace(data, f"{data}, max_length=100, doc_stride=10")
    return code.replace("max_epochs=3", "max_epochs=1, enable_progress_bar=False, accelerator='cpu', logger=False")


def python_page(names: dict, model: str) -> None:
    """Run the blocks of docs/python.md after those of the README, one after the other."""
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    blocks = [block for language, block in re.findall(r"```(\w+)\n(.*?)```", page, flags=re.S) if language == "python"]
    names |= {"dataset": names["questions"]}
    for block in blocks:
        exec(small(block, model, "model_name=" + repr(model)), names)
    assert [answer.text for answer in names["answers"]]
    assert names["reader"].settings.max_length == 100
    assert names["trainer"].callback_metrics["val/f1"] >= 0


NOTEBOOK = ROOT / "docs" / "notebook.ipynb"


@pytest.mark.slow
def test_the_notebook_runs_and_reads_well(tmp_path) -> None:
    nbformat = pytest.importorskip("nbformat")
    client = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(NOTEBOOK, 4)
    for cell in notebook.cells:
        cell.source = cell.source.replace('"train", 5000', '"train", 200').replace("max_epochs=5", "max_epochs=1")
        cell["outputs"] = []
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.getenv("PYTHONPATH")])])}
    runs = client.NotebookClient(notebook, timeout=200, resources={"metadata": {"path": str(tmp_path)}})
    runs.execute(env=environment)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    texts = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs]
    said = "".join(texts)
    assert re.search(r"^epoch 1/1 .* EM +\d+\.\d\d  F1 ", said, flags=re.M)
    assert "Predictions for" in said
    assert "\r" not in said  # of a bar
    assert "'answer': " in texts[-2]
    assert "<mark" in outputs[-1]["data"]["text/html"]
    assert (tmp_path / "my-model" / "model.safetensors").is_file()


def test_the_notebook_holds_what_it_printed_and_nothing_of_the_machine() -> None:
    cells = [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == [*range(1, len(cells) + 1)]
    printed = json.dumps([cell["outputs"] for cell in cells])
    assert "epoch 5/5" in printed
    assert "stderr" not in printed
    assert "site-packages" not in printed


def test_the_public_names_are_those_that_it_shows() -> None:
    for name in qa_lightning.__all__:
        assert getattr(qa_lightning, name) is not None
    for name in ("Reader", "QALightningModule", "SquadDataModule", "SquadMetric", "decode_spans"):
        assert name in README
        assert name in qa_lightning.__all__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        qa_lightning.nothing  # noqa: B018
