"""A teacher's logits: those of its own, mapped by characters, computed once; and training with them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import Callback, Trainer
from transformers import AutoModelForQuestionAnswering, BertModel

from qa_lightning import QALightningModule, SquadDataModule
from qa_lightning.distillation import teacher as teacher_module
from qa_lightning.distillation.targets import SoftTargets
from qa_lightning.distillation.teacher import Computing, Teacher
from qa_lightning.errors import InputError
from qa_lightning.export.card import model_card
from qa_lightning.features.windows import Windower
from qa_lightning.models.computing.loss import model_logits
from qa_lightning.models.loading import load_tokenizer
from tests.helpers import commands
from tests.helpers.data import mixed_rows, write_json
from tests.helpers.kill_and_resume import differences
from tests.helpers.models import small_config, small_tokenizer
from tests.helpers.processes import TRAIN, finished
from tests.helpers.training import QUIET, SMALL, Crash, crash, train_flags
from tests.helpers.windows import rows_of, unigram_left, without_cls

CPU = Computing(torch.device("cpu"), "32-true", 8)


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> str:
    return write_json(tmp_path_factory.mktemp("data") / "train.json", mixed_rows(40, unanswerable=4, long=3))


def test_memory_that_a_teacher_lacks_is_an_error_with_its_fix(data, teacher, monkeypatch) -> None:
    def no_memory(*args: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(teacher_module, "model_logits", no_memory)
    with pytest.raises(InputError, match=r"out of memory with 8 windows at a time; lower --data.eval_batch_size"):
        Teacher(teacher, data.prepared("train"), CPU).prepare()


@pytest.fixture
def data(tmp_path, model_folder, rows) -> SquadDataModule:
    """Prepared, in a cache of its own."""
    made = SquadDataModule(rows, rows, model_folder, cache_dir=str(tmp_path / "cache"), **SMALL)
    made.prepare_data()
    made.setup("fit")
    return made


def batches_of(data: SquadDataModule, targets: SoftTargets | None) -> list[dict[str, torch.Tensor]]:
    """The training batches, padded by up to 15 tokens, in the order of training."""
    data.pad_to_multiple_of = 16
    data.soft_targets = targets
    return list(data.train_dataloader())


def softmax(logits: torch.Tensor, tokens: list[int], temperature: float) -> dict[int, float]:
    return dict(zip(tokens, (logits[tokens].double() / temperature).softmax(0).tolist(), strict=True))


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_with_the_same_tokenizer_the_targets_are_the_teachers_own(data, teacher, temperature) -> None:
    made = Teacher(teacher, data.prepared("train"), CPU)
    model = AutoModelForQuestionAnswering.from_pretrained(teacher).eval()
    assert not made.is_mapped
    seen = 0
    for batch in batches_of(data, made.targets(temperature)):
        with torch.inference_mode():
            logits = dict(zip(("start", "end"), model_logits(model, batch), strict=True))
        for row in range(len(batch["feature"])):
            begin, length, cls = (int(batch[name][row]) for name in ("context_begin", "context_length", "cls"))
            tokens = [cls, *range(begin, begin + length)]
            for name, own in logits.items():
                expected = np.full(batch["input_ids"].shape[1], -1.0)
                for token, mass in softmax(own[row], tokens, temperature).items():
                    expected[token] = mass
                np.testing.assert_allclose(batch[f"teacher_{name}"][row], expected, atol=1e-5)
            seen += 1
    assert seen == len(data.train_set)


@pytest.mark.parametrize("make", [None, unigram_left, without_cls])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_other_tokens_are_mapped_by_their_characters(data, make_teacher, other_teacher, temperature, make) -> None:
    folder = other_teacher if make is None else make_teacher(make(), max_position_embeddings=256, type_vocab_size=3)
    made = Teacher(folder, data.prepared("train"), CPU)
    assert made.is_mapped
    model = AutoModelForQuestionAnswering.from_pretrained(folder).eval()
    tokenizer = load_tokenizer(folder)
    examples = data.train_set.examples[:]
    windower = Windower(data.tokenizer, data.settings)
    windows = list(rows_of(windower(examples["question"], examples["context"], [None] * len(examples["id"]))))
    left, other = tokenizer.padding_side == "left", 0
    for batch in batches_of(data, made.targets(temperature)):
        for row, feature in enumerate(batch["feature"].tolist()):
            window, _, starts, ends = windows[feature]
            begin, text = int(starts[0]), examples["context"][window["example"]][starts[0] : ends[-1]]
            asked = (examples["question"][window["example"]], text)
            read = tokenizer(*(asked[::-1] if left else asked), return_tensors="pt", return_offsets_mapping=True)
            offsets, ids = read.pop("offset_mapping")[0].tolist(), read["input_ids"][0].tolist()
            context = [number for number, part in enumerate(read.sequence_ids(0)) if part == int(not left)]
            null = ids.index(tokenizer.cls_token_id) if tokenizer.cls_token_id is not None else 0
            with torch.inference_mode():
                output = model(**{name: read[name] for name in tokenizer.model_input_names if name in read})
            other += len(context) != len(starts)
            first_token, cls = int(batch["context_begin"][row]), int(batch["cls"][row])
            for name, logits in (("start", output.start_logits[0]), ("end", output.end_logits[0])):
                expected = np.full(batch["input_ids"].shape[1], -1.0)
                expected[[cls, *range(first_token, first_token + len(starts))]] = 0.0
                chances = (logits[[null, *context]].double() / temperature).softmax(0).tolist()
                expected[cls] += chances[0]
                for token, chance in zip(context, chances[1:], strict=True):
                    low, high = offsets[token]
                    while low < high and text[low].isspace():  # a space before a word belongs to no answer
                        low += 1
                    character = begin + (low if name == "start" else high - 1)
                    at = next((number for number, end in enumerate(ends) if end > character), len(ends) - 1)
                    if name == "end" and starts[at] > character:  # the token is a space alone
                        at = max(0, at - 1)
                    assert low == high or starts[at] <= character < ends[at]
                    expected[first_token + at] += chance
                found = batch[f"teacher_{name}"][row].numpy()
                np.testing.assert_allclose(found, expected, atol=1e-5)
                assert found[found >= 0].sum() == pytest.approx(1, abs=1e-6)
    assert other  # the two cut some windows into other tokens


def fit(
    model: str, rows: str, cache: Path, flags=None, callbacks=(), sizes=None, **arguments
) -> dict[str, torch.Tensor]:
    """The weights after two epochs from one seed."""
    torch.manual_seed(0)
    module = QALightningModule(model, learning_rate=1e-3, **arguments)
    data = SquadDataModule(rows, rows, model, cache_dir=str(cache), **{**SMALL, **(sizes or {})})
    Trainer(max_epochs=2, callbacks=list(callbacks), **{**QUIET, **(flags or {})}).fit(module, data)
    return module.state_dict()


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def test_a_second_run_reuses_the_logits_and_ends_with_the_same_weights(
    tmp_path, model_folder, rows, other_teacher, monkeypatch, said
) -> None:
    first = fit(model_folder, rows, tmp_path, teacher=other_teacher)
    copy = Path(shutil.copytree(other_teacher, tmp_path / "copy"))
    with monkeypatch.context() as patch:
        patch.setattr(Teacher, "_logits", None)
        second = fit(model_folder, rows, tmp_path, teacher=other_teacher)
        fit(model_folder, rows, tmp_path, teacher=str(copy), teacher_temperature=1.0, teacher_weight=0.9)
    assert same(first, second)
    lines = [line for line in said.messages if line.startswith("teacher:")]
    assert [re.sub(r"(in )[\d.]+ s", r"\1N s", line.partition("windows")[2]) for line in lines] == [
        " (computed in N s), mapped to the student's tokens by characters; temperature 2, 50% of the loss",
        " (computed before, reused), mapped to the student's tokens by characters; temperature 2, 50% of the loss",
        " (computed before, reused), mapped to the student's tokens by characters; temperature 1, 90% of the loss",
    ]
    model = AutoModelForQuestionAnswering.from_pretrained(copy)
    model.qa_outputs.bias.data += 1
    model.save_pretrained(copy)
    fit(model_folder, rows, tmp_path, teacher=str(copy))
    assert "(computed in" in [line for line in said.messages if line.startswith("teacher:")][-1]
    assert len(list((tmp_path / "teacher_windows").glob("*/"))) == 1  # which depend on the tokenizer alone
    assert len(list((tmp_path / "teacher_logits").glob("*/"))) == 2


def test_the_weight_decides_between_labels_and_teacher(tmp_path, model_folder, rows, teacher) -> None:
    alone = fit(model_folder, rows, tmp_path)
    without = fit(model_folder, rows, tmp_path, teacher=teacher, teacher_weight=0.0)
    assert same(alone, without)  # to the last bit
    for weight in (0.5, 1.0):
        assert not same(alone, fit(model_folder, rows, tmp_path, teacher=teacher, teacher_weight=weight))


def test_a_student_that_equals_its_teacher_has_no_loss(data, teacher) -> None:
    data.soft_targets = Teacher(teacher, data.prepared("train"), CPU).targets(2.0)
    own, other = (
        QALightningModule(name, teacher=teacher, teacher_weight=1.0).eval()
        for name in (teacher, data.hparams["model_name"])
    )
    for batch in data.train_dataloader():
        torch.testing.assert_close(own.feature_losses(batch), torch.zeros(len(batch["feature"])), atol=1e-5, rtol=0)
        assert (other.feature_losses(batch) > 0.1).all()


def test_a_student_learns_what_its_teacher_says(tmp_path, model_folder, rows, teacher) -> None:
    torch.manual_seed(0)
    data = SquadDataModule(rows, rows, model_folder, cache_dir=str(tmp_path), **SMALL)
    module = QALightningModule(model_folder, learning_rate=3e-3, teacher=teacher, teacher_weight=1.0)
    losses = []

    class Kept(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
            losses.append(float(outputs["loss"]))

    Trainer(max_epochs=8, callbacks=[Kept()], limit_val_batches=0, **QUIET).fit(module, data)
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10])


@pytest.mark.parametrize(
    ("flags", "sizes"),
    [
        ({"accumulate_grad_batches": 2}, {"tokens_per_batch": 200}),
        ({}, {"batch_size": "auto", "windows_per_step": 12}),
        ({}, {"train_answers": "all", "batching": "random", "keep_no_answer": 0.5}),
        ({"precision": "bf16-mixed"}, {"num_workers": 1}),
    ],
)
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_every_way_to_make_batches_takes_a_teacher(tmp_path, model_folder, rows, other_teacher, flags, sizes) -> None:
    first = fit(model_folder, rows, tmp_path, flags, sizes=sizes, teacher=other_teacher)
    assert all(weight.isfinite().all() for weight in first.values())
    assert same(first, fit(model_folder, rows, tmp_path, flags, sizes=sizes, teacher=other_teacher))


def test_another_precision_has_logits_of_its_own(tmp_path, data, teacher) -> None:
    half = Computing(torch.device("cpu"), "bf16-mixed", 8)
    exact, rounded = (Teacher(teacher, data.prepared("train"), how) for how in (CPU, half))
    found = exact.targets(1.0), rounded.targets(1.0)
    assert exact.folder != rounded.folder
    assert not np.array_equal(found[0].start, found[1].start)
    np.testing.assert_allclose(found[0].start, found[1].start, atol=0.3)


def test_a_module_without_a_teacher_takes_data_that_one_with_a_teacher_had(
    tmp_path, model_folder, rows, teacher
) -> None:
    data = SquadDataModule(rows, rows, model_folder, cache_dir=str(tmp_path), **SMALL)
    for name in (teacher, None):
        Trainer(fast_dev_run=True, **QUIET).fit(QALightningModule(model_folder, teacher=name), data)
        assert ("teacher_start" in next(iter(data.train_dataloader()))) == (name is not None)
    Trainer(**QUIET).validate(QALightningModule(model_folder, teacher=teacher), data, verbose=False)


def flags_of(folder: Path, model: str, rows: str, teacher: str, *more: str) -> list[str]:
    given = train_flags(folder, model, rows, rows)
    return [*given, "--trainer.max_epochs", "2", "--save_every_minutes", "0", "--model.teacher", teacher, *more]


def test_a_resumed_run_ends_as_one_that_was_never_stopped(
    tmp_path, model_folder, rows, other_teacher, monkeypatch
) -> None:
    assert commands.train(flags_of(tmp_path / "whole", model_folder, rows, other_teacher)) == 0
    given = flags_of(tmp_path / "cut", model_folder, rows, other_teacher)
    crash(monkeypatch, Crash("batch", 1, 2), given)
    assert commands.train([*given, "--ckpt_path", "last"]) == 0
    runs = [tmp_path / name / "lightning_logs" / "version_0" for name in ("whole", "cut")]
    assert differences(*runs) == []


def test_a_teacher_that_has_changed_is_refused_when_a_run_is_resumed(
    tmp_path, model_folder, rows, make_teacher, monkeypatch
) -> None:
    """Its name is the same, and logits of the new weights may be there from another run."""
    folder = Path(shutil.copytree(make_teacher(small_tokenizer()), tmp_path / "teacher"))
    given = [*train_flags(tmp_path, model_folder, rows, rows), "--model.teacher", str(folder)]
    crash(monkeypatch, Crash("batch", 1, 3), given)
    other = make_teacher(small_tokenizer(), hidden_dropout_prob=0.2)
    for file in Path(other).iterdir():
        shutil.copy(file, folder)
    with pytest.raises(InputError, match=r"--model.teacher .*: its weights or tokenizer, .* trained with before"):
        commands.train([*given, "--ckpt_path", "last"])


@pytest.mark.parametrize("first", [True, False])
def test_a_teacher_that_is_left_out_or_new_is_refused_when_a_run_is_resumed(
    tmp_path, model_folder, rows, teacher, first, monkeypatch
) -> None:
    without = train_flags(tmp_path, model_folder, rows, rows)
    given = [*without, "--model.teacher", teacher]
    before, now = (given, without) if first else (without, given)
    crash(monkeypatch, Crash("batch", 1, 3), before)
    wanted = (
        rf"with a teacher before; pass --model.teacher {teacher}, or"
        if first
        else r"--model.teacher .* without a teacher"
    )
    with pytest.raises(InputError, match=wanted):
        commands.train([*now, "--ckpt_path", "last"])


def test_weights_of_a_run_with_another_teacher_can_be_validated(tmp_path, model_folder, rows, make_teacher) -> None:
    data = SquadDataModule(rows, rows, model_folder, cache_dir=str(tmp_path), **SMALL)
    modules = []
    for change in (0.1, 0.2):
        name = make_teacher(small_tokenizer(), hidden_dropout_prob=change)
        modules.append(QALightningModule(model_folder, teacher=name))
        trainer = Trainer(max_steps=1, limit_val_batches=0, **QUIET)
        trainer.fit(modules[-1], data)
        trainer.save_checkpoint(tmp_path / f"{change}.ckpt")
    Trainer(**QUIET).validate(modules[0], data, str(tmp_path / "0.2.ckpt"), verbose=False)


def test_a_run_tells_of_its_teacher(tmp_path, model_folder, rows, teacher, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(teacher, tmp_path / "lightning_logs" / "version_0" / "model")
    more = ("--model.teacher_weight", "0.25", "--trainer.default_root_dir", ".")
    assert commands.train(flags_of(tmp_path, model_folder, rows, "last", *more)) == 0
    run = tmp_path / "lightning_logs" / "version_1"
    flags = yaml.safe_load((run / "config.yaml").read_text())
    assert flags["model"]["teacher"] == "lightning_logs/version_0/model"
    recorded = json.loads((run / "run.json").read_text())[-1]["teacher"]
    assert recorded == {"name": "lightning_logs/version_0/model", "hub": False, "temperature": 2.0, "weight": 0.25}
    card = model_card(run / "model", "someone/student")
    assert "| teacher | a local model (`model`), temperature 2, 25% of the loss |" in card.text


@pytest.mark.slow
def test_of_two_processes_one_computes(tmp_path, model_folder, rows, other_teacher, monkeypatch) -> None:
    monkeypatch.setenv("QA_LIGHTNING_CACHE", str(tmp_path / "cache"))
    more = ("--trainer.devices", "2", "--data.batch_size", "4", "--trainer.max_epochs", "1")
    ended = finished([TRAIN, *flags_of(tmp_path, model_folder, rows, other_teacher, *more)])
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert len(re.findall(r"^teacher: .* \(computed in ", ended.stdout, re.MULTILINE)) == 1
    assert "waiting for another process" not in ended.stdout


def test_bad_flags_are_refused_together(tmp_path, model_folder, rows) -> None:
    onnx = tmp_path / "onnx"
    onnx.mkdir()
    for name in ("model.onnx", "config.json"):
        (onnx / name).write_text("{}")
    more = ("--model.teacher_temperature", "0", "--model.teacher_weight", "1.5")
    with pytest.raises(InputError) as caught:
        commands.train(flags_of(tmp_path, model_folder, rows, str(onnx), *more))
    assert caught.value.problems == [
        "--model.teacher_temperature is 0.0; it must be above 0, 1 to 5 are usual",
        "--model.teacher_weight is 1.5; it must be from 0 to 1, a part of the loss",
        f"--model.teacher {onnx} is an ONNX export; pass the folder of the model that was exported",
    ]
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(InputError, match=rf"--model\.teacher {file} is a file"):
        commands.train(flags_of(tmp_path, model_folder, rows, str(file)))
    with pytest.raises(InputError) as caught:
        commands.train([*train_flags(tmp_path, model_folder, rows, rows), *more])
    assert caught.value.problems[2:] == [
        "--model.teacher_temperature 0.0 goes together with --model.teacher; pass that too, or leave it out",
        "--model.teacher_weight 1.5 goes together with --model.teacher; pass that too, or leave it out",
    ]


def test_a_teacher_that_cannot_teach_is_refused_before_training(
    tmp_path, model_folder, rows, make_teacher, monkeypatch
) -> None:
    encoder, short = tmp_path / "encoder", make_teacher(small_tokenizer(), max_position_embeddings=40)
    BertModel(small_config(len(small_tokenizer()))).save_pretrained(encoder)
    small_tokenizer().save_pretrained(encoder)
    reasons = {
        str(encoder): rf"--model\.teacher: model '{encoder}' has no trained question answering head",
        short: rf"--model\.teacher {short} has 40 positions, and reads windows of up to 48 tokens here: lower "
        r"--data\.max_length, which is 48 now, or choose another teacher",
        str(tmp_path / "none"): r"--model\.teacher: model '.*none' cannot be loaded",
    }
    for name, reason in reasons.items():
        with pytest.raises(InputError, match=reason):
            commands.train(flags_of(tmp_path / "run", model_folder, rows, name))
        assert list((tmp_path / "run").rglob("run.json")) == []


def test_batches_from_elsewhere_are_refused(data, model_folder, teacher) -> None:
    loaders = data.train_dataloader(), data.val_dataloader()
    with pytest.raises(InputError, match=r"--model\.teacher needs the training windows of a SquadDataModule"):
        Trainer(fast_dev_run=True, **QUIET).fit(QALightningModule(model_folder, teacher=teacher), *loaders)
