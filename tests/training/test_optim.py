from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from transformers import (
    BertForQuestionAnswering,
    DebertaV2Config,
    DebertaV2ForQuestionAnswering,
    FlaubertConfig,
    FlaubertForQuestionAnsweringSimple,
    FunnelConfig,
    FunnelForQuestionAnswering,
    T5Config,
    T5ForQuestionAnswering,
    XLMConfig,
    XLMForQuestionAnsweringSimple,
    get_linear_schedule_with_warmup,
)

from qa_lightning import QALightningModule
from qa_lightning.errors import InputError
from qa_lightning.models.computing.layers import layer_depths, layers_of
from qa_lightning.training.steps.optim import LinearSchedule, build_optimizer, parameter_groups
from tests.helpers.families import FAMILIES


@pytest.mark.parametrize("layer_decay", [1.0, 0.5])
def test_norms_and_biases_do_not_decay(model_folder, layer_decay) -> None:
    model = BertForQuestionAnswering.from_pretrained(model_folder)
    groups = parameter_groups(model, 0.01, 1e-4, layer_decay)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for group in groups:
        for parameter in group["params"]:
            vector = "bias" in names[id(parameter)] or "LayerNorm" in names[id(parameter)]
            assert group["weight_decay"] == (0.0 if vector else 0.01)
    assert sorted(names[id(p)] for group in groups for p in group["params"]) == sorted(names.values())


def test_without_layer_decay_there_are_two_groups_of_one_rate(model_folder) -> None:
    model = BertForQuestionAnswering.from_pretrained(model_folder)
    decayed, plain = build_optimizer(model, 1e-4, 0.01).param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.01, 0.0)
    assert decayed["lr"] == plain["lr"] == 1e-4
    assert "name" not in decayed


def test_groups_that_join_later_decay_by_the_same_weight_decay(model_folder) -> None:
    optimizer = build_optimizer(BertForQuestionAnswering.from_pretrained(model_folder), 1e-4, 0.05)
    optimizer.add_param_group({"params": [torch.zeros(2, 2, requires_grad=True)]})  # as BackboneFinetuning does
    assert optimizer.param_groups[-1]["weight_decay"] == 0.05


def test_each_layer_learns_at_a_part_of_the_rate_of_the_one_above(model_folder) -> None:
    model = BertForQuestionAnswering.from_pretrained(model_folder)
    rates = {
        id(parameter): group["lr"]
        for group in build_optimizer(model, 1.0, 0.01, 0.5).param_groups
        for parameter in group["params"]
    }
    expected = {
        "qa_outputs.": 1.0,
        "bert.encoder.layer.1.": 0.5,
        "bert.encoder.layer.0.": 0.25,
        "bert.embeddings.": 1 / 8,
    }
    for name, parameter in model.named_parameters():
        assert rates[id(parameter)] == next(rate for prefix, rate in expected.items() if name.startswith(prefix))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_embeddings_layers_and_a_head(family) -> None:
    one = FAMILIES[family]
    depths = layer_depths(one.model(one.tokenizer()))
    layers = 1 if family == "albert" else 2  # ALBERT's layers share one set of weights
    assert set(depths.values()) == set(range(layers + 2))
    by_depth = sorted(set(zip(depths.values(), depths, strict=True)))
    assert any("embed" in name or "wte" in name for depth, name in by_depth if depth == 0)
    assert {name.split(".")[0] for depth, name in by_depth if depth == layers + 1} <= {
        "qa_outputs",
        "head",
        "classifier",
    }
    for number in range(layers):
        inside = [depth for depth, name in by_depth if f".{number}." in name and ("layer" in name or ".h." in name)]
        assert family == "albert" or set(inside) == {number + 1}


def test_what_computes_after_a_layer_has_at_least_its_depth() -> None:
    """DeBERTa's convolution is registered after its relative positions, a table, and computes after a layer."""
    config = DebertaV2Config(
        vocab_size=50, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        relative_attention=True, norm_rel_ebd="layer_norm", conv_kernel_size=3,
    )  # fmt: skip
    depths = layer_depths(DebertaV2ForQuestionAnswering(config))
    assert {depth for name, depth in depths.items() if "encoder.conv." in name} == {2}
    assert {depth for name, depth in depths.items() if "rel_embeddings" in name} == {0}


def test_t5_has_an_encoder_though_no_module_has_the_name_of_its_prefix() -> None:
    config = T5Config(vocab_size=50, d_model=8, d_kv=4, d_ff=16, num_layers=2, num_heads=2)
    depths = layer_depths(T5ForQuestionAnswering(config))
    assert depths["shared.weight"] == 0
    for depth, layer in enumerate(("encoder.block.0.", "encoder.block.1.", "decoder.block.0.", "decoder.block.1."), 1):
        tables = "relative_attention_bias"
        assert {own for name, own in depths.items() if name.startswith(layer) and tables not in name} == {depth}
    assert {name for name, depth in depths.items() if depth == 5} == {"qa_outputs.weight", "qa_outputs.bias"}


