"""Asking a trained model: questions and contexts in, answers out, by the windows and decoding of validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from qa_lightning.data.answers import has_surrogates
from qa_lightning.decoding.decoder import Decoder
from qa_lightning.decoding.logits import FeatureLogits
from qa_lightning.decoding.predictions import Answer, Predictions
from qa_lightning.decoding.spans import Scaling
from qa_lightning.errors import InputError
from qa_lightning.features.batching import PaddingCollator, window_batches
from qa_lightning.features.store import FeatureStore
from qa_lightning.features.windows import Windower, WindowSettings
from qa_lightning.models.answering import load_answering_model
from qa_lightning.models.loading import max_positions
from qa_lightning.models.loss import model_logits, span_loss
from qa_lightning.models.threshold_file import Fitted, read_threshold_file

CONFIG_KEY = "qa_lightning"  # where a saved model's config.json keeps `AnswerSettings`


@dataclass(frozen=True)
class AnswerSettings:
    """How a model is asked; saved with it, so that it is asked as it was trained.

    Args:
        max_length, doc_stride, max_question_length: see `windows.WindowSettings`.
        max_answer_length: the longest answer, in tokens.
        version_2: whether the model may say that there is no answer.
        null_score_diff_threshold: how much the null score must exceed the best span's for that.
        temperature: divides the scores before they become probabilities.
        fitted_to: fingerprint of the questions that the last two were fitted to, as ``run.json`` has it.
    """

    max_length: int = 384
    doc_stride: int = 128
    max_question_length: int = 64
    max_answer_length: int = 30
    version_2: bool = False
    null_score_diff_threshold: float = 0.0
    temperature: float = 1.0
    fitted_to: str = ""

    @classmethod
    def of_model(cls, model: Any) -> AnswerSettings:
        """What a model was saved with; for any other model the usual values, as far as its positions reach."""
        saved = getattr(model.config, CONFIG_KEY, None)
        if saved:
            return cls(**saved)
        limit = min(max_positions(model) or cls.max_length, cls.max_length)
        return cls(max_length=limit, doc_stride=min(cls.doc_stride, limit // 3))

    def fitted(self, found: Fitted) -> AnswerSettings:
        """The same with what a threshold file says."""
        return replace(
            self,
            version_2=self.version_2 or found.version_2,
            null_score_diff_threshold=found.scaling.threshold,
            temperature=found.scaling.temperature,
            fitted_to=found.fingerprint,
        )

    @property
    def windows(self) -> WindowSettings:
        """The part that cutting windows needs."""
        return WindowSettings(self.max_length, self.doc_stride, self.max_question_length)

    @property
    def scaling(self) -> Scaling:
        """The part that probabilities need."""
        return Scaling(self.temperature, self.null_score_diff_threshold)


class Rows:
    """Rows in memory that can be read by columns, as a ``datasets.Dataset`` is."""

    def __init__(self, rows: Sequence[dict[str, Any]]) -> None:
        self.rows = rows

    def __getitem__(self, index: list[int]) -> dict[str, list[Any]]:
        return {name: [self.rows[row][name] for row in index] for name in self.rows[0]}


class Reader:
    """A trained model that answers questions about texts.

    Args:
        model: a question answering model.
        tokenizer: its fast tokenizer.
        settings: None takes those that the model was saved with.
    """

    def __init__(self, model: Any, tokenizer: Any, settings: AnswerSettings | None = None) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.settings = settings or AnswerSettings.of_model(model)
        self._windower = Windower(tokenizer, self.settings.windows)

    @classmethod
    def load(
        cls,
        name: str,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        threshold_file: Path | None = None,
    ) -> Reader:
        """Load the model of a folder, or of a name on the Hub.

        Args:
            name: of the model.
            device: where it computes; None takes the first GPU, or else the CPU.
            dtype: what it computes in; None keeps float32.
            threshold_file: of ``scripts/evaluate.py --output-dir``: threshold and temperature for this very model.

        Raises:
            InputError: it is not to be had, has no question answering head, or its tokenizer does not fit; or the
                file is none, or for another model.
        """
        found = read_threshold_file(threshold_file, name) if threshold_file else None
        model, tokenizer = load_answering_model(name, dtype)
        settings = AnswerSettings.of_model(model)
        model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        return cls(model, tokenizer, settings.fitted(found) if found else settings)

    def answer(self, questions: Sequence[str], contexts: Sequence[str], batch_size: int = 32) -> list[Answer]:
        """Answer each question from its own context.

        Raises:
            InputError: an empty question or context, one that is no valid Unicode, or a model whose logits are not
                numbers.
        """
        rows = [
            {"id": str(number), "question": question, "context": context}
            for number, (question, context) in enumerate(zip(questions, contexts, strict=True))
        ]
        problems = [
            f"{name} {row['id'] if len(rows) > 1 else ''}".strip() + f" {problem}"
            for row in rows
            for name in ("question", "context")
            if (problem := _text_problem(row[name]))
        ]
        if problems:
            raise InputError(problems)
        if not rows:
            return []
        store = FeatureStore.of_batch(self._windower(questions, contexts, [None] * len(rows)))
        decoder = Decoder(store, 1, self.settings.max_answer_length, self.settings.scaling)
        with torch.inference_mode():
            for batch in window_batches(store, PaddingCollator(self.tokenizer), batch_size):
                placed = {name: tensor.to(self.model.device) for name, tensor in batch.items()}
                start, end = model_logits(self.model, placed)
                decoder.add(FeatureLogits.of_batch(placed, start, end, span_loss(start, end, placed)))
        decoded = decoder.join([decoder.take()])
        if len(decoded.broken):
            numbers = ", ".join(map(str, sorted({*store.example[decoded.broken].tolist()})))
            raise InputError(f"the model's logits are not numbers (questions {numbers}): its weights are broken")
        own = self.settings
        predictions = Predictions(
            Rows(rows), decoded.index, decoded.spans, own.version_2, own.null_score_diff_threshold
        )
        return [answer for _, _, answer in predictions.rows()]


def _text_problem(text: str) -> str | None:
    if not text.strip():
        return "is empty"
    return "holds half of a surrogate pair; pass it as valid UTF-8" if has_surrogates(text) else None
