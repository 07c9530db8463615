"""Layers that are alike are compiled once, in every family, and compute what they computed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from transformers import (
    BartConfig,
    BartForQuestionAnswering,
    BertForQuestionAnswering,
    LlamaConfig,
    LlamaForQuestionAnswering,
)

from qa_lightning.models.computing.layers import compile_layers, layer_names
from tests.helpers.families import FAMILIES
from tests.helpers.models import small_config

LAYERS = 9  # more than torch.compile makes of one function before it gives up


def _bart() -> Any:
    sizes = {"layers": LAYERS, "attention_heads": 2, "ffn_dim": 32}
    both = {f"{part}_{name}": size for part in ("encoder", "decoder") for name, size in sizes.items()}
    usual = {"vocab_size": 50, "d_model": 16, "forced_eos_token_id": 2, "max_position_embeddings": 64}
    return BartForQuestionAnswering(BartConfig(**usual, **both))


def _llama() -> Any:
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 32}
    return LlamaForQuestionAnswering(LlamaConfig(vocab_size=50, num_hidden_layers=LAYERS, **sizes))


def _bert() -> Any:
    return BertForQuestionAnswering(small_config(50, num_hidden_layers=LAYERS))


MODELS = {
    "bert, many layers": _bert,
    "bart": _bart,
    "llama": _llama,
    **{name: (lambda one=one: one.model(one.tokenizer())) for name, one in FAMILIES.items()},
}


@pytest.mark.parametrize("name", MODELS)
def test_layers_that_are_alike_are_compiled_once_for_all_sizes(name: str) -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    graphs = CompileCounter()
    batches = [torch.randint(3, 40, size) for size in ((3, 20), (4, 24), (2, 40))]
    for ids in batches:
        ids[:, -1] = 2  # BART looks for the end of the text
    expected = [model(input_ids=ids, attention_mask=torch.ones_like(ids)) for ids in batches]
    names = model.state_dict().keys()
    compile_layers(model, backend=graphs)
    for ids, before in zip(batches, expected, strict=True):
        after = model(input_ids=ids, attention_mask=torch.ones_like(ids))
        torch.testing.assert_close(after.start_logits, before.start_logits)
        (after.start_logits.sum() + after.end_logits.sum()).backward()
    kinds = 2 if "bart" in name or name in ("modernbert", "albert") else 1  # encoder and decoder; local and global
    assert graphs.frame_count == kinds
    assert model.state_dict().keys() == names


def test_a_model_without_layers_is_compiled_as_a_whole() -> None:
    class Bare(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config = small_config(20)
            self.head = torch.nn.Linear(4, 2)

        def forward(self, values: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.head(values)
            return out

    torch._dynamo.reset()
    graphs = CompileCounter()
    model = Bare()
    assert layer_names(model) == []
    compile_layers(model, backend=graphs)
    model(torch.zeros(3, 4))
    assert graphs.frame_count == 1
