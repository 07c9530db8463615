"""The whole output of the official SQuAD v2.0 scorer, and the ``null_score_diff_threshold`` that a model should have.

Pure NumPy on arrays of N questions: ``exact`` and ``f1`` are the scores, 0-1, of a text against the gold answers;
``null_odds`` (or the official ``no_answer_probability``) is the number above whose threshold there is no answer.

The official scorer (``evaluate-v2.0.py``; Rajpurkar et al., 2018) looks for its best threshold between any two
questions, also between two of the same probability, which no threshold can part: `squad_v2_metrics` does as it does,
and `best_threshold` does not. Both sort once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qa_lightning.arrays import Float64s
from qa_lightning.metrics.calibration import checked_columns, precision_recall

_UNIT = 2**38  # scores are summed as integers, so that sums are the same in any order; for 2^25 questions


@dataclass(frozen=True)
class Threshold:
    """A threshold and the scores that it gives.

    Attributes:
        threshold: the ``null_odds`` above which a question is left without an answer.
        exact, f1: over all questions, 0-100; 0 for no questions.
    """

    threshold: float
    exact: float
    f1: float


@dataclass(frozen=True)
class Half:
    """What a threshold does to one half of the questions.

    Attributes:
        questions: how many.
        at_zero: scores under the threshold 0.
        at_tuned: scores under the tuned threshold.
    """

    questions: int
    at_zero: Threshold
    at_tuned: Threshold


@dataclass(frozen=True)
class Tuned:
    """A threshold, and what it is worth on questions that it was not chosen by.

    Attributes:
        threshold: the one to use; see `tuned`.
        halves: of each half the threshold that is best there: its scores there, which flatter it, and on the other
            half, which do not; ``(tuned on, held out)``.
        at_zero: all questions under the threshold 0.
        held_out_exact, held_out_f1: over all questions, 0-100, each under the threshold of the half that it is not in:
            what to expect of tuning on new questions.
    """

    threshold: float
    halves: tuple[tuple[Half, Half], tuple[Half, Half]]
    at_zero: Threshold
    held_out_exact: float
    held_out_f1: float


def squad_v2_metrics(
    exact: ArrayLike,
    f1: ArrayLike,
    has_answer: ArrayLike,
    no_answer_probability: ArrayLike,
    threshold: float = 1.0,
    empty: ArrayLike | None = None,
) -> dict[str, float]:
    """Everything that ``evaluate-v2.0.py --na-prob-file`` prints, equal to 1e-9.

    Args:
        exact, f1: [N] scores of each question's given text, 0-1, before any threshold; a text may be empty.
        has_answer: [N] whether the question has one.
        no_answer_probability: [N] in the order of the official file, which decides among equal ones; any numbers.
        threshold: above it the empty text is scored instead of the given one (``--na-prob-thresh``).
        empty: [N] whether the given text is the empty one. Left out, it is taken to be where a question without an
            answer scores; a text such as "the", which scores there though it is not empty, needs to be told.

    Returns:
        By the official names, on 0-100: ``exact, f1, total``, ``HasAns_*`` and ``NoAns_*`` for the kinds of question
        that occur, ``best_exact, best_exact_thresh, best_f1, best_f1_thresh``, and, if any question has an answer,
        the average precisions ``pr_exact_ap, pr_f1_ap, pr_oracle_ap``.

    Raises:
        ValueError: arrays that differ in length, NaN, or scores outside 0-1.
    """
    columns = {"exact": exact, "f1": f1, "has_answer": has_answer, "no_answer_probability": no_answer_probability}
    exactly, overlap, has, odds = checked_columns(columns, ("exact", "f1", "has_answer"))
    has_one = has.astype(bool)
    nothing = overlap > 0 if empty is None else np.asarray(empty, bool)
    if nothing.shape != odds.shape:
        raise ValueError(f"empty has the shape {nothing.shape}, not [{len(odds)}]")
    order = np.argsort(odds, kind="stable")
    result: dict[str, float] = {}
    silent = odds > threshold
    for prefix, which in (("", np.ones_like(has_one)), ("HasAns_", has_one), ("NoAns_", ~has_one)):
        if which.any() or not prefix:
            for name, raw in (("exact", exactly), ("f1", overlap)):
                result[prefix + name] = _percent(np.where(silent, ~has_one, raw)[which])
            result[prefix + "total"] = int(which.sum())
    for name, raw in (("exact", exactly), ("f1", overlap)):
        gain = np.where(has_one, raw, -1.0 * ~nothing)
        best, place = _official_best(gain[order], odds[order], int((~has_one).sum()))
        result |= {f"best_{name}": best, f"best_{name}_thresh": place}
    if has_one.any():
        for name, raw in (("exact", exactly), ("f1", overlap), ("oracle", has)):
            curve = precision_recall(-odds, raw * has_one, int(has_one.sum()))
            result[f"pr_{name}_ap"] = 100.0 * curve.average_precision
    return result


def _official_best(gain: Float64s, odds: Float64s, without_answer: int) -> tuple[float, float]:
    """The best sum, in percent, over "answer the first k": the first that is best, and its last question's odds."""
    total = np.cumsum(np.append(float(without_answer), gain))  # added up one by one, as there, for the same ties
    best = int(np.argmax(total))
    return 100.0 * float(total[best]) / max(len(gain), 1), float(odds[best - 1]) if best else 0.0


