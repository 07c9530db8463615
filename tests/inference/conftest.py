"""Fixtures: transformers with its old task and class, and without them again."""

from __future__ import annotations

import pytest
import transformers
from transformers.pipelines import PIPELINE_REGISTRY, REMOVED_TASKS

from qa_lightning import register_pipeline


@pytest.fixture
def tasks(monkeypatch):
    """What transformers knows of tasks and of the old class, put back at the end."""
    monkeypatch.setattr(transformers, "QuestionAnsweringPipeline", None, raising=False)
    monkeypatch.setattr(transformers.pipelines, "QuestionAnsweringPipeline", None, raising=False)
    tables = (REMOVED_TASKS, PIPELINE_REGISTRY.supported_tasks)  # which other libraries hold too
    before = [dict(table) for table in tables]
    yield
    for table, content in zip(tables, before, strict=True):
        table.clear()
        table.update(content)


@pytest.fixture
def restored(tasks) -> None:
    register_pipeline(restore=True)
