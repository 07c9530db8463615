"""Fixtures: a teacher with the student's tokenizer, and one with another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertForQuestionAnswering, PreTrainedTokenizerFast

from tests.helpers.models import small_config, small_tokenizer
from tests.helpers.windows import byte_level


@pytest.fixture(scope="session")
def make_teacher(tmp_path_factory) -> Callable[..., str]:
    """Writes an untrained model with another seed and larger logits, which no student has by chance."""

    def make(tokenizer: PreTrainedTokenizerFast, **config: Any) -> str:
        folder: Path = tmp_path_factory.mktemp("teacher")
        with torch.random.fork_rng():
            torch.manual_seed(7)
            model = BertForQuestionAnswering(small_config(len(tokenizer), **config))
            model.qa_outputs.weight.data.mul_(40)
            if tokenizer.padding_side == "left":  # such a model counts positions from padding on
                model.bert.embeddings.position_embeddings.weight.data.zero_()
            model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return str(folder)

    return make


@pytest.fixture(scope="session")
def teacher(make_teacher) -> str:
    """A teacher with the student's tokenizer."""
    return make_teacher(small_tokenizer())


@pytest.fixture(scope="session")
def other_teacher(make_teacher) -> str:
    """A teacher with a byte-level tokenizer, and so with other and more tokens."""
    return make_teacher(byte_level(), max_position_embeddings=256)
