"""Finds the best spans and the null score of each example from start and end logits, exactly, over all of its windows.

A *token span* is a pair of context tokens of one window with ``start <= end`` and at most ``max_answer_length``
tokens; both tokens cover at least one character. Its score is start + end logit. A *character span* is its start and
end offset in the context. Each character span is listed once, with its best score, even if several windows or tokens
cover it. Ties go to the first in reading order: smaller start offset, then smaller end offset.

The null score is the minimum over the windows, as in the original BERT code: an answer is missing only if it is
missing in every window. Probabilities are a softmax of score / temperature over all token spans of all windows and
the null answer. The threshold is subtracted from the null score first, so that the more probable of the best span and
"no answer" is the one that the threshold rule chooses.

For an ensemble of models that read the same windows, the score of a token span, and of "no answer", is the log of the
mean of the models' probabilities, times their mean temperature (see `pairs`). All else is as for one model.

All steps are flat NumPy over the tokens of many windows. Sliding maxima are computed by doubling, so their time grows
with ``log2(max_answer_length)``; see `sums` for the sums. Chunks of examples bound the memory. The search is exact and
makes no "top 20 starts by top 20 ends" cut: the n-th highest of the best scores per start offset is a lower bound for
the score of the n-th best character span, and only pairs that reach it are examined.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qa_lightning.arrays import Floats, Ints, begins_run, ragged
from qa_lightning.decoding.calibrator import BestSpan, Calibrator, features
from qa_lightning.decoding.pairs import MeanPairs, ModelPairs, Pairs
from qa_lightning.features.defaults import MAX_ANSWER_LENGTH

_CHUNK_TOKENS = 1 << 17  # bounds the working memory to about 50 MB for any number of windows


@dataclass(frozen=True)
class WindowLogits:
    """Logits of the context tokens of W windows: ragged rows, concatenated.

    Attributes:
        example: [W] index of the example that a window belongs to; non-decreasing.
        length: [W] number of context tokens of each window.
        start, end: [sum(length)] logits; [sum(length), M] of an ensemble of M models.
        char_start, char_end: [sum(length)] character offsets of each token in the context, end exclusive.
            start == end marks a token without characters; no answer starts or ends there.
        null: [W] start + end logit of the window's "no answer" token; [W, M] of an ensemble.
    """

    example: Ints
    length: Ints
    start: Floats
    end: Floats
    char_start: Ints
    char_end: Ints
    null: Floats


@dataclass(frozen=True)
class Spans:
    """The best spans of N examples, best first: ragged rows, concatenated.

    Attributes:
        count: [N] number of spans of each example: ``n_best``; fewer if the example has no more, or more if
            `decode_spans` lists all above a probability.
        char_start, char_end: [sum(count)] character offsets in the context, end exclusive.
        score: [sum(count)] start + end logit, or the score of an ensemble.
        probability: [sum(count)] normalised over all spans of the example and the null answer.
        null_score: [N] score of "no answer": of one model, its start + end logit, the minimum over the windows.
        null_probability: [N] normalised in the same way.
        log_spans: [N, K] log of the sum of exp(score / T) over all spans, for each of the K temperatures T in
            ``Scaling.temperatures``.
        second_score: [N] score of the second-best span, listed or not; -inf without one.
    """

    count: Ints
    char_start: Ints
    char_end: Ints
    score: NDArray[np.float64]
    probability: NDArray[np.float64]
    null_score: NDArray[np.float64]
    null_probability: NDArray[np.float64]
    log_spans: NDArray[np.float64]
    second_score: NDArray[np.float64]

    @classmethod
    def concatenate(cls, parts: Sequence[Spans]) -> Spans:
        """Join the spans of several sets of examples."""
        if not parts:
            nothing, none = np.zeros(0), np.zeros(0, np.int32)
            return cls(none, none, none, nothing, nothing, nothing, nothing, np.zeros((0, 0)), nothing)
        some = [part for part in parts if len(part.count)] or parts[:1]  # an empty part may have another K
        if len(some) == 1:
            return some[0]
        return cls(*(np.concatenate([getattr(part, name) for part in some]) for name in cls.__dataclass_fields__))

    def take(self, rows: NDArray[np.intp]) -> Spans:
        """The spans of the examples ``rows``, in that order."""
        count = self.count[rows]
        flat = ragged(self.offset[rows], count)
        return Spans(
            count,
            self.char_start[flat],
            self.char_end[flat],
            self.score[flat],
            self.probability[flat],
            self.null_score[rows],
            self.null_probability[rows],
            self.log_spans[rows],
            self.second_score[rows],
        )

    @property
    def offset(self) -> NDArray[np.int64]:
        """[N] index of each example's first span in the flat arrays."""
        count = self.count.astype(np.int64)
        return count.cumsum() - count

    @property
    def best_score(self) -> NDArray[np.float64]:
        """[N] score of the best span; -inf for an example without a valid span."""
        best = np.full(len(self.count), -np.inf)
        some = self.count > 0
        best[some] = self.score[self.offset[some]]
        return best

    def right(self, chosen: Ints, calibrator: Calibrator | None) -> NDArray[np.float64]:
        """[N] probability that an answer to each example is right: its own without a calibrator, or without any span.

        Args:
            chosen: [N] the answer's row among the spans of its example, from 0; -1 for "no answer".
            calibrator: see `Scaling`.
        """
        is_null, some = chosen < 0, self.count > 0
        span = np.where(some, self.offset + np.maximum(chosen, 0), 0)
        if not some.any():
            return self.null_probability.copy()
        probability = np.where(is_null, self.null_probability, self.probability[span])
        if calibrator is None:
            return probability
        best, score = self.best_score, np.where(some, self.score[span], -np.inf)
        with np.errstate(invalid="ignore"):  # without any span; not used
            margin = np.where(chosen > 0, score - best, best - self.second_score)
            odds, length = self.null_score - score, self.char_end[span] - self.char_start[span]
            found = features(probability, margin, length, odds, calibrator.leads(odds, is_null))
        return np.where(some, calibrator.of(found, probability, is_null), probability)

    def best_span(self, number: int) -> BestSpan | None:
        """What a calibrator reads of the best span of example ``number``; None without a span."""
        if not self.count[number]:
            return None
        row = int(self.offset[number])
        best, second = float(self.score[row]), float(self.second_score[number])
        length = int(self.char_end[row]) - int(self.char_start[row])
        return BestSpan(best - second, length, float(self.null_score[number]) - best)


