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
    ModernBertConfig,
    ModernBertForQuestionAnswering,
)

from qa_lightning.models.computing.layers import compile_layers, layer_names
from tests.helpers.families import FAMILIES
from tests.helpers.models import small_config

# Kinds of layers: encoder and decoder; the first, which has no norm, and the rest; ALBERT's layer, which holds a list.
KINDS = {"bart": 2, "modernbert, many layers": 2, "albert": 2}
WITHOUT_GRADIENTS = ("bert, many layers", "bart", "albert")  # one of each kind
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


def _modernbert() -> Any:
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "num_hidden_layers": LAYERS}
    special = {f"{name}_token_id": 1 for name in ("pad", "bos", "eos", "cls", "sep")}
    return ModernBertForQuestionAnswering(ModernBertConfig(vocab_size=50, **sizes, **special))


MODELS = {
    "bert, many layers": _bert,
    "modernbert, many layers": _modernbert,
    "bart": _bart,
    "llama": _llama,
    **{
        name: (lambda one=FAMILIES[name]: one.model(one.tokenizer()))
        for name in ("distilbert", "roberta", "xlnet", "albert", "deberta-v3", "gpt2, no CLS")
    },
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
    names, config = model.state_dict().keys(), model.config.to_dict()
    compile_layers(model, backend=graphs)
    for ids, before in zip(batches, expected, strict=True):
        after = model(input_ids=ids, attention_mask=torch.ones_like(ids))
        torch.testing.assert_close(after.start_logits, before.start_logits)
        (after.start_logits.sum() + after.end_logits.sum()).backward()
    kinds = KINDS.get(name, 1)
    assert graphs.frame_count == kinds
    if name in WITHOUT_GRADIENTS:
        for batch in (batches[0], batches[0][:1]):  # as in validation; and one window, which torch.compile sets apart
            with torch.no_grad():
                model(input_ids=batch, attention_mask=torch.ones_like(batch))
        model(input_ids=batches[1][:1], attention_mask=torch.ones_like(batches[1][:1]))
        assert graphs.frame_count <= 4 * kinds
    assert model.state_dict().keys() == names
    assert model.config.to_dict() == config


def test_a_model_without_layers_is_compiled_as_a_whole() -> None:
    class Bare(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config = small_config(20)
            self.head = torch.nn.Linear(4, 2)
            self.base_model = torch.nn.Identity()

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
