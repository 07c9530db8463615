"""Dropout from 16-bit words: its rate, scale, gradient and random numbers; attention that uses it equals PyTorch's."""

from __future__ import annotations

import pickle
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import nn
from transformers import GPTNeoXConfig, GPTNeoXForQuestionAnswering, LlamaConfig, LlamaForQuestionAnswering

from qa_lightning import QALightningModule, SquadDataModule
from qa_lightning.models.computing.attention import _attend, use_fast_attention, without_reads
from qa_lightning.models.computing.dropout import FastDropout, dropped, use_fast_dropout
from tests.helpers.data import make_rows, write_json
from tests.helpers.families import FAMILIES
from tests.helpers.training import QUIET, SMALL

COUNT = 1 << 20


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("probability", [0.1, 0.25, 0.5, 0.97])
def test_rate_and_scale(probability: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    found = dropped(torch.full((COUNT // 64, 64), 3.0, dtype=dtype), probability)
    share = (found == 0).double().mean().item()
    assert share == pytest.approx(probability, abs=5 * (probability * (1 - probability) / COUNT) ** 0.5)
    kept = found[found != 0]
    factor = torch.tensor(1 / (1 - round(probability * 65536) / 65536), dtype=dtype)
    assert kept.dtype == dtype
    assert torch.all(kept == torch.tensor(3.0, dtype=dtype) * factor)


def test_each_number_is_drawn_by_itself() -> None:
    """Joint frequencies of each pair of neighbours: the four words of a draw, and the first of the next."""
    torch.manual_seed(1)
    zeros = (dropped(torch.ones(COUNT), 0.3) == 0).view(-1, 4)
    columns = [zeros[:-1, place] for place in range(4)] + [zeros[1:, 0]]
    for one, other in pairwise(columns):
        both = (one & other).double().mean().item()
        assert both == pytest.approx(0.09, abs=5 * (0.09 * 0.91 / len(one)) ** 0.5)
    for column in columns:
        assert column.double().mean().item() == pytest.approx(0.3, abs=5 * (0.21 / len(column)) ** 0.5)


def test_equal_seeds_give_equal_numbers_and_each_call_gives_others() -> None:
    def drawn(seed: int) -> list[torch.Tensor]:
        torch.manual_seed(seed)
        return [dropped(torch.ones(1000), 0.5) for _ in range(2)]

    first, again, other = drawn(3), drawn(3), drawn(4)
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], other[0])


def test_an_odd_number_of_values_and_the_gradient() -> None:
    values = torch.randn(3, 7, requires_grad=True)
    found = dropped(values, 0.4)
    found.sum().backward()
    torch.testing.assert_close(found, values * values.grad)
    assert {round(one, 4) for one in values.grad.unique().tolist()} <= {0.0, round(1 / (1 - 26214 / 65536), 4)}


def test_the_ends_of_the_range_and_eval_mode() -> None:
    values = torch.randn(50)
    assert torch.equal(dropped(values, 0.0), values)
    assert torch.equal(dropped(values, 1e-7), nn.functional.dropout(values, 1e-7))
    assert torch.count_nonzero(dropped(values, 1.0)) == 0
    assert FastDropout(0.5).eval()(values) is values


@pytest.mark.parametrize("family", FAMILIES)
def test_fast_training_computes_what_pytorch_computes(family: str) -> None:
    """Logits and gradients without dropout, of padded batches in training mode; eval mode to the last bit."""
    one = FAMILIES[family]
    torch.manual_seed(0)
    model = one.model(one.tokenizer())
    for layer in model.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    for name in ("attention_probs_dropout_prob", "attention_dropout", "attn_pdrop"):
        if hasattr(model.config, name):
            setattr(model.config, name, 0.0)
    for layer in model.modules():
        if isinstance(getattr(layer, "attention_dropout", None), float):
            layer.attention_dropout = 0.0
        if isinstance(getattr(layer, "dropout_prob", None), float):
            layer.dropout_prob = 0.0
    ids = torch.randint(5, 30, (3, 40))
    mask = torch.ones_like(ids)
    mask[1, 30:], mask[2, 11:] = 0, 0
    names = model.state_dict().keys()

    def computed() -> tuple[torch.Tensor, ...]:
        model.zero_grad()
        output = model(input_ids=ids, attention_mask=mask)
        real = output.start_logits[mask == 1]
        (real.square().sum() + output.end_logits[mask == 1].sum()).backward()
        gradients = [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]
        return real.detach(), *gradients

    model.eval()
    asked = computed()
    model.train()
    usual = computed()
    use_fast_dropout(model)
    use_fast_attention(model)
    assert not any(type(layer) is nn.Dropout for layer in model.modules())
    assert model.state_dict().keys() == names
    for before, after in zip(usual, computed(), strict=True):
        torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)
    model.eval()
    for before, after in zip(asked, computed(), strict=True):
        assert torch.equal(before, after)


def test_attention_drops_weights_after_the_softmax() -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 3, 9, 4) for _ in range(3))
    mask = torch.ones(2, 1, 9, 9, dtype=torch.bool)
    mask[1, :, :, 6:] = False
    module = nn.Module().train()
    module.is_causal = False
    torch.manual_seed(5)
    found, _ = _attend(module, query, key, value, mask, dropout=0.5, scaling=0.5)
    torch.manual_seed(5)
    scores = (query @ key.transpose(2, 3) * 0.5).masked_fill(~mask, -torch.inf)
    expected = dropped(scores.softmax(-1), 0.5) @ value
    torch.testing.assert_close(found, expected.transpose(1, 2))


