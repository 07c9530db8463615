"""The probability that an answer is right, from what decoding knows of it besides its own probability.

A model's probability of an answer says how it compares with other spans. Whether the answer is right depends on more:
how far behind the next span is, how long the answer is, how near "no answer" came, and which of the two leads. A
`Calibrator` is a logistic regression on these; `metrics.calibrating` fits one to validation data.

Of one question only the best answer gets a probability from it. The other answers keep their order and their ratios to
each other; see `rescaled`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qa_lightning.arrays import Float64s
from qa_lightning.errors import is_finite

FEATURES = ("log_odds", "margin", "log_length", "null_odds", "leads")
_BIAS, _THRESHOLD = "bias", "threshold"
_KINDS = ("span", "no_answer")
_FAR = 7.0  # log odds of 0.1% and 99.9%: beyond, sums that are interpolated between temperatures are too rough
_FAR_SCORES = 12.0  # logits; a margin that is infinite, as there is no second span, is taken as this


def features(
    probability: ArrayLike, margin: ArrayLike, characters: ArrayLike, null_odds: ArrayLike, leads: ArrayLike
) -> NDArray[np.float64]:
    """[N, F] the `FEATURES` of N answers, or [F] of one.

    Args:
        probability: of the answer, 0-1.
        margin: score of the answer's span minus that of the best other span, in logits; may be infinite. For "no
            answer", of the best span.
        characters: length of the span; for "no answer", of the best span.
        null_odds: null score minus the span's score, in logits; may be infinite.
        leads: see `Calibrator.leads`.
    """
    sure = np.clip(np.asarray(probability, np.float64), 1e-300, 1.0)
    with np.errstate(divide="ignore"):
        log_odds = np.log(sure) - np.log1p(-sure)
    columns = (
        np.clip(log_odds, -_FAR, _FAR),
        np.clip(margin, -_FAR_SCORES, _FAR_SCORES),
        np.log(np.maximum(characters, 1)),
        np.clip(null_odds, -_FAR_SCORES, _FAR_SCORES),
        leads,
    )
    return np.stack(np.broadcast_arrays(*columns), axis=-1).astype(np.float64)


@dataclass(frozen=True)
class Calibrator:
    """P(right) = 1 / (1 + exp(-(bias + weights . features))), with other weights for "no answer" than for spans.

    Args:
        span, no_answer: the bias, then the weights of `FEATURES`; None keeps the raw probabilities of this kind.
        threshold: the null odds above which "no answer" leads, as in the fit.
    """

    span: tuple[float, ...] | None
    no_answer: tuple[float, ...] | None = None
    threshold: float = 0.0

    def of(self, found: Float64s, probability: Float64s, is_null: NDArray[np.bool_]) -> Float64s:
        """[N] probability that each answer is right.

        Args:
            found: [N, F] from `features`.
            probability: [N] raw probabilities, for a kind without weights.
            is_null: [N] whether the answer is "no answer".
        """
        result = np.array(probability, np.float64)
        for weights, rows in ((self.span, ~is_null), (self.no_answer, is_null)):
            if weights is not None:
                result[rows] = sigmoid(weights[0] + found[rows] @ np.array(weights[1:]))
        return result

    def leads(self, null_odds: ArrayLike, is_null: ArrayLike) -> Float64s:
        """[N] 1 for an answer whose kind wins: "no answer" above the threshold, a span up to it, or without a rival.

        Args:
            null_odds: [N] see `features`.
            is_null: [N] whether the answer is "no answer".
        """
        null_wins = np.asarray(null_odds) > self.threshold
        if self.no_answer is None:
            return np.ones(null_wins.shape)
        return np.where(null_wins == np.asarray(is_null), 1.0, 0.0)

    def as_json(self) -> dict[str, dict[str, float]]:
        """Kind of answer -> name -> weight, for a model's ``config.json``; "no answer" also has the threshold."""
        names = (_BIAS, *FEATURES)
        given = zip(_KINDS, (self.span, self.no_answer), strict=True)
        found = {kind: dict(zip(names, weights, strict=True)) for kind, weights in given if weights is not None}
        if self.no_answer is not None:
            found[_KINDS[1]][_THRESHOLD] = self.threshold
        return found

    @classmethod
    def of_json(cls, saved: Mapping[str, Mapping[str, float]]) -> Calibrator | None:
        """The calibrator of `as_json`; None if it is empty. Those of older versions have no weight of ``leads``."""
        if not saved:
            return None
        spans, nulls = (
            (float(one[_BIAS]), *(float(one.get(name, 0.0)) for name in FEATURES)) if one else None
            for one in map(saved.get, _KINDS)
        )
        return cls(spans, nulls, float(saved.get(_KINDS[1], {}).get(_THRESHOLD, 0.0)))


@dataclass(frozen=True)
class BestSpan:
    """What a calibrator reads of the best span of one question, besides probabilities; see `features`."""

    margin: float
    characters: int
    null_odds: float

    def right(self, probability: float, is_null: bool, calibrator: Calibrator | None) -> float:
        """The probability that the answer, this span or "no answer", is right; ``probability`` without a calibrator."""
        if calibrator is None:
            return probability
        leads = calibrator.leads(self.null_odds, is_null)
        found = features(probability, self.margin, self.characters, self.null_odds, leads)
        return float(calibrator.of(found[None], np.array([probability]), np.array([is_null]))[0])


def is_calibrator(saved: Any) -> bool:
    """Whether a mapping is one that `Calibrator.as_json` gave, or empty."""
    names, newer = {_BIAS, *FEATURES}, {FEATURES[-1], _THRESHOLD}  # what calibrators of older versions lack
    return all(
        kind in _KINDS
        and isinstance(weights, Mapping)
        and names - newer <= set(weights) <= names | newer
        and all(isinstance(one, int | float) and is_finite(one) for one in weights.values())
        for kind, weights in saved.items()
    )


def sigmoid(values: Float64s) -> Float64s:
    """1 / (1 + exp(-x)) without overflow."""
    return np.asarray(np.exp(-np.logaddexp(0.0, -values)))


def rescaled(probabilities: Sequence[float] | Float64s, best: int, right: float) -> Float64s:
    """[n] probabilities of a question's answers, if that of the best one becomes ``right``.

    The others are multiplied by one factor, the smaller of two: ``right / p``, which keeps them below the best answer
    where that loses; ``(1 - right) / (1 - p)``, which keeps the sum at 1 or below where it gains. Here, p is the raw
    probability of the best answer. So the order of the answers stays, and their ratios but for the best one. Where the
    best answer loses, so do all others: the sum is then below 1, and what it lacks is the probability of an answer that
    is not listed, or that none is right.

    If another answer is more probable, as can be under another threshold than that of the decoding, all stay raw.

    Args:
        probabilities: [n] raw, 0-1, with a sum of at most 1.
        best: index of the best answer.
        right: the probability that it is right, 0-1.
    """
    raw = np.asarray(probabilities, np.float64)
    own = raw[best]
    if own < raw.max():
        return raw.copy()
    if right <= own:
        found = raw / own * right if own > 0 else raw.copy()  # the ratio first: rounding then keeps the order
    else:
        found = np.minimum(raw * ((1.0 - right) / (1.0 - own)), right)
    found[best] = right
    return found
