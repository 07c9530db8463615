"""Settings for asking a saved model, kept in its ``config.json``: window and answer lengths, threshold, temperature."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from qa_lightning.decoding.spans import Scaling
from qa_lightning.features.windows import WindowSettings
from qa_lightning.models.loading import max_positions

CONFIG_KEY = "qa_lightning"  # where a saved model's config.json keeps `AnswerSettings`


@dataclass(frozen=True)
class AnswerSettings:
    """Settings for asking a model; they are saved with it, so that it answers as it was trained.

    Args:
        max_length, doc_stride, max_question_length: see `windows.WindowSettings`.
        max_answer_length: the longest answer, in tokens.
        version_2: whether "no answer" is a possible answer.
        null_score_diff_threshold: the answer is "no answer" if the null score exceeds the best span's by more than
            this.
        temperature: divides the scores before they become probabilities.
        fitted_to: fingerprint of the questions that threshold and temperature were fitted to, as in ``run.json``.
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
        """The settings saved with a model; without any, the defaults, reduced to the positions that it has."""
        saved = getattr(model.config, CONFIG_KEY, None)
        if saved:
            return cls(**saved)
        limit = min(max_positions(model) or cls.max_length, cls.max_length)
        return cls(max_length=limit, doc_stride=min(cls.doc_stride, limit // 3))

    def fitted(self, found: Fitted) -> AnswerSettings:
        """These settings with threshold and temperature of a threshold file."""
        return replace(
            self,
            version_2=self.version_2 or found.version_2,
            null_score_diff_threshold=found.scaling.threshold,
            temperature=found.scaling.temperature,
            fitted_to=found.fingerprint,
        )

    @property
    def windows(self) -> WindowSettings:
        """The settings for cutting contexts into windows."""
        return WindowSettings(self.max_length, self.doc_stride, self.max_question_length)

    @property
    def scaling(self) -> Scaling:
        """The settings for turning scores into probabilities."""
        return Scaling(self.temperature, self.null_score_diff_threshold)


class Fitted(NamedTuple):
    """The contents of a threshold file.

    Attributes:
        scaling: threshold and temperature.
        version_2: whether some of the questions of the fit have no answer.
        fingerprint: fingerprint of these questions.
    """

    scaling: Scaling
    version_2: bool
    fingerprint: str

    def as_json(self) -> dict[str, Any]:
        """The values that answers depend on, under the names of `AnswerSettings`."""
        return {
            "version_2": self.version_2,
            "null_score_diff_threshold": self.scaling.threshold,
            "temperature": self.scaling.temperature,
        }
