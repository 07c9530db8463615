"""The commands of docs/your-own-data.md print what the page says."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from qa_lightning.cli.train import with_config_files
from tests.helpers import commands
from tests.helpers.paths import ROOT
from tests.helpers.processes import environment, finished

TEXT = (ROOT / "docs" / "your-own-data.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, flags=re.S)


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    words = shlex.split(command)
    assert words[0] == "qa-lightning"
    return finished(["-m", "qa_lightning", *words[1:]], cwd=folder, env=environment() | {"COLUMNS": "80"})


@pytest.mark.slow
def test_from_a_table_of_ten_questions_to_an_answered_one(tmp_path) -> None:
    (table,) = (block for language, block in BLOCKS if language == "csv")
    (tmp_path / "questions.csv").write_text(table, encoding="utf-8")
    check, train, ask, _ = (block.strip() for language, block in BLOCKS if language == "bash")
    report, answer, *_ = (block for language, block in BLOCKS if language == "text")

    checked = run(f"{check} --json report.json", tmp_path)
    assert checked.returncode == 1, checked.stderr
    for line in report.splitlines():
        assert line in checked.stdout
    found = json.loads((tmp_path / "report.json").read_text())["findings"]
    assert [(one["kind"], one["count"]) for one in found] == [("misplaced", 2)]

    stopped = run(train.replace("--data.on_bad_rows repair ", ""), tmp_path)
    assert stopped.returncode == 2
    assert "2 problems in the data" in stopped.stderr
    assert "Traceback" not in stopped.stderr

    trained = run(train, tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert "question from 'q', context from 'passage'" in trained.stdout
    assert "repaired 2 answers" in trained.stdout

    asked = run(ask, tmp_path)
    assert asked.returncode == 0, asked.stderr
    assert asked.stdout.startswith(answer)


def test_the_flags_for_little_data_are_understood(capsys) -> None:
    (words,) = (shlex.split(block) for language, block in BLOCKS if language == "bash" and "small_data" in block)
    assert commands.printed_config(with_config_files(words[2:]), capsys)["model"]["layer_decay"] == 0.8


def test_the_formats_and_names_that_it_lists_are_those_of_the_code() -> None:
    from qa_lightning.data.columns import SYNONYMS
    from qa_lightning.data.formats import SUFFIXES

    for suffix in SUFFIXES:
        assert f"data{suffix}" in TEXT or suffix == ".ndjson"
    for line in re.findall(r"^\| `(\w+)` \| (.*?) \|", TEXT, flags=re.M):
        if line[0] in SYNONYMS:
            named = set(re.findall(r"`(\w+)`", line[1]))
            assert named <= set(SYNONYMS[line[0]])
