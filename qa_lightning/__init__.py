"""Fine-tune, measure and ask extractive question answering models, on PyTorch Lightning."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qa_lightning.datamodule import SquadDataModule
    from qa_lightning.metrics import SquadMetric
    from qa_lightning.module import QALightningModule
    from qa_lightning.reader import Reader
    from qa_lightning.spans import Spans, WindowLogits, decode_spans

__all__ = [
    "QALightningModule",
    "Reader",
    "Spans",
    "SquadDataModule",
    "SquadMetric",
    "WindowLogits",
    "decode_spans",
]

_MODULES = {
    "QALightningModule": "module",
    "Reader": "reader",
    "Spans": "spans",
    "SquadDataModule": "datamodule",
    "SquadMetric": "metrics",
    "WindowLogits": "spans",
    "decode_spans": "spans",
}


def __getattr__(name: str) -> Any:
    """Import on first use: ``--help`` and plain errors then come without waiting for torch."""
    if name not in _MODULES:
        raise AttributeError(f"module 'qa_lightning' has no attribute {name!r}")
    return getattr(import_module(f"qa_lightning.{_MODULES[name]}"), name)
