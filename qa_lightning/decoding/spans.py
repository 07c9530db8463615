"""Start and end logits -> the best spans and the null score of each example, over all of its windows. Exact.

A span is a pair of context tokens of one window, ``start <= end``, at most ``max_answer_length`` tokens long, both
covering at least one character; its score is start + end logit. A place (first and last character) is listed once,
with its best score, however many windows show it. Ties go to the first in reading order: smaller first character,
then smaller last one. Probabilities are normalised over every span of every window and the null answer together:
the softmax of score / temperature, the null score lowered by the threshold above which it wins, so that the likelier
of the best span and "no answer" is the one that the threshold decides for. The null score is the smallest over the
windows, as in the original BERT code: the answer is missing only if it is missing everywhere.

Everything is flat NumPy over the tokens of many windows: sliding maxima and sums by doubling, so the work grows with
``log2(max_answer_length)``; memory is bounded by chunks of examples. No cut "top 20 by top 20" is made: the n best
places start in the n starts of highest best score, and only pairs that reach the n-th of these are looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qa_lightning.arrays import Floats, Ints, ragged

_CHUNK_TOKENS = 1 << 17  # bounds the working memory to some 50 MB, whatever the number of windows


@dataclass(frozen=True)
class WindowLogits:
    """Logits of the context tokens of W windows, ragged rows end to end.

    Attributes:
        example: [W] which example a window belongs to; non-decreasing.
        length: [W] context tokens of each window.
        start, end: [sum(length)] logits.
        char_start, char_end: [sum(length)] characters of the context that a token covers, end exclusive; a token
            that covers none (start == end) starts and ends no answer.
        null: [W] start + end logit of the window's "no answer" token.
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
    """The best spans of N examples, best first, ragged rows end to end.

    Attributes:
        count: [N] spans of each example: ``n_best``, or fewer where there are no more.
        char_start, char_end: [sum(count)] place in the context, end exclusive.
        score: [sum(count)] start + end logit.
        probability: [sum(count)] normalised over all spans of the example and the null answer.
        null_score: [N] start + end logit of "no answer", the smallest over the windows.
        null_probability: [N] likewise normalised.
        log_spans: [N, K] log of the sum of exp(score / T) over all spans, at K temperatures T that were asked for.
    """

    count: Ints
    char_start: Ints
    char_end: Ints
    score: NDArray[np.float64]
    probability: NDArray[np.float64]
    null_score: NDArray[np.float64]
    null_probability: NDArray[np.float64]
    log_spans: NDArray[np.float64]

    @classmethod
    def concatenate(cls, parts: Sequence[Spans]) -> Spans:
        """The spans of several sets of examples as those of one."""
        if not parts:
            nothing, none = np.zeros(0), np.zeros(0, np.int32)
            return cls(none, none, none, nothing, nothing, nothing, nothing, np.zeros((0, 0)))
        some = [part for part in parts if len(part.count)] or parts[:1]  # of none, the K of log_spans is unknown
        return cls(*(np.concatenate([getattr(part, name) for part in some]) for name in cls.__dataclass_fields__))

    def take(self, rows: NDArray[np.intp]) -> Spans:
        """The spans of some of the examples, in the order of ``rows``."""
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
        )

    @property
    def offset(self) -> NDArray[np.int64]:
        """[N] where each example's spans begin."""
        count = self.count.astype(np.int64)
        return np.cumsum(count) - count

    @property
    def best_score(self) -> NDArray[np.float64]:
        """[N] the best span's score; -inf for an example without a valid span."""
        best = np.full(len(self.count), -np.inf)
        some = self.count > 0
        best[some] = self.score[self.offset[some]]
        return best


@dataclass(frozen=True)
class Scaling:
    """How scores become probabilities.

    Args:
        temperature: above 1 makes them less certain, below more; greater than 0.
        threshold: how much the null score must exceed the best span's to be the likelier.
        temperatures: those to keep the sums over all spans for.
    """

    temperature: float = 1.0
    threshold: float = 0.0
    temperatures: tuple[float, ...] = ()


def decode_spans(
    logits: WindowLogits,
    n_best: int = 20,
    max_answer_length: int = 30,
    scaling: Scaling = Scaling(),
) -> Spans:
    """Find the ``n_best`` spans of every example; see the module for what counts and how ties go.

    Args:
        logits: windows in order of example; every example from 0 to the last has at least one.
        n_best: places to list for each example, at least 1.
        max_answer_length: the longest span, in tokens of its window, at least 1.
        scaling: of the probabilities; scores stay as they are.

    Raises:
        ValueError: an argument below 1, logits that are NaN, or examples out of order.
    """
    if n_best < 1 or max_answer_length < 1:
        raise ValueError(f"n_best {n_best} and max_answer_length {max_answer_length} must be at least 1")
    if not all(0 < each < np.inf for each in (scaling.temperature, *scaling.temperatures)):
        raise ValueError(f"temperatures must be finite and above 0: {scaling}")
    step = np.diff(logits.example)
    if len(logits.example) and (logits.example[0] != 0 or (step < 0).any() or (step > 1).any()):
        raise ValueError("windows must be in order of example, each example from 0 on with at least one window")
    return Spans.concatenate([_decode_chunk(chunk, n_best, max_answer_length, scaling) for chunk in _chunks(logits)])


