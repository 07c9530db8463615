"""Masks that are made without a look at the device change no logits, and nothing of a saved model."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from transformers import AutoModelForQuestionAnswering

from qa_lightning.models.attention import without_reads
from tests.helpers.families import FAMILIES, save


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_logits_are_the_same(family, tmp_path) -> None:
    folder = save(FAMILIES[family], tmp_path)
    usual, changed = (AutoModelForQuestionAnswering.from_pretrained(folder).eval() for _ in range(2))
    without_reads(changed)
    ids = torch.randint(5, 40, (3, 12), generator=torch.Generator().manual_seed(0))
    for padded in (0, 4):
        mask = torch.ones_like(ids)
        mask[1, len(ids[0]) - padded :] = 0
        one, other = (model(input_ids=ids, attention_mask=mask) for model in (usual, changed))
        for name in ("start_logits", "end_logits"):
            torch.testing.assert_close(one[name][mask > 0], other[name][mask > 0], rtol=1e-5, atol=1e-5)


def test_no_mask_is_looked_at(model_folder, monkeypatch) -> None:
    looks = []
    monkeypatch.setattr(torch.Tensor, "__bool__", lambda tensor: looks.append(1) or bool(tensor.item()))
    model = AutoModelForQuestionAnswering.from_pretrained(model_folder, attn_implementation="sdpa")
    inputs: Any = {"input_ids": torch.ones(2, 5, dtype=torch.int64), "attention_mask": torch.ones(2, 5)}
    model(**inputs)
    assert looks  # what there is to avoid
    looks.clear()
    without_reads(model)
    model(**inputs)
    assert not looks


def test_a_saved_model_knows_nothing_of_it(model_folder, tmp_path) -> None:
    model = AutoModelForQuestionAnswering.from_pretrained(model_folder)
    model.save_pretrained(tmp_path / "before")
    without_reads(model)
    model.save_pretrained(tmp_path / "after")
    before, after = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("before", "after"))
    assert before == after
