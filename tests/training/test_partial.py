"""Runs that train adapters or upper layers: what they save, that they resume exactly, and what goes with them."""

from __future__ import annotations

import json
import random
import re
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import BackboneFinetuning
from lightning.pytorch.strategies import FSDPStrategy
from safetensors.torch import load_file
from transformers import AutoModelForQuestionAnswering

from qa_lightning import QALightningModule, SquadDataModule, pipeline
from qa_lightning.errors import InputError
from qa_lightning.export.card import model_card
from qa_lightning.models.computing.dropout import FastDropout
from qa_lightning.runs.checkpoints import LastCheckpoint
from qa_lightning.training.steps.optim import parameter_groups
from qa_lightning.training.steps.partial import partial_lines, partial_problems
from tests.helpers import commands
from tests.helpers.data import mixed_rows, write_json
from tests.helpers.kill_and_resume import command, compare, differences
from tests.helpers.training import AVERAGED, QUIET, SMALL, Crash, CrashError, crash, train_flags

LORA = ("--model.lora_rank", "4")
FROZEN = ("--model.freeze_layers", "1")
BOTH = (*LORA, *FROZEN)
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),  # of peft's use of transformers
    pytest.mark.filterwarnings("ignore:.*your dataloader is not resumable"),  # the data module resumes itself
]


def needs_peft(flags: tuple[str, ...] = LORA) -> None:
    if LORA[0] in flags:
        pytest.importorskip("peft", reason="peft is not installed")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("data")
    train = write_json(folder / "train.json", mixed_rows(60, unanswerable=6, long=3))
    return train, write_json(folder / "validation.json", mixed_rows(30, long=2))


def arguments(root: Path, model: str, data: tuple[str, str], *more: str) -> list[str]:
    given = [*train_flags(root, model, *data), "--trainer.max_epochs", "2", "--data.eval_batch_size", "16"]
    return [*given, "--model.learning_rate", "1e-2", *more]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, model_folder, data):
    """Trains a run with some flags without stopping it, once; returns the run's folder."""
    done: dict[tuple[str, ...], Path] = {}

    def run(*flags: str) -> Path:
        needs_peft(flags)
        if flags not in done:
            root = tmp_path_factory.mktemp("whole")
            assert commands.train(arguments(root, model_folder, data, *flags)) == 0
            done[flags] = root / "lightning_logs" / "version_0"
        return done[flags]

    return run


def state(checkpoint: Path) -> dict[str, torch.Tensor]:
    return torch.load(checkpoint, weights_only=True)["state_dict"]


def test_checkpoints_hold_adapters_and_head_alone(whole, model_folder) -> None:
    run = whole(*LORA)
    for name in ("best.ckpt", "last.ckpt"):
        names = set(state(run / "checkpoints" / name))
        assert {"model.qa_outputs.weight", "model.qa_outputs.bias"} < names
        assert all("lora_" in one or "qa_outputs" in one for one in names)
    base = sum(value.nbytes for value in load_file(Path(model_folder) / "model.safetensors").values())
    assert sum(value.nbytes for value in state(run / "checkpoints" / "best.ckpt").values()) < base / 10


def test_only_what_trains_changes_and_the_model_is_what_was_validated(whole, model_folder) -> None:
    run, base = whole(*LORA), load_file(Path(model_folder) / "model.safetensors")
    written = load_file(run / "model" / "model.safetensors")
    changed = {name for name, value in written.items() if not torch.equal(value, base[name])}
    assert changed == {
        *(f"bert.encoder.layer.{n}.attention.self.{part}.weight" for n in (0, 1) for part in ("query", "value")),
        *("qa_outputs.weight", "qa_outputs.bias"),
    }
    module = QALightningModule.load_from_checkpoint(run / "checkpoints" / "best.ckpt", weights_only=True).eval()
    merged = AutoModelForQuestionAnswering.from_pretrained(run / "model")
    ids = torch.arange(5, 29).view(2, 12)
    with torch.no_grad():
        torch.testing.assert_close(module.model(input_ids=ids).start_logits, merged(input_ids=ids).start_logits)


