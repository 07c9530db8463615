"""What only a GPU can show: no step waits for it, answers equal the CPU's, a loss that is no number ends a run."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from transformers import BertForQuestionAnswering

from qa_lightning import QALightningModule, Reader, SquadDataModule
from qa_lightning.decoding.decoder import LogitsCopy
from qa_lightning.errors import DivergedError, InputError
from qa_lightning.runs import memory
from qa_lightning.training.steps.graphs import StepGraphs
from tests.helpers import commands
from tests.helpers.data import make_rows, mixed_rows, write_json
from tests.helpers.models import small_config, small_tokenizer
from tests.helpers.training import AVERAGED, QUIET, SMALL, add_callbacks, train_flags

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
    pytest.mark.filterwarnings("ignore:GPU available but not used"),
    pytest.mark.filterwarnings("ignore:You are using a CUDA device"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype"),
]

GPU: dict[str, Any] = {**QUIET, "accelerator": "gpu", "devices": 1}


class RefuseWaits(Callback):
    """Turns every wait for the device within training steps into an error."""

    def __init__(self) -> None:
        self.steps = 0

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        torch.cuda.set_sync_debug_mode("error" if batch_idx > 1 else "default")

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        torch.cuda.set_sync_debug_mode("default")
        self.steps += 1


@pytest.mark.parametrize("averaged", [(), AVERAGED])
def test_no_training_step_waits_for_the_device(tmp_path, model_folder, monkeypatch, averaged) -> None:
    data = write_json(tmp_path / "train.json", make_rows(40))
    flags = train_flags(tmp_path, model_folder, data, data)
    refused = RefuseWaits()
    add_callbacks(monkeypatch, refused)
    device = ["--trainer.accelerator", "gpu", "--trainer.precision", "bf16-mixed"]
    more = ["--data.batch_size", "1", "--trainer.log_every_n_steps", "1000", "--trainer.max_epochs", "1"]
    assert commands.train([*flags, *device, *more, *averaged]) == 0
    assert refused.steps == 40


def test_logits_arrive_as_they_were() -> None:
    random = torch.Generator("cuda").manual_seed(0)
    start, end = (torch.randn(5, 40, generator=random, device="cuda") for _ in range(2))
    start[2, 9] = math.nan
    loss = torch.rand(5, generator=random, device="cuda")
    batch = {
        "feature": torch.tensor([7, 2**40, 0, 3, 1]),
        "context_begin": torch.tensor([4, 6, 8, 3, 1]),
        "context_length": torch.tensor([30, 0, 5, 36, 2]),
        "cls": torch.tensor([0, 39, 0, 2, 5]),
    }
    expected = LogitsCopy(batch, start.cpu(), end.cpu(), loss.cpu()).logits()
    for device in ("cpu", "cuda"):
        moved = {name: values.to(device) for name, values in batch.items()}
        found = LogitsCopy(moved, start, end, loss).logits()
        for name in expected.__dataclass_fields__:
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_a_loss_that_is_no_number_is_noticed_within_fifty_steps(tmp_path, model_folder) -> None:
    class Breaks(QALightningModule):
        def training_step(self, batch, batch_idx):
            if batch_idx == 20:
                with torch.no_grad():
                    self.model.qa_outputs.weight.fill_(math.nan)
            return super().training_step(batch, batch_idx)

    rows = write_json(tmp_path / "train.json", make_rows(120))
    data = SquadDataModule(rows, rows, model_folder, **{**SMALL, "batch_size": 1})
    trainer = Trainer(max_epochs=1, num_sanity_val_steps=0, **GPU)
    with pytest.raises(DivergedError, match=r"nan at step 20 \(questions 'q\d+'\)"):
        trainer.fit(Breaks(model_folder), data)
    assert 20 <= trainer.global_step <= 50


def test_answers_and_scores_are_those_of_the_cpu(tmp_path, model_folder) -> None:
    rows = mixed_rows(40, unanswerable=6, long=5)
    path = write_json(tmp_path / "rows.json", rows)
    found = {}
    for name, options in (("cpu", {**QUIET, "accelerator": "cpu"}), ("gpu", GPU)):
        module = QALightningModule(model_folder)
        data = SquadDataModule(None, path, model_folder, **SMALL)
        Trainer(**options).validate(module, data, verbose=False)
        assert module.predictions is not None
        found[name] = (module.scores, [answer.text for _, _, answer in module.predictions.rows()])
    assert found["cpu"] == found["gpu"]
    readers = [Reader.from_pretrained(model_folder, device) for device in ("cpu", "cuda")]
    questions, contexts = [row["question"] for row in rows], [row["context"] for row in rows]
    cpu, gpu = ([(one.text, one.start, one.end) for one in reader.answer(questions, contexts)] for reader in readers)
    assert cpu == gpu


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_two_equal_runs_end_alike(tmp_path, model_folder, precision) -> None:
    """Bit for bit, with dropout: kernels that add in no fixed order would show here, and make resuming inexact."""
    rows = write_json(tmp_path / "train.json", make_rows(40))

    def trained() -> dict[str, torch.Tensor]:
        torch.manual_seed(3)
        module = QALightningModule(model_folder, learning_rate=1e-3)
        data = SquadDataModule(rows, rows, model_folder, **SMALL)
        Trainer(max_epochs=3, num_sanity_val_steps=0, precision=precision, **GPU).fit(module, data)
        return {name: values.cpu() for name, values in module.state_dict().items()}

    first, second = trained(), trained()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_padding_of_a_batch_changes_nothing(model_folder) -> None:
    """Batches without any padding take another way through transformers: there, no mask is needed."""
    model = BertForQuestionAnswering.from_pretrained(model_folder)
    reader = Reader.from_pretrained(model_folder, "cuda")
    ids = torch.randint(5, 60, (3, 24))
    alone = model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).start_logits
    onto = {"input_ids": ids.cuda(), "attention_mask": torch.ones_like(ids).cuda()}
    there = reader.model(**onto).start_logits.cpu()
    torch.testing.assert_close(there, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("accumulate", "part", "taught"),
    [
        (1, {}, False),
        (2, {}, False),
        (1, {"lora_rank": 4, "lora_dropout": 0.1}, False),
        (2, {"freeze_layers": 1}, False),
        (1, {}, True),
    ],
)
def test_graphs_compute_what_is_computed_without_them(
    tmp_path, model_folder, monkeypatch, accumulate, part, taught
) -> None:
    """Weights after three epochs, to the last bit; batches of many lengths, a partial one at the end of an epoch."""
    if "lora_rank" in part:
        pytest.importorskip("peft", reason="peft is not installed")
    teacher = model_folder if taught else None
    rows = write_json(tmp_path / "train.json", mixed_rows(43, long=9))
    trained, recorded = {}, []
    record = StepGraphs._record
    monkeypatch.setattr(StepGraphs, "_record", lambda *given: recorded.append(given) or record(*given))
    for graphs in (False, True):
        torch.manual_seed(3)
        module = QALightningModule(model_folder, learning_rate=1e-3, cuda_graphs=graphs, teacher=teacher, **part)
        data = SquadDataModule(rows, rows, model_folder, **SMALL, pad_to_multiple_of=16)
        options = {"precision": "bf16-mixed", "accumulate_grad_batches": accumulate, "gradient_clip_val": 1.0}
        Trainer(max_epochs=4, num_sanity_val_steps=0, **options, **GPU).fit(module, data)
        trained[graphs] = {name: values.cpu() for name, values in module.state_dict().items()}
    assert len(recorded) >= 2
    assert all(torch.equal(trained[False][name], trained[True][name]) for name in trained[True])


def test_what_graphs_cannot_hold_is_refused(tmp_path, model_folder) -> None:
    rows = write_json(tmp_path / "train.json", make_rows(9))
    data = SquadDataModule(rows, rows, model_folder, **SMALL)
    with pytest.raises(InputError, match="cannot scale losses"):
        Trainer(max_epochs=1, precision="16-mixed", **GPU).fit(QALightningModule(model_folder, cuda_graphs=True), data)


def test_auto_fills_the_memory_that_there_is(tmp_path) -> None:
    """Twice as many windows would not fit; the rest is accumulated, and the result is that of the sizes found."""
    tokenizer = small_tokenizer()
    tokenizer.save_pretrained(tmp_path / "model")
    changes = {"hidden_size": 512, "num_hidden_layers": 4, "num_attention_heads": 8, "intermediate_size": 2048}
    BertForQuestionAnswering(small_config(len(tokenizer), **changes)).save_pretrained(tmp_path / "model")
    rows = write_json(tmp_path / "train.json", make_rows(300))
    total = torch.cuda.get_device_properties(0).total_memory
    left = 2**30 + total // memory._GPU_RESERVE

    def trained(accumulated: int = 1, **batches):
        torch.manual_seed(3)
        module = QALightningModule(str(tmp_path / "model"), learning_rate=1e-3)
        data = SquadDataModule(rows, rows, str(tmp_path / "model"), **{**SMALL, **batches})
        trainer = Trainer(max_epochs=1, num_sanity_val_steps=0, accumulate_grad_batches=accumulated, **GPU)
        trainer.fit(module, data)
        return {name: values.cpu() for name, values in module.state_dict().items()}, data

    torch.cuda.set_per_process_memory_fraction(left / total)
    try:
        found, data = trained(batch_size="auto", windows_per_step=256)
        assert torch.cuda.max_memory_allocated() < 2**30
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert 1 < data.batch_size < 256
    assert data.batch_size * data.accumulated == 256
    torch.cuda.reset_peak_memory_stats()
    expected, _ = trained(batch_size=data.batch_size, accumulated=data.accumulated)
    assert all(torch.equal(expected[name], found[name]) for name in found)
    torch.cuda.reset_peak_memory_stats()
    trained(batch_size=256)
    assert torch.cuda.max_memory_allocated() > 2**30
