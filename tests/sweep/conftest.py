"""The flags of a small training, parsed once."""

from __future__ import annotations

import pytest

from qa_lightning.errors import naming_flags
from qa_lightning.models.tiny import TINY
from qa_lightning.training.flags import ParsedFlags


@pytest.fixture(autouse=True)
def _flags_in_messages():
    with naming_flags():
        yield


@pytest.fixture(scope="session")
def flags() -> ParsedFlags:
    return ParsedFlags(["--data.dataset", "synthetic", "--model.model_name", TINY, "--trainer.accelerator", "cpu"])