def test_the_best_checkpoint_scores_the_same_again(whole, data) -> None:
    run = whole(*LORA)
    module = QALightningModule.load_from_checkpoint(run / "checkpoints" / "best.ckpt", weights_only=True)
    windows = SMALL | {"batch_size": 8, "eval_batch_size": 16}
    (scores,) = Trainer(**QUIET).validate(module, SquadDataModule(*data, module.hparams["model_name"], **windows))
    recorded = json.loads((run / "run.json").read_text())[-1]["scores"]
    assert scores["val/f1"] == pytest.approx(recorded["best/f1"])


@pytest.mark.parametrize(
    ("flags", "hook", "epoch", "batch"),
    [
        (LORA, "batch", 0, 4),
        (LORA, "step", 1, 3),
        ((*LORA, *AVERAGED), "batch", 1, 3),
        ((*LORA, "--model.lora_dropout", "0.1", "--trainer.accumulate_grad_batches", "2"), "batch", 0, 4),
        (FROZEN, "batch", 0, 4),
        ((*BOTH, "--model.layer_decay", "0.8"), "batch", 1, 3),
    ],
)
def test_a_run_that_was_cut_off_ends_as_one_that_was_not(
    tmp_path, model_folder, data, whole, monkeypatch, flags, hook, epoch, batch
) -> None:
    expected = whole(*flags)
    given = arguments(tmp_path, model_folder, data, *flags)
    crash(monkeypatch, Crash(hook, epoch, batch), [*given, "--save_every_minutes", "0"])
    assert commands.train([*given, "--ckpt_path", "last"]) == 0
    assert differences(expected, tmp_path / "lightning_logs" / "version_0") == []


def test_averages_of_adapters_are_what_is_written(whole) -> None:
    averaged = whole(*LORA, *AVERAGED)
    saved = torch.load(averaged / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["state_dict"].keys() == saved["current_model_state"].keys()
    name = next(name for name in saved["state_dict"] if "lora_B" in name)
    assert not torch.equal(saved["state_dict"][name], saved["current_model_state"][name])
    best = state(averaged / "checkpoints" / "best.ckpt")
    head = load_file(averaged / "model" / "model.safetensors")["qa_outputs.weight"]
    assert torch.equal(head, best["model.qa_outputs.weight"])


@pytest.mark.parametrize("flags", [LORA, FROZEN])
def test_a_checkpoint_becomes_the_runs_model(tmp_path, whole, flags) -> None:
    run = whole(*flags)
    checkpoint = run / "checkpoints" / "best.ckpt"
    words = ["--model", str(checkpoint), "--format", "transformers", "--output", str(tmp_path / "made")]
    assert commands.export(words) == 0
    made, written = (folder / "model.safetensors" for folder in (tmp_path / "made", run / "model"))
    assert made.read_bytes() == written.read_bytes()
    assert (tmp_path / "made" / "adapter").is_dir() == (flags == LORA)
    assert pipeline(tmp_path / "made", device=-1)(question="Who ?", context="Anna lives .")["answer"]


@pytest.mark.parametrize(
    ("first", "then", "words"),
    [
        (LORA, (), "was trained with --model.lora_rank 4; pass that"),
        ((), LORA, "was trained without --model.lora_rank; leave it out, not 4"),
        (LORA, ("--model.lora_rank", "8"), "was trained with --model.lora_rank 4; pass that, not 8"),
        (LORA, (*LORA, "--model.lora_alpha", "8"), "was trained with --model.lora_alpha 16; pass that, not 8"),
        (FROZEN, (), "was trained with --model.freeze_layers 1; pass that"),
        (FROZEN, ("--model.freeze_layers", "2"), "was trained with --model.freeze_layers 1; pass that, not 2"),
    ],
)
def test_resuming_with_another_part_is_refused(tmp_path, model_folder, data, whole, first, then, words) -> None:
    needs_peft(first + then)
    checkpoint = whole(*first) / "checkpoints" / "last.ckpt"
    given = arguments(tmp_path, model_folder, data, *then, "--trainer.max_epochs", "3")
    with pytest.raises(InputError) as caught:
        commands.train([*given, "--ckpt_path", str(checkpoint)])
    assert caught.value.problems == [f"--ckpt_path {checkpoint}: {checkpoint} {words}"]


def test_adapters_of_other_weights_are_refused(tmp_path, whole, model_folder) -> None:
    checkpoint = torch.load(whole(*LORA) / "checkpoints" / "best.ckpt", weights_only=True)
    other = AutoModelForQuestionAnswering.from_pretrained(model_folder)
    with torch.no_grad():
        other.bert.embeddings.word_embeddings.weight[3, 3] += 1
    other.save_pretrained(tmp_path / "other")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "other" / name).write_bytes((Path(model_folder) / name).read_bytes())
    checkpoint["hyper_parameters"]["model_name"] = str(tmp_path / "other")
    torch.save(checkpoint, tmp_path / "other.ckpt")
    with pytest.raises(InputError, match=r"adapters for other weights than .*other has here: they have changed since"):
        QALightningModule.load_from_checkpoint(tmp_path / "other.ckpt", weights_only=True)


