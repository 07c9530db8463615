"""A callback for `bench_startup.py`."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback


class FirstStep(Callback):
    """Says when the first training step is done."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Print a line, once."""
        if batch_idx == 0:
            print("first step", flush=True)
