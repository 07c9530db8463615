"""Computes the full output of the official SQuAD v2.0 scorer, and tunes ``null_score_diff_threshold``.

Pure NumPy on arrays of N questions. ``exact`` and ``f1`` are the scores, 0-1, of a text against the gold answers. If
``null_odds`` (or the official ``no_answer_probability``) is above the threshold, the answer is "no answer".

The official scorer (``evaluate-v2.0.py``; Rajpurkar et al., 2018) tries a cut between any two questions, even between
two of equal probability, which no threshold can separate. `squad_v2_metrics` reproduces this; `best_threshold` only
considers cuts that a threshold can make. Both sort once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qa_lightning.arrays import Float64s
from qa_lightning.metrics.calibration import checked_columns, precision_recall

_UNIT = 2**38  # scores are summed as integers, so that the order does not change the sum; for up to 2^25 questions


@dataclass(frozen=True)
class Threshold:
    """A threshold and the scores under it.

    Attributes:
        threshold: the ``null_odds`` above which the answer is "no answer".
        exact, f1: means over all questions, 0-100; 0 without questions.
    """

    threshold: float
    exact: float
    f1: float


@dataclass(frozen=True)
class Half:
    """Scores of one half of the questions at threshold 0 and at a tuned threshold.

    Attributes:
        questions: number of questions in this half.
        at_zero: scores at threshold 0.
        at_tuned: scores at the tuned threshold.
    """

    questions: int
    at_zero: Threshold
    at_tuned: Threshold


@dataclass(frozen=True)
class Tuned:
    """A tuned threshold, and its scores on questions that it was not tuned on.

    Attributes:
        threshold: the threshold to use; see `tuned`.
        halves: for the best threshold of each half, its scores ``(on this half, on the other half)``. The scores on
            its own half are too high; those on the other half are fair.
        at_zero: scores of all questions at threshold 0.
        held_out_exact, held_out_f1: means over all questions, 0-100, each scored at the threshold of the half that it
            is not in. They estimate what tuning gives on new questions.
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
        exact, f1: [N] scores of the predicted texts, 0-1, before any threshold; a text may be empty.
        has_answer: [N] whether the question has a gold answer.
        no_answer_probability: [N] any numbers. Between equal ones the order of the questions decides, so it must be
            that of the official file.
        threshold: above it the empty text is scored instead of the prediction (``--na-prob-thresh``).
        empty: [N] whether the prediction is empty. None takes it as empty where F1 is above 0 though the question has
            no answer; pass it if texts such as "the" occur, which score there without being empty.

    Returns:
        By the official names, on 0-100: ``exact, f1, total``, ``HasAns_*`` and ``NoAns_*`` for the kinds of questions
        that occur, ``best_exact, best_exact_thresh, best_f1, best_f1_thresh``, and, if any question has an answer,
        the average precisions ``pr_exact_ap, pr_f1_ap, pr_oracle_ap``.

    Raises:
        ValueError: arrays of different lengths, NaN, or scores outside 0-1.
    """
    columns = {"exact": exact, "f1": f1, "has_answer": has_answer, "no_answer_probability": no_answer_probability}
    exactly, overlap, has, odds = checked_columns(columns, ("exact", "f1", "has_answer"))
    has_one = has.astype(bool)
    nothing = overlap > 0 if empty is None else np.asarray(empty, bool)
    if nothing.shape != odds.shape:
        raise ValueError(f"empty has the shape {nothing.shape}, not [{len(odds)}]")
    order = np.argsort(odds, kind="stable")
    result: dict[str, float] = {}
    unanswered = odds > threshold
    for prefix, which in (("", np.ones_like(has_one)), ("HasAns_", has_one), ("NoAns_", ~has_one)):
        if which.any() or not prefix:
            for name, raw in (("exact", exactly), ("f1", overlap)):
                result[prefix + name] = _percent(np.where(unanswered, ~has_one, raw)[which])
            result[prefix + "total"] = int(which.sum())
    for name, raw in (("exact", exactly), ("f1", overlap)):
        gain = np.where(has_one, raw, -1.0 * ~nothing)
        best, best_odds = _official_best(gain[order], odds[order], int((~has_one).sum()))
        result |= {f"best_{name}": best, f"best_{name}_thresh": best_odds}
    if has_one.any():
        for name, raw in (("exact", exactly), ("f1", overlap), ("oracle", has)):
            curve = precision_recall(-odds, raw * has_one, int(has_one.sum()))
            result[f"pr_{name}_ap"] = 100.0 * curve.average_precision
    return result


def _official_best(gain: Float64s, odds: Float64s, without_answer: int) -> tuple[float, float]:
    """The best score, 0-100, of answering the first k questions, for the smallest best k; and the odds of the k-th."""
    total = np.cumsum(np.append(float(without_answer), gain))  # in the official order of additions, for the same ties
    best = int(np.argmax(total))
    return 100.0 * float(total[best]) / max(len(gain), 1), float(odds[best - 1]) if best else 0.0


def _percent(scores: Float64s) -> float:
    return 100.0 * float(scores.sum()) / max(len(scores), 1)


def score_at(
    threshold: float, null_odds: ArrayLike, exact: ArrayLike, f1: ArrayLike, has_answer: ArrayLike
) -> Threshold:
    """Scores under the rule "no answer if ``null_odds > threshold``"; for the arrays see `best_threshold`."""
    odds, exactly, overlap, has = _decision_columns(null_odds, exact, f1, has_answer)
    return Threshold(threshold, *_decided(odds > threshold, exactly, overlap, has))


def _decided(unanswered: NDArray[np.bool_], exact: Float64s, f1: Float64s, has_answer: Float64s) -> tuple[float, float]:
    """Exact match and F1, 0-100, if the ``unanswered`` questions get "no answer"."""
    return _percent(np.where(unanswered, 1.0 - has_answer, exact)), _percent(np.where(unanswered, 1.0 - has_answer, f1))


def best_threshold(null_odds: ArrayLike, exact: ArrayLike, f1: ArrayLike, has_answer: ArrayLike) -> Threshold:
    """The threshold with the highest F1 under the rule "no answer if ``null_odds > threshold``".

    It is 0 if no other threshold is better. Otherwise it lies halfway between the odds of two questions, or 1 beyond
    the lowest or highest odds. Of equally good thresholds it is the one nearest 0; of two equally near, the lower.
    It is always finite: a question with odds inf (without a valid span) always gets "no answer", one with -inf never.

    Args:
        null_odds: [N] null score minus the best span's score; may be infinite.
        exact, f1: [N] 0-1, scores of the best span's text, even where "no answer" would win; 0 for a question without
            a gold answer.
        has_answer: [N] whether the question has a gold answer.

    Raises:
        ValueError: arrays of different lengths, NaN, or scores outside 0-1.
    """
    odds, exactly, overlap, has = _decision_columns(null_odds, exact, f1, has_answer)
    order = np.argsort(odds, kind="stable")
    ranked = odds[order]
    gain = np.rint((overlap - (1.0 - has)) * _UNIT).astype(np.int64)[order]
    total = np.append(0, np.cumsum(gain))  # [N + 1] F1 gained by answering the first k questions instead of none
    first, last = int((odds == -np.inf).sum()), len(odds) - int((odds == np.inf).sum())
    allowed = np.zeros(len(total), bool)
    allowed[1:-1] = ranked[1:] != ranked[:-1]
    allowed[:first] = allowed[last + 1 :] = False
    allowed[[first, last]] = True
    # Rounding moves a sum by up to half a unit a question: ignore it, so that 3 answers of F1 1/3 equal one of F1 1.
    as_good = allowed & (total >= total[allowed].max() - len(odds))
    if as_good[(odds <= 0).sum()]:
        return score_at(0.0, odds, exactly, overlap, has)
    thresholds = _between(ranked, np.flatnonzero(as_good), first, last)
    return score_at(float(thresholds[np.argmin(np.abs(thresholds))]), odds, exactly, overlap, has)


def _between(ranked: Float64s, count: NDArray[np.intp], first: int, last: int) -> Float64s:
    """Thresholds that answer exactly the first ``count`` of ``ranked``, whose finite part is ``ranked[first:last]``."""
    finite = ranked[first:last]
    lower, upper = finite[np.maximum(count - first - 1, 0)], finite[np.minimum(count - first, last - first - 1)]
    middle = lower / 2 + upper / 2
    middle = np.where((lower <= middle) & (middle < upper), middle, lower)  # adjacent floats have no middle
    below = np.minimum(upper - 1.0, np.nextafter(upper, -np.inf))  # very large odds do not change by 1
    return np.where(count == first, below, np.where(count == last, lower + 1.0, middle))


def _decision_columns(null_odds: ArrayLike, exact: ArrayLike, f1: ArrayLike, has_answer: ArrayLike) -> list[Float64s]:
    columns = {"null_odds": null_odds, "exact": exact, "f1": f1, "has_answer": has_answer}
    return checked_columns(columns, ("exact", "f1", "has_answer"))


def folds_by_article(groups: Sequence[str], folds: int, seed: int = 0) -> NDArray[np.int64]:
    """[N] the fold of each question, from 0; folds share no article.

    Articles are sorted by a hash of their name, and each goes into the fold with the fewest questions so far. So folds
    depend only on the names, their numbers of questions and ``seed``, not on the order of the questions.

    Args:
        groups: [N] the title of each question's article or, without titles, its context.
        folds: how many; there are fewer if there are fewer articles.
        seed: another seed gives other folds.
    """
    names, which, sizes = np.unique(np.array(groups, dtype=object), return_inverse=True, return_counts=True)
    digests = [blake2b(f"{seed}\n{name}".encode("utf-8", "surrogatepass"), digest_size=16).digest() for name in names]
    fold_of, filled = np.zeros(len(names), np.int64), np.zeros(folds, np.int64)
    for name in sorted(range(len(names)), key=digests.__getitem__):
        fold_of[name] = int(np.argmin(filled))
        filled[fold_of[name]] += sizes[name]
    return fold_of[which]


def split_by_article(groups: Sequence[str], seed: int = 0) -> NDArray[np.bool_]:
    """[N] whether each question is in the first of two halves that share no article; see `folds_by_article`."""
    return np.asarray(folds_by_article(groups, 2, seed) == 0)


def tuned(
    null_odds: ArrayLike,
    exact: ArrayLike,
    f1: ArrayLike,
    has_answer: ArrayLike,
    groups: Sequence[str],
    seed: int = 0,
) -> Tuned:
    """Tune the threshold, and measure the tuning on questions about other articles.

    Each half of the articles is scored at the threshold tuned on the other half. If this raises F1 over all questions
    above that at threshold 0, the threshold to use is the best one over all questions: it is tuned on twice as many
    questions as either half's, and so is closer to the best one for new questions. If not, it is 0. It is also 0 for
    a single article, because nothing can be held out.

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