def _chunks(logits: WindowLogits) -> Iterator[WindowLogits]:
    """Cut between examples so that a chunk has about `_CHUNK_TOKENS` tokens (more only if one example has)."""
    if not len(logits.example):
        return
    last_token = np.cumsum(logits.length.astype(np.int64))
    first_window = np.flatnonzero(np.diff(logits.example, prepend=-1))  # of each example
    window_end = np.append(first_window[1:], len(logits.example))
    token_end = last_token[window_end - 1]
    example = 0
    while example < len(first_window):
        token = int(token_end[example - 1]) if example else 0
        stop = max(int(np.searchsorted(token_end, token + _CHUNK_TOKENS, side="right")), example + 1)
        windows = slice(int(first_window[example]), int(window_end[stop - 1]))
        tokens = slice(token, int(token_end[stop - 1]))
        yield WindowLogits(
            example=logits.example[windows].astype(np.int64) - example,
            length=logits.length[windows].astype(np.int64),
            start=logits.start[tokens].astype(np.float64),
            end=logits.end[tokens].astype(np.float64),
            char_start=logits.char_start[tokens].astype(np.int64),
            char_end=logits.char_end[tokens].astype(np.int64),
            null=logits.null[windows].astype(np.float64),
        )
        example = stop


def _decode_chunk(logits: WindowLogits, n_best: int, longest: int, scaling: Scaling) -> Spans:
    if np.isnan(logits.start).any() or np.isnan(logits.end).any() or np.isnan(logits.null).any():
        raise ValueError("logits are NaN: the model has diverged")
    examples = int(logits.example[-1]) + 1
    example = np.repeat(logits.example, logits.length)  # [tokens]
    covers = logits.char_end > logits.char_start
    start = np.where(covers, logits.start, -np.inf)
    end = np.where(covers, logits.end, -np.inf)
    # Ends laid out with `longest - 1` gaps of -inf between windows, so that no span crosses from one to the next.
    place = np.arange(len(end)) + np.repeat(np.arange(len(logits.length)) * (longest - 1), logits.length)
    ends = np.full(len(end) + len(logits.length) * (longest - 1), -np.inf)
    ends[place] = end
    row_best = start + _sliding_max(ends, longest)[place]  # best span that starts at each token

    null = np.full(examples, np.inf)
    np.minimum.at(null, logits.example, logits.null)

    def log_spans(temperature: float) -> NDArray[np.float64]:
        scaled = start / temperature, ends / temperature, row_best / temperature
        return _log_sum(*scaled, place, example, examples, longest)

    null_score = (null - scaling.threshold) / scaling.temperature
    log_total = np.logaddexp(log_spans(scaling.temperature), null_score)
    token, reach = _candidates(example, logits.char_start, row_best, start, ends, place, examples, n_best, longest)
    score = start[token] + ends[place[token] + reach]
    best = _first_of_each_place(example[token], logits.char_start[token], logits.char_end[token + reach], score, n_best)
    token, reach, score = token[best], reach[best], score[best]
    return Spans(
        count=np.bincount(example[token], minlength=examples).astype(np.int32),
        char_start=logits.char_start[token].astype(np.int32),
        char_end=logits.char_end[token + reach].astype(np.int32),
        score=score,
        probability=np.exp(score / scaling.temperature - log_total[example[token]]),
        null_score=null,
        null_probability=np.exp(null_score - log_total),
        log_spans=np.array([log_spans(each) for each in scaling.temperatures]).reshape(-1, examples).T,
    )