@pytest.mark.parametrize(
    ("config", "model"),
    [(FlaubertConfig, FlaubertForQuestionAnsweringSimple), (XLMConfig, XLMForQuestionAnsweringSimple)],
)
def test_lists_side_by_side_are_parts_of_the_same_layers(config, model) -> None:
    made = model(config(vocab_size=50, emb_dim=8, n_layers=3, n_heads=2))
    depths = layer_depths(made)
    assert len(layers_of(made)) == 3
    for number in range(3):
        inside = [depth for name, depth in depths.items() if f".{number}." in name]
        assert len(inside) == 16  # attention, feed-forward part, two norms
        assert set(inside) == {number + 1}
    assert {name for name, depth in depths.items() if depth == 4} == {"qa_outputs.weight", "qa_outputs.bias"}


def test_lists_in_a_list_are_layers_one_after_another() -> None:
    config = FunnelConfig(vocab_size=50, block_sizes=[2, 2], num_decoder_layers=1, d_model=8, n_head=2, d_head=4)
    assert len(layers_of(FunnelForQuestionAnswering(config))) == 5


def test_layer_decay_is_refused_where_the_encoder_cannot_be_told(model_folder, monkeypatch) -> None:
    monkeypatch.setattr(BertForQuestionAnswering, "base_model_prefix", "encoder")
    monkeypatch.setattr("qa_lightning.models.computing.layers._HEAD", "classifier.")
    assert QALightningModule(model_folder)
    with pytest.raises(InputError, match=r"^--model.layer_decay 0.9: in .* the encoder cannot be told from the head"):
        QALightningModule(model_folder, layer_decay=0.9)


def test_the_schedule_scales_every_layer_alike(model_folder) -> None:
    module = QALightningModule(model_folder, layer_decay=0.5)
    optimizer = build_optimizer(module.model, 1.0, 0.01, module.layer_decay)
    first = [group["lr"] for group in optimizer.param_groups]
    schedule = LinearSchedule(optimizer, 4, 0.0)
    optimizer.step()
    schedule.step()
    np.testing.assert_allclose([group["lr"] for group in optimizer.param_groups], np.array(first) * 0.75)


@pytest.mark.parametrize(
    ("warmup_ratio", "expected"),
    [
        (0.2, [0, 0.5, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]),
        (0.25, [0, 1 / 3, 2 / 3, 1, 6 / 7, 5 / 7, 4 / 7, 3 / 7, 2 / 7, 1 / 7]),  # 2.5 warm-up steps are rounded up to 3
        (0.01, [0, 1, 8 / 9, 7 / 9, 6 / 9, 5 / 9, 4 / 9, 3 / 9, 2 / 9, 1 / 9]),
    ],
)
def test_schedule_rises_then_falls_to_zero(warmup_ratio: float, expected: list[float]) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = LinearSchedule(optimizer, 10, warmup_ratio)
    rates = []
    for _ in range(10):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    np.testing.assert_allclose(rates, expected)


def stepped(optimizer, schedule, steps: int) -> list[list[float]]:
    """The rates of all groups after each step."""
    seen = []
    for _ in range(steps):
        optimizer.step()
        schedule.step()
        seen.append([group["lr"] for group in optimizer.param_groups])
    return seen


def test_groups_that_join_in_mid_run_follow_the_schedule_from_their_own_rate() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = LinearSchedule(optimizer, 10, 0.0)
    stepped(optimizer, schedule, 4)
    optimizer.add_param_group({"params": [torch.zeros(1, requires_grad=True)], "lr": 0.3})
    np.testing.assert_allclose(stepped(optimizer, schedule, 2), [[0.5, 0.25], [0.4, 0.2]])
    again = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    loaded = LinearSchedule(again, 12, 0.0)  # two more steps than before
    again.add_param_group({"params": [torch.zeros(1, requires_grad=True)], "lr": 0.3})
    again.load_state_dict(optimizer.state_dict())
    loaded.load_state_dict(schedule.state_dict())
    np.testing.assert_allclose(stepped(again, loaded, 6)[-1], [0, 0], atol=1e-12)
    assert loaded.total_steps == 12


def test_a_rate_that_is_changed_from_outside_falls_from_there() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = LinearSchedule(optimizer, 10, 0.0)
    stepped(optimizer, schedule, 5)
    optimizer.param_groups[0]["lr"] = 2.0
    np.testing.assert_allclose(stepped(optimizer, schedule, 5), [[1.6], [1.2], [0.8], [0.4], [0]], atol=1e-12)


def test_without_an_end_the_rate_stays() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    assert stepped(optimizer, LinearSchedule(optimizer, float("inf"), 0.0), 3) == [[1.0]] * 3


@pytest.mark.parametrize("warmup_ratio", [0.0, 0.1, 0.37])
def test_rates_are_those_of_transformers_to_the_last_bit(warmup_ratio: float) -> None:
    rates = []
    for make in (
        lambda optimizer: get_linear_schedule_with_warmup(optimizer, math.ceil(37 * warmup_ratio), 37),
        lambda optimizer: LinearSchedule(optimizer, 37, warmup_ratio),
    ):
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=3.1e-5)
        rates.append(stepped(optimizer, make(optimizer), 40))
    assert rates[0] == rates[1]
