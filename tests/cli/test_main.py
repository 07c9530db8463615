"""`qa-lightning` and its commands: the table, the way to each, names of configs, and what `--help` waits for."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from qa_lightning.cli import main
from qa_lightning.cli.train import config_files, train, with_config_files
from qa_lightning.errors import InputError
from tests.helpers import commands
from tests.helpers.paths import ROOT


def called(monkeypatch, capsys, *words: str) -> tuple[int, str, str]:
    """Status and output of `qa-lightning WORDS`."""
    monkeypatch.setattr(sys, "argv", ["qa-lightning", *words])
    with pytest.raises(SystemExit) as ended:
        main.main()
    return ended.value.code, *capsys.readouterr()


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",)])
def test_alone_it_lists_the_commands_with_a_line_each(monkeypatch, capsys, words) -> None:
    status, out, err = called(monkeypatch, capsys, *words)
    assert (status, err) == (0, "")
    for name, command in main.COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(command.help)}$", out, flags=re.MULTILINE)


def test_every_command_of_the_table_is_there() -> None:
    for name, command in main.COMMANDS.items():
        module, _, function = command.function.partition(":")
        assert callable(getattr(import_module(module), function))
        script = ROOT / "scripts" / f"{name.replace('-', '_')}.py"
        assert script.read_text("utf-8").endswith(f'run("{name}")\n')
    assert {path.stem.replace("_", "-") for path in (ROOT / "scripts").glob("*.py")} == set(main.COMMANDS)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["evalute"], "error: there is no command 'evalute'; did you mean evaluate?\n"),
        (["check_data"], "error: there is no command 'check_data'; did you mean check-data?\n"),
        (["sing"], f"error: there is no command 'sing'; there are {', '.join(main.COMMANDS)}\n"),
        (
            ["--model", "m"],
            f"error: --model: a command comes before its flags; the commands are {', '.join(main.COMMANDS)}\n",
        ),
    ],
)
def test_a_wrong_command_is_one_line_with_the_right_one(monkeypatch, capsys, words, said) -> None:
    assert called(monkeypatch, capsys, *words) == (2, "", said)


def test_the_version_is_that_of_the_project(monkeypatch, capsys) -> None:
    version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text("utf-8"), flags=re.MULTILINE)
    assert version is not None
    assert called(monkeypatch, capsys, "--version") == (0, f"qa-lightning {version[1]}\n", "")


@pytest.mark.parametrize("words", [[], ["--version"], *([name, "--help"] for name in main.COMMANDS)])
def test_help_and_version_do_not_wait_for_torch(words: list[str], tmp_path) -> None:
    code = (
        f"import sys; sys.argv = ['qa-lightning', *{words!r}]\n"
        "from qa_lightning.cli.main import main\n"
        "try: main()\n"
        "finally: print(sorted({'torch', 'lightning', 'transformers', 'datasets', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "[]"
    if len(words) == 2:
        begin = "Fine-tune a question" if words[0] == "train" else f"usage: qa-lightning {words[0]} "
        assert done.stdout.startswith(begin)


def test_help_asks_for_no_network_and_a_command_does(monkeypatch) -> None:
    asked = []
    monkeypatch.setattr(main, "use_cache_without_network", lambda: asked.append(1))
    monkeypatch.setitem(main.COMMANDS, "train", main.Command("operator:length_hint", "a function that takes a list"))
    main.dispatch(["train", "--help"])
    assert asked == []
    assert main.dispatch(["train", "x"]) == 1
    assert asked == [1]


def test_training_help_waits_for_the_libraries_only_where_all_flags_are_listed(monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "qa_lightning.training.flags", None)  # importing it fails
    monkeypatch.setattr(sys, "argv", ["qa-lightning"])
    with pytest.raises(ImportError):
        train(["--help_all"])
    assert capsys.readouterr().out.endswith("\nEvery flag, in full:\n\n")
    assert train(["--data.batch_size", "4", "--help"]) == 0
    out = capsys.readouterr().out
    assert out.endswith("\nEvery flag, in full: qa-lightning train --help_all\n")
    assert out.startswith("Fine-tune a question answering model")
    assert "\n  qa-lightning train --config quickstart\n" in out
    assert "fast_cpu, gpu, quickstart, small_data, small_data_base, squad, squad_v2" in out
    monkeypatch.setattr(sys, "argv", [str(ROOT / "scripts" / "train.py")])
    monkeypatch.setattr(shutil, "which", lambda name: str(Path(sys.executable).with_name(name)))
    assert train(["-h"]) == 0
    assert f"\n  python {ROOT}/scripts/train.py --config quickstart\n" in capsys.readouterr().out


# --- configs by name ---


@pytest.mark.parametrize("flag", [["--config", "squad_v2"], ["--config=squad_v2"], ["-c", "squad_v2"]])
def test_a_shipped_config_goes_by_name(tmp_path, monkeypatch, capsys, flag) -> None:
    monkeypatch.chdir(tmp_path)
    config = commands.printed_config([*flag, "--data.batch_size", "3"], capsys)
    assert (config["data"]["dataset"], config["data"]["batch_size"]) == ("rajpurkar/squad_v2", 3)


def test_files_and_settings_written_out_stay_what_they_are(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert list(config_files()) == [path.stem for path in sorted((ROOT / "configs").glob("*.yaml"))]
    shipped = str(config_files()["quickstart"])
    assert list(with_config_files(["--config", "quickstart", "--config=quickstart", "-c", "quickstart"])) == [
        *("--config", shipped, f"--config={shipped}", "-c", shipped)
    ]
    others = [
        "--data.dataset",
        "quickstart",
        "--data.dataset=quickstart",
        "--config",
        "data: {batch_size: 3}",
        "--config",
    ]
    assert list(with_config_files(others)) == others
    (tmp_path / "quickstart").mkdir()
    assert list(with_config_files(["--config", "quickstart"])) == ["--config", shipped]  # a folder is no config
    (tmp_path / "squad").write_text("seed_everything: 1")
    assert list(with_config_files(["--config", "squad"])) == ["--config", "squad"]  # a file comes first


@pytest.mark.parametrize("given", ["quikstart", "configs/quickstart.yaml", "nothing"])
def test_an_unknown_config_lists_the_shipped_ones_and_says_where_it_looked(tmp_path, monkeypatch, given) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as raised:
        train(["--config", given])
    text = str(raised.value)
    assert text.startswith(f"--config {given}: no such file in {tmp_path}, ")
    assert (
        f"fast_cpu, gpu, quickstart, small_data, small_data_base, squad, squad_v2, which lie in {ROOT / 'configs'}"
        in text
    )
    assert text.endswith("; did you mean quickstart?") == (given != "nothing")
