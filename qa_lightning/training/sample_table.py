"""Writes a table of sample predictions to TensorBoard."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from qa_lightning.decoding.predictions import Answer, Predictions
from qa_lightning.runs.curves import CurveLogger, last_step


class SamplePredictions(Callback):
    """Writes a table of some validation questions, gold answers, predictions and scores to TensorBoard.

    Args:
        count: number of questions, spread evenly over the validation set: the same ones in every epoch.
    """

    def __init__(self, count: int = 20) -> None:
        self.count = count

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the table, on the first process."""
        predictions: Predictions | None = pl_module.predictions  # type: ignore[assignment]
        if not trainer.is_global_zero or trainer.sanity_checking or not predictions:
            return
        every = max(1, len(predictions) // self.count)
        numbers = range(0, len(predictions), every)[: self.count]
        table = sample_table([(example, answer) for _, example, answer in predictions.rows(numbers)])
        for logger in trainer.loggers:
            if isinstance(logger, CurveLogger):
                logger.log_text("val/samples", table, last_step(trainer))
            elif isinstance(logger, TensorBoardLogger):
                logger.experiment.add_text("val/samples", table, last_step(trainer))


def sample_table(rows: list[tuple[dict[str, Any], Answer]]) -> str:
    """A Markdown table; text from the data cannot break out of its cell (TensorBoard itself escapes HTML)."""
    lines = ["| question | gold answers | prediction | score |", "|---|---|---|---|"]
    for example, answer in rows:
        gold = "; ".join(dict.fromkeys(example["answers"]["text"])) or "(no answer)"
        cells = (example["question"], gold, answer.text or "(no answer)", f"{answer.score:.3f}")
        lines.append("| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)