def _percent(scores: Float64s) -> float:
    return 100.0 * float(scores.sum()) / max(len(scores), 1)


def score_at(
    threshold: float, null_odds: ArrayLike, exact: ArrayLike, f1: ArrayLike, has_answer: ArrayLike
) -> Threshold:
    """Scores under the rule "no answer if ``null_odds > threshold``"; the arrays are those of `best_threshold`."""
    odds, exactly, overlap, has = _decision_columns(null_odds, exact, f1, has_answer)
    return Threshold(threshold, *_decided(odds > threshold, exactly, overlap, has))


def _decided(silent: NDArray[np.bool_], exact: Float64s, f1: Float64s, has_answer: Float64s) -> tuple[float, float]:
    """Exact match and F1, 0-100, if the ``silent`` questions get no answer."""
    return _percent(np.where(silent, 1.0 - has_answer, exact)), _percent(np.where(silent, 1.0 - has_answer, f1))


def best_threshold(null_odds: ArrayLike, exact: ArrayLike, f1: ArrayLike, has_answer: ArrayLike) -> Threshold:
    """The threshold of highest F1 under the rule "no answer if ``null_odds > threshold``".

    It stands in the middle between the odds of two questions (1 beyond the outermost), or at 0 if no threshold is
    better than 0; of several that are equally good it is the one nearest 0, the lower of two equally near. It is
    finite: odds of inf, of a question without any span, are always without an answer, and odds of -inf never.

    Args:
        null_odds: [N] null score minus the best span's score; may be infinite.
        exact, f1: [N] 0-1, scores of the best span's text, whether or not it would be given; 0 for a question that
            has no answer.
        has_answer: [N] whether the question has one.

    Raises:
        ValueError: arrays that differ in length, NaN, or scores outside 0-1.
    """
    odds, exactly, overlap, has = _decision_columns(null_odds, exact, f1, has_answer)
    order = np.argsort(odds, kind="stable")
    ranked = odds[order]
    gain = np.rint((overlap - (1.0 - has)) * _UNIT).astype(np.int64)[order]
    total = np.append(0, np.cumsum(gain))  # [N + 1] F1 gained by answering the first k, against answering none
    first, last = int((odds == -np.inf).sum()), len(odds) - int((odds == np.inf).sum())
    allowed = np.zeros(len(total), bool)
    allowed[1:-1] = ranked[1:] != ranked[:-1]
    allowed[:first] = allowed[last + 1 :] = False
    allowed[[first, last]] = True
    # Three answers of F1 1/3 are as good as one of F1 1: rounding, half a unit a question, does not choose.
    as_good = allowed & (total >= total[allowed].max() - len(odds))
    if as_good[(odds <= 0).sum()]:
        return score_at(0.0, odds, exactly, overlap, has)
    places = _between(ranked, np.flatnonzero(as_good), first, last)
    return score_at(float(places[np.argmin(np.abs(places))]), odds, exactly, overlap, has)


