"""LoRA adapters in models of all families: what trains, what is saved, and that merged weights say the same."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForQuestionAnswering, BertForQuestionAnswering

from qa_lightning import QALightningModule, Reader, pipeline
from qa_lightning.errors import InputError
from qa_lightning.models.computing.layers import layer_depths
from tests.helpers.families import FAMILIES, save, tokenizer_of

WITH_ADAPTERS = [family for family in FAMILIES if family != "xlnet"]
# Of peft's use of transformers.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


@pytest.fixture
def peft():
    return pytest.importorskip("peft", reason="peft is not installed")


def logits(model: nn.Module) -> torch.Tensor:
    ids = torch.arange(5, 29).view(2, 12)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if getattr(model.config, "type_vocab_size", 0) > 1:
        inputs["token_type_ids"] = (ids > 9).int()
    with torch.no_grad():
        output = model.eval()(**inputs)
    return torch.stack([output.start_logits, output.end_logits])


def disturb(model: nn.Module) -> None:
    """Give what trains other values, as a training does: adapters begin with no effect."""
    torch.manual_seed(3)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight) * 0.1)


@pytest.mark.parametrize("family", WITH_ADAPTERS)
@pytest.mark.parametrize("frozen", [None, 1])
def test_adapters_and_head_are_saved_merged_and_by_themselves(tmp_path, peft, family, frozen) -> None:
    folder = save(FAMILIES[family], tmp_path / "base")
    if family == "albert" and frozen:
        with pytest.raises(InputError, match=r"--model.lora_rank 4: .* has none above the 1 that .*freeze_layers"):
            QALightningModule(folder, lora_rank=4, freeze_layers=frozen)
        return
    before = logits(AutoModelForQuestionAnswering.from_pretrained(folder))
    module = QALightningModule(folder, lora_rank=4, freeze_layers=frozen)
    trained = [name for name, weight in module.model.named_parameters() if weight.requires_grad]
    assert {name.split(".")[0] for name in trained if "lora_" not in name} <= {"qa_outputs", "head", "classifier"}
    assert any("lora_A" in name for name in trained)
    assert torch.equal(logits(module.model), before)
    disturb(module.model)
    changed = logits(module.model)
    assert not torch.allclose(changed, before, atol=1e-3)

    assert set(module.state_dict()) == {f"model.{name}" for name in trained}
    module.save(tmp_path / "saved")
    merged = AutoModelForQuestionAnswering.from_pretrained(tmp_path / "saved")
    torch.testing.assert_close(logits(merged), changed, atol=1e-4, rtol=1e-4)
    assert merged.state_dict().keys() == AutoModelForQuestionAnswering.from_pretrained(folder).state_dict().keys()
    base = AutoModelForQuestionAnswering.from_pretrained(folder)
    alone = peft.PeftModel.from_pretrained(base, tmp_path / "saved" / "adapter")
    assert torch.equal(logits(alone), changed)
    assert torch.equal(logits(module.model), changed)  # saving has left it as it was
    assert Reader.from_pretrained(tmp_path / "saved").answer(["Where?"], ["Anna lives in Oslo."])


@pytest.mark.parametrize(
    ("family", "ends"),
    [
        ("bert cased", {"query", "value"}),
        ("deberta-v3", {"query_proj", "value_proj"}),
        ("gpt2, no CLS", {"c_attn"}),
        ("distilbert", {"q_lin", "k_lin", "v_lin", "out_lin"}),  # peft does not know it
        ("albert", {"query", "key", "value", "dense"}),
        ("modernbert", {"Wqkv", "Wo"}),
    ],
)
def test_layers_are_those_that_peft_knows_or_all_of_attention(tmp_path, peft, family, ends) -> None:
    module = QALightningModule(save(FAMILIES[family], tmp_path), lora_rank=2, lora_alpha=8, lora_dropout=0.1)
    adapted = [name.removesuffix(".lora_A") for name, _ in module.model.named_modules() if name.endswith(".lora_A")]
    assert {name.rpartition(".")[2] for name in adapted} == ends
    assert all("mlp" not in name and ".ffn" not in name for name in adapted)
    layer = module.model.get_submodule(adapted[0])
    assert (layer.r, layer.scaling, layer.lora_dropout["default"].p) == ({"default": 2}, {"default": 4.0}, 0.1)


def test_a_model_without_linear_attention_is_refused(tmp_path, peft) -> None:
    folder = save(FAMILIES["xlnet"], tmp_path)
    with pytest.raises(InputError) as caught:
        QALightningModule(folder, lora_rank=8)
    assert caught.value.problems == [
        f"--model.lora_rank 8: adapters are added to linear layers of attention, and {folder} "
        "(XLNetForQuestionAnsweringSimple) has none; leave it out"
    ]


def test_without_peft_the_error_names_what_to_install(model_folder, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(InputError) as caught:
        QALightningModule(model_folder, lora_rank=8)
    (problem,) = caught.value.problems
    assert problem.startswith("--model.lora_rank 8 needs the package peft (")
    assert problem.endswith('; run pip install "qa-lightning[lora]"')


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"lora_rank": 0}, "--model.lora_rank is 0; it must be at least 1"),
        ({"lora_rank": 4, "lora_alpha": 0}, "--model.lora_alpha is 0; it must be at least 1"),
        ({"lora_rank": 4, "lora_dropout": 1.0}, "--model.lora_dropout is 1.0; it must be at least 0 and below 1"),
    ],
)
def test_numbers_that_are_none_are_refused(model_folder, given, words) -> None:
    with pytest.raises(InputError, match=words):
        QALightningModule(model_folder, **given)


def test_a_rank_above_the_size_of_a_layer_is_refused(model_folder, peft) -> None:
    with pytest.raises(InputError, match=r"--model.lora_rank 33: layers of .* have 32 inputs or outputs; pass at most"):
        QALightningModule(model_folder, lora_rank=33)
    assert QALightningModule(model_folder, lora_rank=32)


def test_states_are_loaded_strictly(model_folder, peft) -> None:
    module = QALightningModule(model_folder, lora_rank=2)
    state = {name: torch.full_like(value, 0.5) for name, value in module.state_dict().items()}
    base = module.model.bert.embeddings.word_embeddings.weight.clone()
    module.load_state_dict(state)
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    assert torch.equal(module.model.bert.embeddings.word_embeddings.weight, base)
    with pytest.raises(RuntimeError, match="Missing key"):
        module.load_state_dict({name: value for name, value in state.items() if "lora_A" not in name})
    with pytest.raises(RuntimeError, match="Unexpected key"):
        module.load_state_dict({**state, "model.more": torch.zeros(1)})


def test_the_adapters_folder_says_what_it_is_for(tmp_path, peft, model_folder) -> None:
    QALightningModule(model_folder, lora_rank=2).save(tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "adapter" / "adapter_config.json").read_text())
    named = ("base_model_name_or_path", "r", "lora_alpha", "modules_to_save")
    assert [config[name] for name in named] == [model_folder, 2, 16, ["qa_outputs"]]
    loaded = peft.AutoPeftModel.from_pretrained(tmp_path / "saved" / "adapter")
    assert isinstance(loaded.get_base_model(), BertForQuestionAnswering)
    names = set(load_file(tmp_path / "saved" / "adapter" / "adapter_model.safetensors"))
    assert {"base_model.model.qa_outputs.weight", "base_model.model.qa_outputs.bias"} < names
    assert all("lora_" in name or "qa_outputs" in name for name in names)


def test_a_folder_of_adapters_is_no_model_and_the_error_says_which_is(tmp_path, peft, model_folder) -> None:
    QALightningModule(model_folder, lora_rank=2).save(tmp_path / "saved")
    folder = tmp_path / "saved" / "adapter"
    with pytest.raises(InputError) as caught:
        pipeline(folder)
    assert caught.value.problems[0].startswith(
        f"--model {folder} holds adapters alone; {folder.parent} holds the model with them. To merge them"
    )


def wrapped(peft, folder: str, task: str | None = "QUESTION_ANS", **options):
    """A model that a user has wrapped, with other values in what trains."""
    model = AutoModelForQuestionAnswering.from_pretrained(folder)
    model = peft.get_peft_model(model, peft.LoraConfig(task_type=task, r=4, **options))
    disturb(model)
    return model


@pytest.mark.parametrize("family", ["bert cased", "distilbert", "roberta", "deberta-v3"])
def test_a_pipeline_asks_a_wrapped_model(tmp_path, peft, family) -> None:
    folder, tokenizer = save(FAMILIES[family], tmp_path / "base"), tokenizer_of(family)
    targets = ["q_lin", "v_lin"] if family == "distilbert" else None
    model = wrapped(peft, folder, None, target_modules=targets)
    changed = logits(model)
    asked = {"question": ["Where does Anna live?", "Who?"], "context": ["Anna lives in Oslo, near Ben."] * 2}
    ask = pipeline(model=model, tokenizer=tokenizer, device=-1)
    assert "PeftModel" in repr(ask)
    found = ask(**asked)
    assert torch.equal(logits(model), changed)
    expected = pipeline(model=model.merge_and_unload(), tokenizer=tokenizer, device=-1)(**asked)
    assert [answer["answer"] for answer in found] == [answer["answer"] for answer in expected]
    for one, other in zip(found, expected, strict=True):
        assert one["score"] == pytest.approx(other["score"], rel=1e-3)


def test_a_pipeline_asks_as_peft_does(peft, model_folder, tokenizer) -> None:
    """peft's class for question answering leaves token types out, so its adapters were trained without them."""
    given, asked = wrapped(peft, model_folder), []
    given.get_base_model().register_forward_pre_hook(
        lambda model, arguments, named: asked.append(named.get("token_type_ids")), with_kwargs=True
    )
    assert pipeline(model=given, tokenizer=tokenizer, device=-1)(question="Who ?", context="Anna .")["answer"]
    assert asked == [None]


