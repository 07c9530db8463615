"""Run a scenario on several processes, for `test_processes.py`; every process writes a record of what it saw.

python several_processes.py '{"scenario": "validate", "devices": 2, ...}'
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import torch
from lightning.pytorch import Callback, Trainer, seed_everything

from qa_lightning import QALightningModule, SquadDataModule

SIZES = {"max_length": 48, "doc_stride": 12, "max_question_length": 12}


class Record(Callback):
    """Writes, on each process, logged values, predictions, losses and the indices of the scored examples."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.losses: list[float] = []
        self.validations = 0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.losses.append(float(trainer.strategy.reduce(outputs["loss"].detach(), reduce_op="mean")))

    def on_validation_end(self, trainer, pl_module) -> None:
        if trainer.sanity_checking:
            return
        self.validations += 1
        predictions = [vars(answer) for _, _, answer in pl_module.predictions.rows()]
        judged = [] if pl_module.outcomes is None else pl_module.outcomes.index.tolist()
        scores = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.write(trainer, scores, predictions, judged)

    def on_fit_end(self, trainer, pl_module) -> None:
        if trainer.is_global_zero:
            torch.save(pl_module.model.state_dict(), self.folder / "weights.pt")

    def write(self, trainer, scores, predictions, judged) -> None:
        seen = {"scores": scores, "predictions": predictions, "losses": self.losses, "judged": judged}
        if trainer.datamodule.finds_batch_size:
            seen |= {"batch_size": trainer.datamodule.batch_size, "accumulated": trainer.datamodule.accumulated}
        path = self.folder / f"validation-{self.validations}-rank-{trainer.global_rank}.json"
        path.write_text(json.dumps(seen))


def main(options: dict) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    seed_everything(7, verbose=False)
    devices, rooms = options["devices"], options.get("rooms")
    data = SquadDataModule(
        options["train"],
        options["validation"],
        options["model"],
        **SIZES,
        batch_size="auto" if rooms else options["batch_size"] // devices,
        windows_per_step=options["batch_size"] if rooms else None,
        eval_batch_size=4,
        cache_dir=options["cache"],
    )
    module = Cramped(options["model"], learning_rate=1e-3)
    module.rooms = rooms
    for layer in module.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0
    trainer = Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="ddp_fork" if devices > 1 else "auto",
        max_epochs=2,
        limit_val_batches=options["limit_val_batches"],
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Record(Path(options["folder"])), *([Poison()] if options["scenario"] == "diverge" else [])],
    )
    if options["scenario"] == "validate":
        trainer.validate(module, data, verbose=False)
    else:
        trainer.fit(module, data)


class Cramped(QALightningModule):
    """Runs out of memory beyond so many windows, others on each process."""

    rooms: list[int] | None = None

    def forward(self, batch):
        if self.rooms and torch.is_grad_enabled() and len(batch["input_ids"]) > self.rooms[self.global_rank]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward(batch)


class Poison(Callback):
    """Makes the loss of the third batch NaN, on the last process only."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if batch_idx == 2 and trainer.global_rank == trainer.world_size - 1:
            pl_module.model.qa_outputs.register_forward_hook(lambda module, inputs, output: output * torch.nan)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
