"""Fixtures: transformers' old tasks restored; the predict command in this process, a file of questions, its answers."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers
from transformers.pipelines import PIPELINE_REGISTRY, REMOVED_TASKS

from qa_lightning import register_pipeline
from qa_lightning.inference.bulk.run import answer_file
from qa_lightning.inference.bulk.workers import PredictSettings
from tests.helpers import commands
from tests.helpers.bulk import BATCH, ROWS, bare, written
from tests.helpers.forms import as_lines


@pytest.fixture
def _tasks(monkeypatch):
    """Take back afterwards what `register_pipeline` has changed."""
    monkeypatch.setattr(transformers, "QuestionAnsweringPipeline", None, raising=False)
    monkeypatch.setattr(transformers.pipelines, "QuestionAnsweringPipeline", None, raising=False)
    tables = (REMOVED_TASKS, PIPELINE_REGISTRY.supported_tasks)  # which other libraries hold too
    before = [dict(table) for table in tables]
    yield
    for table, content in zip(tables, before, strict=True):
        table.clear()
        table.update(content)


@pytest.fixture
def restored(_tasks) -> None:
    """The old task and class are there."""
    register_pipeline(restore=True)


@pytest.fixture
def ask(model_folder):
    """A function that runs the command in this process and returns its exit status."""

    def run(source, output, *flags, batch_size=BATCH):
        given = ["--model", model_folder, "--input", str(source), "--output", str(output)]
        return commands.predict([*given, "--batch-size", str(batch_size), *map(str, flags)])

    return run


@pytest.fixture(scope="session")
def source(tmp_path_factory) -> Path:
    """75 questions without gold answers, as JSON lines; rows 21 and 41 are bad."""
    path = tmp_path_factory.mktemp("questions") / "questions.jsonl"
    rows = [bare(row) for row in ROWS]
    rows[20]["context"] = " "
    lines = as_lines(rows).split(b"\n")
    lines[40] = b'{"id": "torn", "quest'
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


@pytest.fixture(scope="session")
def whole(source, model_folder, tmp_path_factory) -> dict[str, bytes]:
    """The answers and errors that a run writes which was never stopped."""
    output = tmp_path_factory.mktemp("whole") / "answers.jsonl"
    assert answer_file(PredictSettings(model_folder, "float32", BATCH), str(source), output) == 0
    return written(output)