def test_a_module_with_a_wrapped_model_is_saved_merged_and_by_itself(tmp_path, peft, model_folder) -> None:
    module = QALightningModule(model_folder)
    module.model = wrapped(peft, model_folder, None)
    changed = logits(module.model)
    module.save(tmp_path / "saved")
    merged = AutoModelForQuestionAnswering.from_pretrained(tmp_path / "saved")
    torch.testing.assert_close(logits(merged), changed)
    base = AutoModelForQuestionAnswering.from_pretrained(model_folder)
    alone = peft.PeftModel.from_pretrained(base, tmp_path / "saved" / "adapter")
    assert torch.equal(logits(alone), changed)


def test_adapters_are_merged_in_float32_whatever_the_weights_are(tmp_path, peft, model_folder) -> None:
    """In 16 bits, most of what adapters add is rounded away."""
    module = QALightningModule(model_folder, lora_rank=2)
    disturb(module.model)
    module.to(torch.bfloat16)
    wanted = logits(copy.deepcopy(module.model).float())
    module.save(tmp_path / "saved")
    merged = AutoModelForQuestionAnswering.from_pretrained(tmp_path / "saved", dtype=torch.float32)
    torch.testing.assert_close(logits(merged), wanted, rtol=1e-4, atol=1e-5)


def test_layers_of_a_wrapped_model_have_the_depths_that_they_have_without(peft, model_folder) -> None:
    module = QALightningModule(model_folder)
    alone = {**layer_depths(module.model)}
    encoder = module.backbone
    module.model = wrapped(peft, model_folder, None)
    depths = layer_depths(module.model)
    assert set(depths.values()) == set(alone.values())
    assert {depths[name] for name in depths if ".layer.0." in name} == {1}
    assert type(module.backbone) is type(encoder)


def test_what_cannot_be_merged_is_one_error(tmp_path, peft, model_folder) -> None:
    module = QALightningModule(model_folder)
    config = peft.PromptTuningConfig(task_type="QUESTION_ANS", num_virtual_tokens=2)
    module.model = peft.get_peft_model(module.model, config)
    with pytest.raises(InputError, match=r"adapters of the kind PROMPT_TUNING cannot be merged into the model"):
        module.save(tmp_path / "saved")
    assert not Path(tmp_path / "saved").exists()