@dataclass(frozen=True)
class Scaling:
    """How scores become probabilities.

    Args:
        temperature: divides the scores, greater than 0; above 1, probabilities become less certain, below 1 more.
        threshold: "no answer" is the more probable if the null score exceeds the best span's by more than this.
        temperatures: the K temperatures to compute ``Spans.log_spans`` for.
        of_models: of an ensemble, the temperature at which each model is normalised on its own; empty for one model.
        calibrator: gives the best answer of a question its score; None if that is its probability. Spans keep their
            probabilities: it is for whoever chooses among them and "no answer".
    """

    temperature: float = 1.0
    threshold: float = 0.0
    temperatures: tuple[float, ...] = ()
    of_models: tuple[float, ...] = ()
    calibrator: Calibrator | None = None

    @property
    def calibrator_as_json(self) -> dict[str, dict[str, float]]:
        """See `Calibrator.as_json`; empty without one."""
        return self.calibrator.as_json() if self.calibrator is not None else {}


def decode_spans(
    logits: WindowLogits,
    n_best: int = 20,
    max_answer_length: int = MAX_ANSWER_LENGTH,
    scaling: Scaling = Scaling(),
    min_probability: float = np.inf,
) -> Spans:
    """Find the ``n_best`` spans of every example; the module defines spans, scores and ties.

    Args:
        logits: windows in order of example; every example from 0 to the last has at least one window.
        n_best: character spans to list for each example, at least 1.
        max_answer_length: the longest span, in tokens of its window, at least 1.
        scaling: how scores become probabilities; the scores themselves do not change.
        min_probability: list all spans that are at least as probable, even if they are more than ``n_best``; above 0.

    Raises:
        ValueError: an argument is below 1, a temperature is not finite and above 0, logits are NaN, inf or not of as
            many models as ``scaling``, or examples are out of order.
    """
    if n_best < 1 or max_answer_length < 1:
        raise ValueError(f"n_best {n_best} and max_answer_length {max_answer_length} must be at least 1")
    if not min_probability > 0:
        raise ValueError(f"min_probability {min_probability} must be above 0")
    if not all(0 < each < np.inf for each in (scaling.temperature, *scaling.temperatures, *scaling.of_models)):
        raise ValueError(f"temperatures must be finite and above 0: {scaling}")
    if logits.start.shape[1:] != ((len(scaling.of_models),) if scaling.of_models else ()):
        raise ValueError(f"the logits, {logits.start.shape}, are not those of the models: {scaling}")
    step = logits.example[1:] - logits.example[:-1]
    if len(logits.example) and (logits.example[0] != 0 or (step < 0).any() or (step > 1).any()):
        raise ValueError("windows must be in order of example, and every example from 0 on needs at least one window")
    chunks = _chunks(logits)
    return Spans.concatenate(
        [_decode_chunk(chunk, n_best, max_answer_length, scaling, min_probability) for chunk in chunks]
    )