def _sliding_max(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """``out[i] = max(values[i : i + width])``, in log2(width) passes."""
    out = values.copy()
    covered = 1
    while covered < width:
        shift = min(covered, width - covered)
        out[:-shift] = np.maximum(out[:-shift], out[shift:])
        covered += shift
    return out


def _sliding_sum(values: NDArray[np.float64], width: int, logs: bool = False) -> NDArray[np.float64]:
    """``out[i] = sum(values[i : i + width])`` of positive values by additions alone, so without cancellation.

    With ``logs`` the values and the sums are logarithms.
    """
    add = np.logaddexp if logs else np.add
    out = np.full_like(values, -np.inf if logs else 0.0)
    power = values.copy()  # sums of 1, 2, 4, ... values
    size, done = 1, 0
    while size <= width:
        if width & size:
            out[: max(0, len(out) - done)] = add(out[: max(0, len(out) - done)], power[done:])
            done += size
        grown = power.copy()
        grown[: max(0, len(power) - size)] = add(power[: max(0, len(power) - size)], power[size:])
        power, size = grown, size * 2
    return out


def _log_sum(
    start: NDArray[np.float64],
    ends: NDArray[np.float64],
    row_best: NDArray[np.float64],
    place: Ints,
    example: Ints,
    examples: int,
    longest: int,
) -> NDArray[np.float64]:
    """[N] log of the sum of exp(score) over every span of every window of an example."""
    top_start, top_end, best = (_largest(values, example, examples) for values in (start, ends[place], row_best))
    # exp is scaled by the best start and the best end. Where these two are hundreds of nats better than any pair
    # that may stand together, all pairs would vanish; the slower sum of logarithms then takes over.
    if ((best > -np.inf) & (best < top_start + top_end - 600)).any():
        rows = start + _sliding_sum(ends, longest, logs=True)[place]
        top = _largest(rows, example, examples)
        sums = np.bincount(example, np.exp(rows - _finite(top)[example]), minlength=examples)
        shift = _finite(top)
    else:
        weights = np.zeros_like(ends)
        weights[place] = np.exp(ends[place] - _finite(top_end)[example])
        rows = np.exp(start - _finite(top_start)[example]) * _sliding_sum(weights, longest)[place]
        sums = np.bincount(example, rows, minlength=examples)
        shift = _finite(top_start) + _finite(top_end)
    with np.errstate(divide="ignore"):  # no valid span: log(0) = -inf
        return np.asarray(np.log(sums) + shift)


def _largest(values: NDArray[np.float64], segment: Ints, segments: int) -> NDArray[np.float64]:
    largest = np.full(segments, -np.inf)
    np.maximum.at(largest, segment, values)
    return largest


def _finite(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.isfinite(values), values, 0.0)


def _candidates(
    example: Ints,
    char_start: Ints,
    row_best: NDArray[np.float64],
    start: NDArray[np.float64],
    ends: NDArray[np.float64],
    place: Ints,
    examples: int,
    n_best: int,
    longest: int,
) -> tuple[Ints, Ints]:
    """Pairs (token, reach), the end being ``reach`` tokens further, among which the n best places surely are.

    Each distinct first character contributes at least its best span, so the n-th highest of these bests is a bound
    that the n-th best place reaches.
    """
    order = np.lexsort((char_start, example))
    new = (np.diff(example[order], prepend=-1) != 0) | (np.diff(char_start[order], prepend=-1) != 0)
    first = np.flatnonzero(new)
    group_best = np.maximum.reduceat(row_best[order], first) if len(first) else np.zeros(0)
    group_example = example[order][first]
    bound = _nth_largest(group_best, group_example, examples, n_best)
    token = np.flatnonzero((row_best >= bound[example]) & (row_best > -np.inf))
    reach = np.arange(longest)
    score = start[token][:, None] + ends[place[token][:, None] + reach]
    row, reach_of = np.nonzero((score >= bound[example[token]][:, None]) & (score > -np.inf))
    return token[row], reach_of


def _nth_largest(values: NDArray[np.float64], segment: Ints, segments: int, n: int) -> NDArray[np.float64]:
    """The n-th largest value of each segment; -inf where it has fewer. ``segment`` is non-decreasing."""
    count = np.bincount(segment, minlength=segments)
    offset = np.cumsum(count) - count
    bound = np.full(segments, -np.inf)
    # Segments of like size, as rows of one matrix, are partitioned together; a size class at most doubles the work.
    sizes = np.where(count >= n, np.ceil(np.log2(np.maximum(count, 1))), -1).astype(np.int64)
    for size in np.unique(sizes[sizes >= 0]):
        rows = np.flatnonzero(sizes == size)
        column = np.arange(count[rows].max())
        inside = column < count[rows][:, None]
        matrix = np.where(inside, values[np.minimum(offset[rows][:, None] + column, len(values) - 1)], -np.inf)
        bound[rows] = np.partition(matrix, len(column) - n, axis=1)[:, len(column) - n]
    return bound


def _first_of_each_place(
    example: Ints, char_start: Ints, char_end: Ints, score: NDArray[np.float64], n_best: int
) -> Ints:
    """Indices of the n best distinct places of each example, best first, ties in reading order.

    Candidates come by window, in reading order. Only those of examples with several windows, or with several tokens
    for one character, have to be put in order and freed of repeats.
    """
    order = np.arange(len(example))
    same_start = np.diff(char_start) == 0
    rising = (np.diff(char_start) > 0) | (same_start & (np.diff(char_end) > 0))
    mixed = np.zeros(int(example.max(initial=-1)) + 1, bool)
    mixed[example[1:][(np.diff(example) == 0) & ~rising]] = True
    rows = np.flatnonzero(mixed[example])
    if len(rows):
        sorted_rows = rows[np.lexsort((-score[rows], char_end[rows], char_start[rows], example[rows]))]
        repeated = np.zeros(len(rows), bool)
        repeated[1:] = np.logical_and.reduce(
            [np.diff(values[sorted_rows]) == 0 for values in (example, char_start, char_end)]
        )
        order[rows] = sorted_rows  # examples come in order, so each keeps its stretch of rows
        keep = np.ones(len(order), bool)
        keep[rows] = ~repeated
        order = order[keep]
    order = order[np.lexsort((-score[order], example[order]))]
    count = np.bincount(example[order], minlength=len(mixed))
    rank = np.arange(len(order)) - np.repeat(np.cumsum(count) - count, count)
    return order[rank < n_best]
