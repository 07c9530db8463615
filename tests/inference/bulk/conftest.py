"""The predict command within this process, questions with two bad rows, and what a whole run writes about them."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from qa_lightning.inference.bulk.run import answer_file
from qa_lightning.inference.bulk.workers import PredictSettings
from tests.helpers import commands
from tests.helpers.bulk import BATCH, ROWS, bare, written
from tests.helpers.forms import as_lines


@pytest.fixture(autouse=True)
def fresh_log(monkeypatch):
    """A command sets the log up on the standard output of the moment; leave nothing of it to the next test."""
    logger = logging.getLogger("qa_lightning")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "propagate", True)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture
def ask(model_folder):
    """Run the command within this process; its exit status."""

    def run(source, output, *flags, batch_size=BATCH):
        given = ["--model", model_folder, "--input", str(source), "--output", str(output)]
        return commands.predict([*given, "--batch-size", str(batch_size), *map(str, flags)])

    return run


@pytest.fixture(scope="session")
def source(tmp_path_factory) -> Path:
    """Questions without answers, as JSON lines, with two bad rows."""
    path = tmp_path_factory.mktemp("questions") / "questions.jsonl"
    rows = [bare(row) for row in ROWS]
    rows[20]["context"] = " "
    lines = as_lines(rows).split(b"\n")
    lines[40] = b'{"id": "torn", "quest'
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


@pytest.fixture(scope="session")
def whole(source, model_folder, tmp_path_factory) -> dict[str, bytes]:
    """What a run that was never stopped writes: answers and errors."""
    output = tmp_path_factory.mktemp("whole") / "answers.jsonl"
    assert answer_file(PredictSettings(model_folder, "float32", BATCH), str(source), output) == 0
    return written(output)
