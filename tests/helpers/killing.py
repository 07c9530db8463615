"""A callback that kills its process once: a run with it goes on when it is started again with the same flags."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from lightning.pytorch import Callback


class KillOnce(Callback):
    """Sends SIGKILL to its process after a training batch, in the first run that comes there.

    Args:
        marker: a file that it leaves then.
        epoch, batch: indices of the batch.
        parent: kill the process that started it, too, and first.
    """

    def __init__(self, marker: str, epoch: int, batch: int, parent: bool = False) -> None:
        self.marker, self.at, self.parent = Path(marker), (epoch, batch), parent

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if self.at == (trainer.current_epoch, batch_idx) and not self.marker.exists():
            self.marker.touch()
            if self.parent:
                os.kill(os.getppid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