def test_attention_in_bfloat16_is_as_near_to_float32_as_pytorchs() -> None:
    torch.manual_seed(0)
    parts = [torch.randn(4, 8, 60, 32) for _ in range(3)]
    module = nn.Module().train()
    module.is_causal = False
    exact = nn.functional.scaled_dot_product_attention(*parts).transpose(1, 2)
    low = [part.bfloat16() for part in parts]
    theirs = nn.functional.scaled_dot_product_attention(*low).transpose(1, 2)
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = _attend(module, *low, None)
    assert found.dtype == torch.bfloat16
    assert (found - exact).norm() < 1.5 * (theirs - exact).norm()


@pytest.mark.parametrize(("heads", "padded"), [(4, False), (2, True)])
def test_what_it_does_not_compute_goes_to_pytorch(heads: int, padded: bool) -> None:
    """Causal attention without a mask, and fewer heads for keys: Llama."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": heads, "intermediate_size": 32}
    model = LlamaForQuestionAnswering(LlamaConfig(vocab_size=50, num_hidden_layers=2, **sizes)).train()
    ids = torch.randint(3, 40, (2, 9))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 1 - int(padded)
    usual = model(input_ids=ids, attention_mask=mask).start_logits
    use_fast_attention(model)
    assert model.config._attn_implementation != "sdpa"
    assert torch.equal(model(input_ids=ids, attention_mask=mask).start_logits, usual)


def _llama() -> nn.Module:
    sizes = {"hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 4, "intermediate_size": 32}
    return LlamaForQuestionAnswering(LlamaConfig(vocab_size=50, num_hidden_layers=2, **sizes))


def _neox() -> nn.Module:
    sizes = {"hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 32, "num_hidden_layers": 2}
    return GPTNeoXForQuestionAnswering(GPTNeoXConfig(vocab_size=50, hidden_dropout=0.0, **sizes))


@pytest.mark.parametrize("make", [_llama, _neox])
def test_rotary_models_train_in_bfloat16(make) -> None:
    """Their positions leave query and key in float32 under autocast, beside a value in bfloat16."""
    torch.manual_seed(0)
    model = make().train()
    ids = torch.randint(3, 40, (2, 9))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0

    def logits() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            found: torch.Tensor = model(input_ids=ids, attention_mask=mask).start_logits
        return found[mask == 1].float()

    usual = logits()
    use_fast_attention(model)
    torch.testing.assert_close(logits(), usual, rtol=0.05, atol=0.01)


def test_a_model_that_trained_on_one_device_trains_on_another() -> None:
    model = _llama()
    use_fast_attention(model)
    first = model.config._attn_implementation
    without_reads(model)  # a GPU's
    second = model.config._attn_implementation
    use_fast_attention(model)
    assert first == model.config._attn_implementation != second
    on_meta = FastDropout(0.5).train()(torch.ones(8, device="meta"))  # any device that is no CPU
    assert on_meta.device.type == "meta"


def test_a_trained_model_is_read_without_this_package(tmp_path: Path, model_folder) -> None:
    rows = write_json(tmp_path / "rows.json", make_rows(4))
    module = QALightningModule(model_folder)
    Trainer(max_steps=1, limit_val_batches=0, **QUIET).fit(module, SquadDataModule(rows, rows, model_folder, **SMALL))
    path = tmp_path / "model.pickle"
    path.write_bytes(pickle.dumps(module.model))
    code = (
        "import pickle, sys, torch\n"
        "model = pickle.load(open(sys.argv[1], 'rb')).train()\n"
        "model(input_ids=torch.ones(2, 7, dtype=torch.long)).start_logits.sum().backward()\n"
        "assert 'qa_lightning' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, path], check=True, timeout=120)


class WhileItTrains(Callback):
    """Notes the attention and the dropout modules of a model at its first step."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.attention = pl_module.model.config._attn_implementation
        self.fast = any(isinstance(layer, FastDropout) for layer in pl_module.modules())


