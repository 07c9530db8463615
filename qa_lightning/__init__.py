"""Fine-tune, measure and ask extractive question answering models, on PyTorch Lightning."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qa_lightning.datamodule import SquadDataModule
    from qa_lightning.metrics import SquadMetric
    from qa_lightning.module import QALightningModule
    from qa_lightning.pipelines import QuestionAnsweringPipeline, pipeline, register_pipeline
    from qa_lightning.reader import Reader
    from qa_lightning.spans import Spans, WindowLogits, decode_spans

__all__ = [
    "QALightningModule",
    "QuestionAnsweringPipeline",
    "Reader",
    "Spans",
    "SquadDataModule",
    "SquadMetric",
    "WindowLogits",
    "decode_spans",
    "pipeline",
    "register_pipeline",
]

_MODULES = {
    "QALightningModule": "module",
    "QuestionAnsweringPipeline": "pipelines",
    "Reader": "reader",
    "Spans": "spans",
    "SquadDataModule": "datamodule",
    "SquadMetric": "metrics",
    "WindowLogits": "spans",
    "decode_spans": "spans",
    "pipeline": "pipelines",
    "register_pipeline": "pipelines",
}


def __getattr__(name: str) -> Any:
    """Import on first use: ``--help`` and plain errors then come without waiting for torch."""
    if name not in _MODULES:
        raise AttributeError(f"module 'qa_lightning' has no attribute {name!r}")
    return getattr(import_module(f"qa_lightning.{_MODULES[name]}"), name)