def are_no_numbers(logits: Floats) -> NDArray[np.bool_]:
    """Whether each logit is one that no score can be made of: NaN or inf."""
    return np.asarray(~(logits < np.inf))


def _chunks(logits: WindowLogits) -> Iterator[WindowLogits]:
    """Split between examples into chunks of at most `_CHUNK_TOKENS` tokens; only a single example may exceed it.

    Those of an ensemble are smaller, by the number of its models.
    """
    if not len(logits.example):
        return
    most = _CHUNK_TOKENS // int(np.prod(logits.start.shape[1:]))
    if len(logits.start) <= most:
        yield _wide(logits, slice(None), slice(None), 0)
        return
    last_token = logits.length.astype(np.int64).cumsum()
    first_window = np.flatnonzero(begins_run(logits.example))  # [N] of each example
    window_end = np.append(first_window[1:], len(logits.example))
    token_end = last_token[window_end - 1]
    example = 0
    while example < len(first_window):
        token = int(token_end[example - 1]) if example else 0
        stop = max(int(np.searchsorted(token_end, token + most, side="right")), example + 1)
        windows = slice(int(first_window[example]), int(window_end[stop - 1]))
        tokens = slice(token, int(token_end[stop - 1]))
        yield _wide(logits, windows, tokens, example)
        example = stop


def _wide(logits: WindowLogits, windows: slice, tokens: slice, example: int) -> WindowLogits:
    """Some windows, of examples that count from ``example`` on, in 64 bits."""
    return WindowLogits(
        example=logits.example[windows].astype(np.int64) - example,
        length=logits.length[windows].astype(np.int64),
        start=logits.start[tokens].astype(np.float64),
        end=logits.end[tokens].astype(np.float64),
        char_start=logits.char_start[tokens].astype(np.int64),
        char_end=logits.char_end[tokens].astype(np.int64),
        null=logits.null[windows].astype(np.float64),
    )


def _decode_chunk(
    logits: WindowLogits, n_best: int, max_answer_length: int, scaling: Scaling, min_probability: float
) -> Spans:
    if any(are_no_numbers(values).any() for values in (logits.start, logits.end, logits.null)):
        raise ValueError("logits are NaN or inf: the model has diverged")
    # No span is longer than a window: a limit beyond that would only cost time and memory.
    max_answer_length = min(max_answer_length, max(int(logits.length.max()), 1))
    examples = int(logits.example[-1]) + 1
    example = np.repeat(logits.example, logits.length)  # [tokens]
    pairs = _pairs(logits, example, max_answer_length, scaling)
    null = pairs.null
    null_score = (null - scaling.threshold) / scaling.temperature
    log_total = np.logaddexp(pairs.log_sums((scaling.temperature,))[0], null_score)
    # A little lower than the score of ``min_probability``: rounding loses no span, and the probability decides.
    some = log_total > -np.inf
    floor = np.full(examples, np.inf)
    floor[some] = scaling.temperature * (log_total[some] + np.log(min_probability)) - 1e-6
    listed = max(n_best, 2)  # with the second-best span
    token, reach, score = _candidates(example, logits.char_start, pairs, examples, listed, floor)
    probability = np.exp(score / scaling.temperature - log_total[example[token]])
    best = _best_distinct(
        example[token],
        logits.char_start[token],
        logits.char_end[token + reach],
        score,
        listed,
        probability >= min_probability,
    )
    second_score = np.full(examples, -np.inf)
    rank = _rank(example[token[best]])
    second_score[example[token[best[rank == 1]]]] = score[best[rank == 1]]
    best = best[(rank < n_best) | (probability[best] >= min_probability)]
    token, reach, score, probability = token[best], reach[best], score[best], probability[best]
    return Spans(
        count=np.bincount(example[token], minlength=examples).astype(np.int32),
        char_start=logits.char_start[token].astype(np.int32),
        char_end=logits.char_end[token + reach].astype(np.int32),
        score=score,
        probability=probability,
        null_score=null,
        null_probability=np.exp(null_score - log_total),
        log_spans=pairs.log_sums(scaling.temperatures).T,
        second_score=second_score,
    )


def _pairs(logits: WindowLogits, example: Ints, width: int, scaling: Scaling) -> Pairs:
    """The scores of all token spans of at most ``width`` tokens; ``example``, [tokens], is that of each token."""
    covers = logits.char_end > logits.char_start
    columns = [*logits.start.T, *logits.end.T] if scaling.of_models else [logits.start, logits.end]
    values = [np.where(covers, column, -np.inf) for column in columns]
    nulls = logits.null.T if scaling.of_models else [logits.null]
    of_each = zip(values[: len(nulls)], values[len(nulls) :], nulls, strict=True)
    models = [ModelPairs(start, end, null, logits.example, logits.length, width) for start, end, null in of_each]
    return MeanPairs(models, scaling.of_models, example) if scaling.of_models else models[0]