@pytest.mark.parametrize(
    ("options", "drops", "attends"),
    [
        ({}, True, True),
        ({"fast_dropout": False}, False, False),
        ({"attn_implementation": "sdpa"}, True, False),
        ({"attn_implementation": "eager"}, True, False),
    ],
)
def test_a_fit_on_a_cpu_uses_it_unless_told_otherwise(tmp_path, model_folder, options, drops, attends) -> None:
    rows = write_json(tmp_path / "rows.json", make_rows(4))
    data, seen = SquadDataModule(rows, rows, model_folder, **SMALL), WhileItTrains()
    module = QALightningModule(model_folder, **options)
    before = module.model.config._attn_implementation
    Trainer(max_steps=1, limit_val_batches=0, callbacks=seen, **QUIET).fit(module, data)
    assert (seen.fast, seen.attention != before) == (drops, attends)
    assert module.model.config._attn_implementation == before


def test_a_compiled_model_has_pytorchs_dropout(tmp_path, model_folder, monkeypatch) -> None:
    torch._dynamo.reset()
    monkeypatch.setattr("qa_lightning.training.module.COMPILER", "eager")
    rows = write_json(tmp_path / "rows.json", make_rows(4))
    data, seen = SquadDataModule(rows, rows, model_folder, **SMALL), WhileItTrains()
    module = QALightningModule(model_folder, compile=True)
    Trainer(max_steps=1, limit_val_batches=0, callbacks=seen, **QUIET).fit(module, data)
    assert not seen.fast


@pytest.fixture
def data(tmp_path, model_folder) -> SquadDataModule:
    rows = write_json(tmp_path / "rows.json", make_rows(12))
    return SquadDataModule(rows, rows, model_folder, **SMALL)


def is_usual(module: QALightningModule) -> bool:
    fast = any(isinstance(layer, FastDropout) for layer in module.modules())
    return not fast and module.model.config._attn_implementation == "sdpa"


def test_a_fit_that_fails_leaves_the_model_as_it_was(model_folder, data) -> None:
    class Fails(Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            raise RuntimeError("on purpose")

    module = QALightningModule(model_folder)
    with pytest.raises(RuntimeError, match="on purpose"):
        Trainer(max_steps=2, limit_val_batches=0, callbacks=Fails(), **QUIET).fit(module, data)
    assert is_usual(module)


def test_the_modules_stay_with_their_hooks_and_a_rate_may_be_changed(model_folder, data) -> None:
    class Schedule(Callback):
        """Found the modules before the fit began."""

        def __init__(self, module: QALightningModule) -> None:
            self.found = [layer for layer in module.modules() if isinstance(layer, nn.Dropout)]
            self.called = 0
            for layer in self.found:
                layer.register_forward_hook(self.count)

        def count(self, *args: Any) -> None:
            self.called += 1

        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            for layer in self.found:
                layer.p = 0.25
            self.rates = {layer.p for layer in pl_module.modules() if isinstance(layer, FastDropout)}

    module = QALightningModule(model_folder)
    schedule = Schedule(module)
    Trainer(max_steps=2, limit_val_batches=0, callbacks=schedule, **QUIET).fit(module, data)
    assert schedule.rates == {0.25}
    assert schedule.called
    assert is_usual(module)


def test_a_model_that_a_program_compiled_has_pytorchs_dropout(model_folder, data) -> None:
    torch._dynamo.reset()
    module, seen = QALightningModule(model_folder), WhileItTrains()
    module.model.compile(backend="eager")
    Trainer(max_steps=1, limit_val_batches=0, callbacks=seen, **QUIET).fit(module, data)
    assert not seen.fast


def test_a_validation_within_a_fit_does_not_end_fast_dropout(model_folder, data, tmp_path) -> None:
    class Validates(WhileItTrains):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
            rows = write_json(tmp_path / "others.json", make_rows(4))
            others = SquadDataModule(None, rows, pl_module.hparams["model_name"], **SMALL)
            Trainer(**QUIET).validate(pl_module, others, verbose=False)
            pl_module.trainer = trainer

    module, seen = QALightningModule(model_folder), Validates()
    Trainer(max_steps=2, limit_val_batches=0, callbacks=seen, **QUIET).fit(module, data)
    assert seen.fast
    assert is_usual(module)


def test_a_mask_of_numbers_goes_to_pytorch() -> None:
    module = nn.Module().train()
    module.is_causal = False
    parts = [torch.randn(2, 4, 5, 8) for _ in range(3)]
    found, _ = _attend(module, *parts, torch.zeros(2, 1, 5, 5))
    torch.testing.assert_close(found, _attend(module, *parts, None)[0])
