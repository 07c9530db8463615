"""The embeddings and the lowest layers of any model keep their weights, in eval mode and without a backward pass."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qa_lightning import QALightningModule
from qa_lightning.errors import InputError
from qa_lightning.models.computing.freezing import freeze_lowest
from qa_lightning.models.computing.layers import layer_depths, layer_names
from tests.helpers.families import FAMILIES


def inputs(model: nn.Module) -> dict[str, torch.Tensor]:
    ids = torch.arange(5, 29).view(2, 12)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layers", [0, 1])
def test_only_what_is_above_gets_gradients(family, layers) -> None:
    model = FAMILIES[family].model(FAMILIES[family].tokenizer())
    others = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    frozen = freeze_lowest(model.train(), layers, family)
    depths = layer_depths(model)
    assert {name for name, weight in model.named_parameters() if not weight.requires_grad} == others | {
        name for name, depth in depths.items() if depth <= layers
    }
    output = model(**inputs(model))
    (output.start_logits.sum() + output.end_logits.sum()).backward()
    touched = {name for name, weight in model.named_parameters() if weight.grad is not None}
    assert touched
    assert all(depths[name] > layers for name in touched)
    assert len(frozen) >= 1
    for name in frozen:
        assert all(not weight.requires_grad for weight in model.get_submodule(name).parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_no_graph_is_kept_of_frozen_layers(family) -> None:
    """The output of a frozen layer needs no gradient, so nothing below it is kept for the backward pass."""
    model = FAMILIES[family].model(FAMILIES[family].tokenizer())
    freeze_lowest(model, 1, family)
    seen = []

    def note(module, arguments, output) -> None:
        seen.append((output[0] if isinstance(output, tuple) else output).requires_grad)

    model.get_submodule(layer_names(model)[0]).register_forward_hook(note)
    model(**inputs(model))
    assert seen
    assert not any(seen)


def test_frozen_layers_stay_in_eval_mode(model_folder) -> None:
    module = QALightningModule(model_folder, freeze_layers=1)

    def training() -> list[str]:
        return [name for name, part in module.model.named_modules() if name and part.training]

    for _ in range(2):
        assert training()
        assert not any(name.startswith(("bert.embeddings", "bert.encoder.layer.0")) for name in training())
        assert "bert.encoder.layer.1.output.dropout" in training()
        module.eval()
        assert not training()
        module.train()
    assert "bert.embeddings.dropout" in [
        name for name, part in QALightningModule(model_folder).model.named_modules() if part.training
    ]


def test_dropout_above_stays_on(model_folder) -> None:
    module = QALightningModule(model_folder, freeze_layers=1)
    seen: dict[str, list[torch.Tensor]] = {"0": [], "1": []}
    for name, layer in module.model.bert.encoder.layer.named_children():
        layer.register_forward_hook(
            lambda part, given, output, name=name: seen[name].append(output[0] if isinstance(output, tuple) else output)
        )
    for seed in (0, 1):
        torch.manual_seed(seed)
        module.model(**inputs(module.model))
    assert torch.equal(*seen["0"])
    assert not torch.equal(*seen["1"])


def test_more_layers_than_there_are_is_one_error(model_folder) -> None:
    with pytest.raises(InputError) as caught:
        QALightningModule(model_folder, freeze_layers=3)
    assert caught.value.problems == [f"--model.freeze_layers 3: {model_folder} has 2 layers; pass at most 2"]
    everything = QALightningModule(model_folder, freeze_layers=2)
    assert [name for name, weight in everything.model.named_parameters() if weight.requires_grad] == [
        "qa_outputs.weight",
        "qa_outputs.bias",
    ]


@pytest.mark.parametrize(("layers", "words"), [(-1, "must not be negative"), (1.5, "must be a whole number")])
def test_numbers_that_are_none_are_refused(model_folder, layers, words) -> None:
    with pytest.raises(InputError, match=rf"--model.freeze_layers is {layers}.*{words}"):
        QALightningModule(model_folder, freeze_layers=layers)


def test_a_model_whose_encoder_is_not_found_is_refused(tokenizer) -> None:
    class Flat(nn.Module):
        base_model_prefix = "encoder"

        def __init__(self) -> None:
            super().__init__()
            self.shared = nn.Embedding(3, 2)

    with pytest.raises(InputError, match=r"--model.freeze_layers 0: in flat \(Flat\), the encoder cannot be told"):
        freeze_lowest(Flat(), 0, "flat")
