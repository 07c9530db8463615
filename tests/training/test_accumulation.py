"""Accumulated batches train as one large batch, whatever their sizes."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch import Trainer

from qa_lightning import QALightningModule, SquadDataModule
from tests.helpers.data import mixed_rows, write_json
from tests.helpers.training import Gradients


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("data")
    return {
        "train": write_json(folder / "train.json", mixed_rows(90, unanswerable=9, long=3)),
        "validation": write_json(folder / "validation.json", mixed_rows(50, long=2)),
    }


def gradients_of(data: dict[str, str], model: str, accumulated: int, tmp_path, **batches) -> torch.Tensor:
    """[steps, weights] gradients of an epoch without dropout, in which the weights hardly move."""
    torch.manual_seed(0)
    sizes = {"max_length": 48, "doc_stride": 12, "max_question_length": 12}
    datamodule = SquadDataModule(data["train"], data["validation"], model, **sizes, **batches)
    module = QALightningModule(model, learning_rate=1e-12)
    for layer in module.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0
    gradients = Gradients()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        callbacks=gradients,
        accumulate_grad_batches=accumulated,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, datamodule)
    return torch.stack(gradients.seen)


@pytest.mark.parametrize("batching", ["length", "random"])
def test_accumulated_batches_train_as_one_large_batch(tmp_path, model_folder, data, batching) -> None:
    """108 windows: the last step has fewer than 10, in batches of unequal size."""
    large = gradients_of(data, model_folder, 1, tmp_path, batch_size=10, batching=batching)
    assert len(large) == 11
    for batch_size, accumulated in ((5, 2), (2, 5), (1, 10)):
        small = gradients_of(data, model_folder, accumulated, tmp_path, batch_size=batch_size, batching=batching)
        torch.testing.assert_close(small, large, rtol=1e-4, atol=1e-6)


def test_accumulated_batches_by_tokens_train_as_one_large_batch(tmp_path, model_folder, data) -> None:
    """108 windows of at most 48 tokens: three or four steps, the last one smaller."""
    large = gradients_of(data, model_folder, 1, tmp_path, tokens_per_batch=32 * 48)
    assert 3 <= len(large) <= 4
    small = gradients_of(data, model_folder, 4, tmp_path, tokens_per_batch=8 * 48)
    torch.testing.assert_close(small, large, rtol=1e-4, atol=1e-6)