@pytest.mark.parametrize("flags", [LORA, FROZEN])
def test_the_optimizer_keeps_a_state_of_what_trains_alone(whole, flags) -> None:
    saved = torch.load(whole(*flags) / "checkpoints" / "last.ckpt", weights_only=True)
    (optimizer,) = saved["optimizer_states"]
    sizes = sorted(entry["exp_avg"].numel() for entry in optimizer["state"].values())
    given = {"lora_rank": 4} if flags == LORA else {"freeze_layers": 1}
    module = QALightningModule(saved["hyper_parameters"]["model_name"], **given)
    assert sizes == sorted(weight.numel() for weight in module.parameters() if weight.requires_grad)


def test_adapters_learn_at_the_rate_of_their_layer(model_folder) -> None:
    needs_peft()
    module = QALightningModule(model_folder, lora_rank=2)
    groups = parameter_groups(module.model, 0.01, 1.0, 0.5)
    names = {id(weight): name for name, weight in module.model.named_parameters()}
    rates = {names[id(weight)]: group["lr"] for group in groups for weight in group["params"]}
    assert len(rates) == 10
    for name, rate in rates.items():
        assert rate == (1.0 if name.startswith("qa_outputs") else 0.5 if ".layer.1." in name else 0.25)


def test_frozen_layers_keep_the_rates_of_those_above(model_folder) -> None:
    def rates(**given) -> dict[str, float]:
        module = QALightningModule(model_folder, **given)
        names = {id(weight): name for name, weight in module.model.named_parameters()}
        groups = parameter_groups(module.model, 0.01, 1.0, 0.5)
        return {names[id(weight)]: group["lr"] for group in groups for weight in group["params"]}

    every, some = rates(), rates(freeze_layers=1)
    assert some == {name: rate for name, rate in every.items() if name.startswith(("bert.encoder.layer.1.", "qa_"))}


@pytest.mark.parametrize("flags", [LORA, FROZEN])
def test_a_compiled_model_trains_and_writes_plain_names(tmp_path, model_folder, data, monkeypatch, flags) -> None:
    needs_peft(flags)
    torch._dynamo.reset()
    monkeypatch.setattr("qa_lightning.training.module.COMPILER", "eager")
    given = arguments(tmp_path, model_folder, data, *flags, "--model.compile", "true", "--trainer.max_epochs", "1")
    assert commands.train(given) == 0
    written = load_file(tmp_path / "lightning_logs" / "version_0" / "model" / "model.safetensors")
    assert written.keys() == load_file(Path(model_folder) / "model.safetensors").keys()


