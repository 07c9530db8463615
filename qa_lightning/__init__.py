"""Fine-tune, evaluate and use extractive question answering models with PyTorch Lightning."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qa_lightning.decoding.spans import Spans, WindowLogits, decode_spans
    from qa_lightning.documents.collection import Collection
    from qa_lightning.documents.showing import show
    from qa_lightning.evaluation.report import report_on
    from qa_lightning.inference.bulk.rows import AnswerRows
    from qa_lightning.inference.pipeline import QuestionAnsweringPipeline, pipeline
    from qa_lightning.inference.reader import Reader
    from qa_lightning.inference.restore import register_pipeline
    from qa_lightning.metrics.squad import SquadMetric
    from qa_lightning.training.datamodule import SquadDataModule
    from qa_lightning.training.module import QALightningModule

    __version__: str

__all__ = [
    "AnswerRows",
    "Collection",
    "QALightningModule",
    "QuestionAnsweringPipeline",
    "Reader",
    "Spans",
    "SquadDataModule",
    "SquadMetric",
    "WindowLogits",
    "__version__",
    "decode_spans",
    "pipeline",
    "register_pipeline",
    "report_on",
    "show",
]

_MODULES = {
    "AnswerRows": "inference.bulk.rows",
    "Collection": "documents.collection",
    "QALightningModule": "training.module",
    "QuestionAnsweringPipeline": "inference.pipeline",
    "Reader": "inference.reader",
    "Spans": "decoding.spans",
    "SquadDataModule": "training.datamodule",
    "SquadMetric": "metrics.squad",
    "WindowLogits": "decoding.spans",
    "decode_spans": "decoding.spans",
    "pipeline": "inference.pipeline",
    "register_pipeline": "inference.restore",
    "report_on": "evaluation.report",
    "show": "documents.showing",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that ``--help`` and simple errors do not wait for torch."""
    if name == "__version__":
        from qa_lightning.wording import package_version

        return package_version()
    if name not in _MODULES:
        raise AttributeError(f"module 'qa_lightning' has no attribute {name!r}")
    return getattr(import_module(f"qa_lightning.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    """The public names, imported or not yet, without the names that this file imports for itself."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
