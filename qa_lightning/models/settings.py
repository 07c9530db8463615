"""How a saved model is asked: window and answer lengths, threshold and temperature, kept in its ``config.json``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from qa_lightning.decoding.spans import Scaling
from qa_lightning.features.windows import WindowSettings
from qa_lightning.models.loading import max_positions

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


class Fitted(NamedTuple):
    """What a threshold file says.

    Attributes:
        scaling: threshold and temperature.
        version_2: whether it was fitted to questions of which some have no answer.
        fingerprint: of these questions.
    """

    scaling: Scaling
    version_2: bool
    fingerprint: str

    def as_json(self) -> dict[str, Any]:
        """What answers hang on, by the names that the saved model has."""
        return {
            "version_2": self.version_2,
            "null_score_diff_threshold": self.scaling.threshold,
            "temperature": self.scaling.temperature,
        }
