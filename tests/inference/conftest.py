"""What tests share that change transformers' table of tasks."""

from __future__ import annotations

import pytest
import transformers
from transformers.pipelines import PIPELINE_REGISTRY, REMOVED_TASKS

from qa_lightning import register_pipeline


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
