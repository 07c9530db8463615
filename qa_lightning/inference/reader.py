"""Answer questions from their contexts with the windows and the decoding of validation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from qa_lightning.decoding.predictions import Answer
from qa_lightning.documents.answers import DocumentAnswer
from qa_lightning.documents.sources import OnBad, text_problem
from qa_lightning.errors import InputError
from qa_lightning.features.batching import Batch, PaddingCollator
from qa_lightning.features.defaults import EVAL_BATCH_SIZE
from qa_lightning.features.windows import Windower
from qa_lightning.inference.asking import CANDIDATES, TOP_K, AskedModel, AskSettings
from qa_lightning.inference.engine import BestAnswers, answer_all
from qa_lightning.models.loading import load_answering_model, model_summary
from qa_lightning.models.loss import model_logits
from qa_lightning.models.settings import AnswerSettings
from qa_lightning.models.threshold_file import read_threshold_file


class Reader:
    """A trained model that answers questions from their contexts; `answer` returns one answer per question.

    Args:
        model: a question answering model.
        tokenizer: its fast tokenizer.
        settings: None takes those that the model was saved with.
    """

    def __init__(self, model: Any, tokenizer: Any, settings: AnswerSettings | None = None) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.settings = settings or AnswerSettings.of_model(model, tokenizer)
        self._windower = Windower(tokenizer, self.settings.windows)

    @classmethod
    def load(
        cls,
        name: str,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        threshold_file: Path | None = None,
    ) -> Reader:
        """Load a model and its tokenizer.

        Args:
            name: a folder, or a name on the Hub.
            device: None takes the first GPU, or the CPU if there is none.
            dtype: of weights and computation; None means float32.
            threshold_file: written by ``qa-lightning evaluate --output_dir`` for this model: its threshold and
                temperature.

        Raises:
            InputError: the model cannot be loaded, has no question answering head or a tokenizer that does not fit;
                or ``threshold_file`` cannot be read or belongs to another model.
        """
        model, tokenizer = load_answering_model(name, dtype)
        found = read_threshold_file(threshold_file, name) if threshold_file else None
        settings = AnswerSettings.of_model(model, tokenizer)
        model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        return cls(model, tokenizer, settings.fitted(found) if found else settings)

    def __repr__(self) -> str:
        """The model and its answer settings; runs no computation."""
        settings, scaling = self.settings, self.settings.scaling
        return (
            f"Reader({model_summary(self.model)};\n"
            f"  max_length={settings.max_length}, doc_stride={settings.doc_stride}, "
            f"max_answer_length={settings.max_answer_length}, version_2={settings.version_2}, "
            f"null_score_diff_threshold={scaling.threshold:g}, temperature={scaling.temperature:g})"
        )

    def answer(
        self,
        questions: Sequence[str],
        contexts: Sequence[str],
        batch_size: int = EVAL_BATCH_SIZE,
        what: str | None = None,
    ) -> list[Answer]:
        """Answer each question from its own context, in order.

        Args:
            questions, contexts: of the same length.
            batch_size: windows per forward pass.
            what: what this is called where progress is told; None tells none.

        Raises:
            InputError: a question or context is empty or invalid Unicode, or the model's logits are not numbers.
        """
        pairs = zip(questions, contexts, strict=True)
        items = [{"question": question, "context": context} for question, context in pairs]
        problems = [
            f"{name} {number if len(items) > 1 else ''}".strip() + f" {problem}"
            for number, item in enumerate(items)
            for name, text in item.items()
            if (problem := text_problem(text))
        ]
        if problems:
            raise InputError(problems)
        if not items:
            return []
        policy = BestAnswers(self._windower, self.settings, items)
        return answer_all(policy, self._forward, PaddingCollator(self.tokenizer), batch_size, what)

    def ask(
        self,
        question: str,
        documents: Any,
        *,
        top_k: int = TOP_K,
        candidates: int = CANDIDATES,
        overlap: bool | float = False,
        min_score: float | None = None,
        precision: float | None = None,
        batch_size: int = EVAL_BATCH_SIZE,
        on_bad: OnBad = "error",
    ) -> list[DocumentAnswer]:
        """Answer a question from several documents, with one ranking of all answers.

        Args:
            question: to answer.
            documents: one or several texts, dicts of ``text``, ``id`` and ``meta``, and ``Path`` objects of files,
                folders and patterns; see `sources.read_documents`. Or a `Collection`, which is read and cut only once.
            top_k, candidates, overlap, min_score, precision, batch_size, on_bad: see `asking.AskSettings`.

        Returns:
            At most ``top_k`` answers, best first. Their scores are probabilities over all spans of all that was read
            and "no answer", which is one of the answers if the model knows it. Empty if no answer reaches
            ``min_score``.

        Raises:
            InputError: the question is empty, documents cannot be read, a setting is out of range, the model has no
                scores for ``precision``, or its logits are not numbers.
        """
        settings = AskSettings(top_k, candidates, overlap, min_score, precision, batch_size, on_bad)
        return self.asked.ask(question, documents, settings)

    @property
    def asked(self) -> AskedModel:
        """The model as documents need it."""
        collate = PaddingCollator(self.tokenizer)
        return AskedModel(self._windower, self.settings, self._forward, collate, EVAL_BATCH_SIZE)

    @torch.inference_mode()
    def _forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        start, end = model_logits(self.model, {name: tensor.to(self.model.device) for name, tensor in batch.items()})
        return start.cpu(), end.cpu()