def test_dropout_of_adapters_is_fast_too(model_folder, data) -> None:
    needs_peft()
    module = QALightningModule(model_folder, lora_rank=2, lora_dropout=0.1)
    kinds = set()

    class Look(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
            kinds.update(type(part) for name, part in pl_module.model.named_modules() if "lora_dropout.default" in name)

    Trainer(max_steps=1, callbacks=[Look()], **QUIET).fit(module, SquadDataModule(*data, model_folder, **SMALL))
    assert kinds == {FastDropout}


@pytest.mark.slow
def test_two_devices_that_are_killed_end_as_whole_ones(tmp_path, model_folder, monkeypatch, capsys) -> None:
    needs_peft()
    monkeypatch.setenv("QA_LIGHTNING_CACHE", str(tmp_path / "cache"))
    random.seed(1)  # a kill early in its time, while it still trains
    words = [*command(tmp_path, model_folder, 2, accumulate=1, questions=240), *BOTH, "--trainer.max_epochs", "2"]
    status = compare(words, tmp_path, kills=1)
    assert status == 0, capsys.readouterr().out


@pytest.mark.parametrize("given", [{"lora_rank": 8}, {"freeze_layers": 1}])
def test_strategies_that_shard_weights_are_refused(given) -> None:
    trainer = Trainer(**QUIET)
    assert partial_problems(trainer, given) == []
    trainer._accelerator_connector.strategy = FSDPStrategy()
    ((name, value),) = given.items()
    assert partial_problems(trainer, given) == [
        f"--model.{name} {value}: it trains on one device or with --trainer.strategy ddp, and FSDPStrategy shards "
        "weights that train together with those that do not; leave one out"
    ]
    assert partial_problems(trainer, {"lora_rank": None, "freeze_layers": None}) == []


@pytest.mark.parametrize("given", [{"lora_rank": 2}, {"freeze_layers": 1}])
def test_callbacks_that_choose_what_trains_are_refused(model_folder, data, given) -> None:
    needs_peft(LORA if "lora_rank" in given else ())
    trainer = Trainer(max_epochs=1, callbacks=[BackboneFinetuning()], **QUIET)
    with pytest.raises(InputError, match=r"--trainer.callbacks BackboneFinetuning chooses what trains, too"):
        trainer.fit(QALightningModule(model_folder, **given), SquadDataModule(*data, model_folder, **SMALL))


@pytest.mark.parametrize(
    ("flags", "rows"),
    [
        (LORA, ["| adapters | LoRA, rank 4, alpha 16; merged into the weights |"]),
        (FROZEN, ["| not trained | embeddings and the lowest 1 of the layers |"]),
    ],
)
def test_the_card_says_what_was_trained(whole, flags, rows) -> None:
    card = str(model_card(whole(*flags) / "model", "user/name"))
    assert all(row in card for row in rows)


def test_a_run_says_what_it_trains(tmp_path, model_folder, data, capsys) -> None:
    needs_peft()
    given = arguments(tmp_path, model_folder, data, *LORA, "--model.learning_rate", "2e-5", "--trainer.max_steps", "1")
    assert commands.train(given) == 0
    said = capsys.readouterr().out
    trained = 2 * 2 * 4 * (32 + 32) + 2 * 32 + 2  # A and B of query and value in two layers, and the head
    assert re.search(rf"^trains: {trained:,} of [\d,]+ parameters \(--model.lora_rank 4\)$", said, flags=re.M)
    assert "trains: adapters usually need --model.learning_rate 1e-4 to 2e-3, not 2e-05" in said


@pytest.mark.parametrize("task", ["QUESTION_ANS", None])
def test_a_wrapped_model_trains_resumes_loads_and_answers(tmp_path, model_folder, data, task) -> None:
    needs_peft()
    import peft

    def module() -> QALightningModule:
        torch.manual_seed(0)
        made = QALightningModule(model_folder, learning_rate=1e-2)
        config = peft.LoraConfig(task_type=task, r=2, modules_to_save=["qa_outputs"])
        made.model = peft.get_peft_model(made.model, config)
        return made

    def fit(made: QALightningModule, name: str, *callbacks: Callback, **more) -> Path:
        torch.manual_seed(5)
        last = LastCheckpoint(0)
        options = QUIET | {"enable_checkpointing": True, "default_root_dir": tmp_path / name}
        trainer = Trainer(max_epochs=2, callbacks=[last, *callbacks], **options)
        with pytest.raises(CrashError) if callbacks else nullcontext():
            trainer.fit(made, SquadDataModule(*data, model_folder, **SMALL), **more)
        return last.path

    asked = []
    made = module()
    inner = made.model.get_base_model()
    inner.register_forward_pre_hook(
        lambda model, given, named: asked.append(named.get("token_type_ids") is not None), with_kwargs=True
    )
    saved = fit(made, "whole")
    assert asked
    assert all(asked)
    loaded = QALightningModule.load_from_checkpoint(saved, weights_only=True)
    assert isinstance(loaded.model, peft.PeftModel)
    assert loaded.state_dict().keys() == made.state_dict().keys()
    assert all(torch.equal(value, made.state_dict()[name]) for name, value in loaded.state_dict().items())
    questions = {"question": "Where does Anna live ?", "context": "Anna lives in Oslo ."}
    tokenizer = made.tokenizer
    answers = [pipeline(model=one.model, tokenizer=tokenizer, device=-1)(**questions) for one in (made, loaded)]
    assert answers[0] == answers[1]
    made.save(tmp_path / "saved")
    merged = pipeline(tmp_path / "saved", device=-1)(**questions)
    assert merged["answer"] == answers[0]["answer"]
    assert merged["score"] == pytest.approx(answers[0]["score"], rel=1e-3)

    resumed = module()
    cut = fit(module(), "resumed", Crash("batch", 0, 9))
    fit(resumed, "resumed", ckpt_path=cut, weights_only=True)
    assert all(torch.equal(value, made.state_dict()[name]) for name, value in resumed.state_dict().items())


def test_a_checkpoint_of_a_wrapped_model_needs_peft(tmp_path, model_folder, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    checkpoint = {
        "pytorch-lightning_version": "2.6.6",
        "hyper_parameters": {"model_name": model_folder},
        "adapters": {"configs": {"default": {"peft_type": "LORA", "r": 2}}},
        "state_dict": {},
    }
    torch.save(checkpoint, tmp_path / "wrapped.ckpt")
    with pytest.raises(InputError, match=r"peft has wrapped, and loading it needs .*qa-lightning\[lora\]"):
        QALightningModule.load_from_checkpoint(tmp_path / "wrapped.ckpt", weights_only=True)


def test_a_setting_that_peft_does_not_know_is_one_error(tmp_path, model_folder) -> None:
    needs_peft()
    checkpoint = {
        "pytorch-lightning_version": "2.6.6",
        "hyper_parameters": {"model_name": model_folder},
        "adapters": {"configs": {"default": {"peft_type": "LORA", "r": -2}}},
        "state_dict": {},
    }
    torch.save(checkpoint, tmp_path / "wrapped.ckpt")
    with pytest.raises(InputError, match=r"peft .* cannot do it again .*wrap its model as it was"):
        QALightningModule.load_from_checkpoint(tmp_path / "wrapped.ckpt", weights_only=True)


def test_memory_decides_the_batch_with_adapters(tmp_path, model_folder, data) -> None:
    needs_peft()
    given = arguments(tmp_path, model_folder, data, *LORA, "--data.batch_size", "auto", "--trainer.max_steps", "2")
    assert commands.train(given) == 0


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"lora_alpha": 32, "lora_dropout": 0.1}, ["--model.lora_alpha 32, --model.lora_dropout 0.1"]),
        ({"lora_alpha": 16, "lora_dropout": 0.0}, []),
        ({}, []),
    ],
)
def test_what_belongs_to_adapters_is_told_to_do_nothing_without_them(given, told) -> None:
    lines = partial_lines(torch.nn.Linear(2, 2), {"lora_rank": None, "learning_rate": 1e-3, **given})
    assert lines == [f"note: {one}: without effect, as there is no --model.lora_rank" for one in told]
