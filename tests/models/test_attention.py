"""Masks are left out only where a model takes a batch without padding as it is."""

from __future__ import annotations

import torch
from transformers import BertForQuestionAnswering

from qa_lightning.models.computing.attention import mask_is_optional
from qa_lightning.models.computing.loss import inputs_on
from tests.helpers.models import small_config


def test_the_mask_is_left_out_without_padding_alone_and_changes_no_logit() -> None:
    model = BertForQuestionAnswering(small_config(20)).eval()
    assert mask_is_optional(model)
    assert not mask_is_optional(torch.nn.Identity())
    ids = torch.arange(1, 11).view(2, 5)
    full = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    cpu = torch.device("cpu")
    assert set(inputs_on(cpu, full)) == {"input_ids", "attention_mask"}
    assert set(inputs_on(cpu, full, may_lack_mask=True)) == {"input_ids"}
    padded = {**full, "attention_mask": (ids != 10).long()}
    assert set(inputs_on(cpu, padded, may_lack_mask=True)) == {"input_ids", "attention_mask"}
    with torch.inference_mode():
        with_mask, without = model(**full), model(**inputs_on(cpu, full, may_lack_mask=True))
    assert torch.equal(with_mask.start_logits, without.start_logits)
    assert torch.equal(with_mask.end_logits, without.end_logits)