def _candidates(
    example: Ints, char_start: Ints, pairs: Pairs, examples: int, n_best: int, floor: NDArray[np.float64]
) -> tuple[Ints, Ints, NDArray[np.float64]]:
    """Pairs (token, reach) and their scores, among them the n best character spans of each example.

    Those that score at least ``floor``, [N], are among them too. The end of a span is token + reach.

    Each distinct start offset has a best span, and these are different character spans. So the n-th highest of their
    scores is a lower bound for the score of the n-th best character span.
    """
    group, group_start, best = example, char_start, pairs.row_best
    if not _in_reading_order(example, char_start):  # several windows share tokens
        order = np.lexsort((char_start, example))
        group, group_start, best = example[order], char_start[order], best[order]
    first = np.flatnonzero(begins_run(group, group_start))
    group_best = np.maximum.reduceat(best, first) if len(first) else np.zeros(0)
    bound = np.minimum(_nth_largest(group_best, group[first], examples, n_best) - pairs.slack, floor)
    token = np.flatnonzero((pairs.row_best >= bound[example]) & (pairs.row_best > -np.inf))
    score = pairs.of(token)
    row, reach = np.nonzero((score >= bound[example[token]][:, None]) & (score > -np.inf))
    return token[row], reach, score[row, reach]


def _nth_largest(values: NDArray[np.float64], segment: Ints, segments: int, n: int) -> NDArray[np.float64]:
    """The n-th largest value of each segment; -inf for fewer than n values. ``segment`` is non-decreasing."""
    bound = np.full(segments, -np.inf)
    if segments == 1:
        if len(values) >= n:
            bound[0] = np.partition(values, len(values) - n)[len(values) - n]
        return bound
    count = np.bincount(segment, minlength=segments)
    offset = count.cumsum() - count
    # Segments of similar size are partitioned together, as rows of one matrix. Padding at most doubles the work,
    # because sizes in one class differ by at most a factor of 2.
    sizes = np.where(count >= n, np.ceil(np.log2(np.maximum(count, 1))), -1).astype(np.int64)
    for size in np.unique(sizes[sizes >= 0]):
        rows = np.flatnonzero(sizes == size)
        column = np.arange(count[rows].max())
        inside = column < count[rows][:, None]
        matrix = np.where(inside, values[np.minimum(offset[rows][:, None] + column, len(values) - 1)], -np.inf)
        bound[rows] = np.partition(matrix, len(column) - n, axis=1)[:, len(column) - n]
    return bound


def _in_reading_order(example: Ints, char_start: Ints) -> bool:
    return bool(((example[1:] > example[:-1]) | (char_start[1:] >= char_start[:-1])).all())


def _best_distinct(
    example: Ints,
    char_start: Ints,
    char_end: Ints,
    score: NDArray[np.float64],
    n_best: int,
    probable: NDArray[np.bool_],
) -> Ints:
    """Indices of the n best distinct character spans of each example, best first, ties in reading order.

    Those that are ``probable`` are listed even if they are more; they are better than all that are not.

    Candidates arrive by window, each window in reading order. Only examples with several windows, or with several
    tokens for one character, need sorting and the removal of repeats.
    """
    order = np.arange(len(example))
    same = example[1:] == example[:-1]
    rising = (char_start[1:] > char_start[:-1]) | ((char_start[1:] == char_start[:-1]) & (char_end[1:] > char_end[:-1]))
    falls = same & ~rising
    if falls.any():
        mixed = np.zeros(int(example.max()) + 1, bool)
        mixed[example[1:][falls]] = True
        rows = np.flatnonzero(mixed[example])
        sorted_rows = rows[np.lexsort((-score[rows], char_end[rows], char_start[rows], example[rows]))]
        order[rows] = sorted_rows  # sorted by example first, so each example keeps its own range of rows
        keep = np.ones(len(order), bool)
        keep[rows] = begins_run(*(values[sorted_rows] for values in (example, char_start, char_end)))
        order = order[keep]
    order = order[np.lexsort((-score[order], example[order]))]
    return order[(_rank(example[order]) < n_best) | probable[order]]


def _rank(example: Ints) -> NDArray[np.int64]:
    """The position, from 0, of each span among those of its example; examples ascend."""
    count = np.bincount(example)
    return np.arange(len(example)) - np.repeat(count.cumsum() - count, count)