def _between(ranked: Float64s, count: NDArray[np.intp], first: int, last: int) -> Float64s:
    """Thresholds that let exactly the first ``count`` of ``ranked`` be answered; ``first < last`` bound the finite."""
    finite = ranked[first:last]
    lower, upper = finite[np.maximum(count - first - 1, 0)], finite[np.minimum(count - first, last - first - 1)]
    middle = lower / 2 + upper / 2
    middle = np.where((lower <= middle) & (middle < upper), middle, lower)  # neighbours may be adjacent floats
    below = np.minimum(upper - 1.0, np.nextafter(upper, -np.inf))  # 1 is nothing to very large odds
    return np.where(count == first, below, np.where(count == last, lower + 1.0, middle))


def _decision_columns(null_odds: ArrayLike, exact: ArrayLike, f1: ArrayLike, has_answer: ArrayLike) -> list[Float64s]:
    columns = {"null_odds": null_odds, "exact": exact, "f1": f1, "has_answer": has_answer}
    return checked_columns(columns, ("exact", "f1", "has_answer"))


def split_by_article(groups: Sequence[str], seed: int = 0) -> NDArray[np.bool_]:
    """Which questions are in the first of two halves that share no article.

    Articles are taken in the order of a hash of their name, each into the half that has fewer questions so far: the
    halves depend on the names, their numbers of questions and ``seed`` alone, not on the order of the questions.

    Args:
        groups: [N] the title of each question's article or, where there are none, its context.
        seed: another one for other halves.
    """
    names, which, sizes = np.unique(np.array(groups, dtype=object), return_inverse=True, return_counts=True)
    digests = [blake2b(f"{seed}\n{name}".encode("utf-8", "surrogatepass"), digest_size=16).digest() for name in names]
    in_first = np.zeros(len(names), bool)
    ahead = 0  # questions that the first half has more than the second
    for name in sorted(range(len(names)), key=digests.__getitem__):
        in_first[name] = ahead <= 0
        ahead += int(sizes[name]) if in_first[name] else -int(sizes[name])
    return in_first[which]


def tuned(
    null_odds: ArrayLike,
    exact: ArrayLike,
    f1: ArrayLike,
    has_answer: ArrayLike,
    groups: Sequence[str],
    seed: int = 0,
) -> Tuned:
    """Tune the threshold, and show on questions about other articles what the tuning is worth.

    Each half of the articles tunes a threshold for the other. If together they raise the F1 of the questions that they
    were not chosen by, the threshold to use is the best one over all questions: it is chosen by twice as many as
    either half's, and so is nearer to what new questions want. If they do not, it is 0. With a single article there
    is nothing to hold out, and it is 0 too.

    Args:
        null_odds, exact, f1, has_answer: see `best_threshold`.
        groups, seed: see `split_by_article`.

    Raises:
        ValueError: see `best_threshold`.
    """
    odds, exactly, overlap, has = _decision_columns(null_odds, exact, f1, has_answer)
    if len(groups) != len(odds):
        raise ValueError(f"{len(groups)} groups for {len(odds)} questions")
    in_first = split_by_article(groups, seed)
    sides = [[column[side] for column in (odds, exactly, overlap, has)] for side in (in_first, ~in_first)]
    best = [best_threshold(*side).threshold for side in sides]

    def half(side: int, threshold: float) -> Half:
        return Half(len(sides[side][0]), score_at(0.0, *sides[side]), score_at(threshold, *sides[side]))

    at_zero = score_at(0.0, odds, exactly, overlap, has)
    crossed = _decided(odds > np.where(in_first, best[1], best[0]), exactly, overlap, has)
    final = best_threshold(odds, exactly, overlap, has).threshold if crossed[1] > at_zero.f1 else 0.0
    halves = ((half(0, best[0]), half(1, best[0])), (half(1, best[1]), half(0, best[1])))
    return Tuned(final, halves, at_zero, *crossed)
