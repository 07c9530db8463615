"""A callback for `bench_startup.py`, which adds it to a run of ``train.py``."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback


class FirstStep(Callback):
    """Prints ``first step`` when the first training step is done."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Print the line after the first step of an epoch."""
        if batch_idx == 0:
            print("first step", flush=True)
