"""Find the best EM and F1 that any model can reach on a question, and what each limit takes from them.

A prediction is a span of whole tokens (limit ``tokens``) within one window (``windows``) of at most so many tokens
(``max_answer_length``). The best span is searched over all spans and all annotators' answers, exactly: the first and
the last token of an optimal span have a part of a word of a gold answer, so only those spans are tried. Where they are
very many, the score counts as reachable, so that the ceiling never is too low. Limit: no token reaches over white
space between two words.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qa_lightning.features.store import FeatureStore
from qa_lightning.metrics.squad import Scoring, answer_tokens, normalize_answer, squad_f1

_PUNCTUATION = str.maketrans("", "", string.punctuation)
LIMITS = ("tokens", "windows", "max_answer_length")  # each is applied on top of those before it
_TRIES, _TRIES_PER_TOKEN = 10_000, 20  # spans of a question that are scored for a limit, at most

Scores = list[tuple[float, float]]  # EM and F1, 0-1, of the best span under the first 1, 2 and 3 limits


@dataclass(frozen=True)
class ContextTokens:
    """The tokens of a whole context, put together from its windows.

    Attributes:
        index: [T] index of each token with characters among all tokens of the context.
        start, end: [T] its characters, end exclusive.
        reach: [T] index behind the last token that some window holds together with it.
    """

    index: NDArray[np.int64]
    start: NDArray[np.int64]
    end: NDArray[np.int64]
    reach: NDArray[np.int64]

    @classmethod
    def of_windows(cls, store: FeatureStore, windows: range, doc_stride: int) -> ContextTokens:
        """Join the windows of an example, which overlap by ``doc_stride`` tokens."""
        starts, ends, begins, stops = [], [], [], []
        begin = 0  # of the window, among the tokens of the context
        for window in windows:
            first, length = int(store.context_offset[window]), int(store.windows["context_length"][window])
            old = doc_stride if window != windows.start else 0
            starts.append(store.char_start[first + old : first + length])
            ends.append(store.char_end[first + old : first + length])
            begins.append(begin)
            stops.append(begin + length)
            begin += length - doc_stride
        start, end = (np.concatenate(parts).astype(np.int64) for parts in (starts, ends))
        index = np.flatnonzero(start < end)
        reach = np.array(stops)[np.searchsorted(begins, index, side="right") - 1]
        return cls(index, start[index], end[index], reach)

    def of_answer(self, text: str, start: int) -> tuple[int, int] | None:
        """First and last of the T tokens that cover an answer without its surrounding blanks; None if none does."""
        start, end = start + len(text) - len(text.lstrip()), start + len(text.rstrip())
        first = int(np.searchsorted(self.end, start, side="right"))
        last = int(np.searchsorted(self.start, end, side="left")) - 1
        return (first, last) if first <= last else None

    def limits(self, first: int, last: int, max_answer_length: int) -> int:
        """How many of `LIMITS` a span keeps to: 1, 2 or 3."""
        if self.index[last] >= self.reach[first]:
            return 1
        return 3 if self.index[last] - self.index[first] < max_answer_length else 2


def best_scores(
    context: str,
    golds: Sequence[tuple[str, int]],
    tokens: ContextTokens,
    max_answer_length: int,
    scoring: Scoring,
) -> Scores:
    """The best EM and F1 under the first limit, the first two, and all three.

    Args:
        context: the text.
        golds: text and offset of each annotator's answer; not empty.
        tokens: the tokens of the context.
        max_answer_length: in tokens.
        scoring: how answers are scored.
    """
    search = _Search(context, [text for text, _ in golds], tokens, max_answer_length, scoring)
    for text, start in golds:
        if span := tokens.of_answer(text, start):
            search.score(*span)
    if search.best[-1] != (1.0, 1.0):
        search.score_all()
    return search.best


class _Search:
    """The best scores of the spans that were tried so far."""

    def __init__(
        self, context: str, golds: list[str], tokens: ContextTokens, max_answer_length: int, scoring: Scoring
    ) -> None:
        self.best: Scores = [(0.0, 0.0)] * len(LIMITS)
        self._context, self._tokens, self._max, self._scoring = context, tokens, max_answer_length, scoring
        normalized = [normalize_answer(gold, scoring.mixed_script) for gold in golds]
        self._golds = list(dict.fromkeys(filter(None, normalized))) or [""]
        if self._golds == [""]:  # answers of articles and punctuation alone: no text at all is right
            self.best = [(1.0, 1.0)] * len(LIMITS)
        words = [answer_tokens(gold, scoring.mixed_script) for gold in self._golds]
        self._lengths = {len(own) for own in words}
        self._wanted = tuple({word for own in words for word in own})
        self._room = 2 * max(map(len, golds)) + 50  # characters that hold any word of a gold answer

    def score(self, first: int, last: int) -> bool:
        """Score a span of tokens; whether a longer one with the same first token can score higher."""
        kept = self._tokens.limits(first, last, self._max)
        text = self._context[int(self._tokens.start[first]) : int(self._tokens.end[last])]
        predicted = normalize_answer(text, self._scoring.mixed_script)
        count = len(answer_tokens(predicted, self._scoring.mixed_script))
        bound = max(2 * min(count, own) / (count + own) if own else 0.0 for own in self._lengths)
        if count in self._lengths or bound > min(f1 for _, f1 in self.best[:kept]):
            exact = float(predicted in self._golds)
            f1 = exact or max(
                squad_f1(predicted, gold, version_2=True, mixed_script=self._scoring.mixed_script)
                for gold in self._golds
            )
            for limit in range(kept):
                self.best[limit] = (max(self.best[limit][0], exact), max(self.best[limit][1], f1))
        return count <= max(self._lengths) or bound > min(f1 for _, f1 in self.best[:kept])

    def score_all(self) -> None:
        """Score every span that can be the best one: first those that keep all limits, then those that keep fewer."""
        tokens = self._tokens
        firsts = np.array(list(filter(self._begins, range(len(tokens.index)))), np.int64)
        lasts = np.array(list(filter(self._ends, range(len(tokens.index)))), np.int64)
        reach = tokens.reach[firsts]
        beyond = [np.full(len(firsts), len(lasts)), reach, np.minimum(reach, tokens.index[firsts] + self._max)]
        stops = [beyond[0], *(np.searchsorted(tokens.index[lasts], limit) for limit in beyond[1:])]
        start = np.searchsorted(lasts, firsts)
        for limit in reversed(range(len(LIMITS))):
            if self.best[limit] != (1.0, 1.0):
                spans = zip(firsts.tolist(), start.tolist(), stops[limit].tolist(), strict=True)
                if not self._score_some(lasts.tolist(), spans):
                    self.best[: limit + 1] = [(1.0, 1.0)] * (limit + 1)
                    return
            start = np.maximum(start, stops[limit])

    def _score_some(self, lasts: list[int], spans: Iterable[tuple[int, int, int]]) -> bool:
        """Score the spans from each first token to ``lasts[start:stop]``; False if they are too many."""
        tries = 0
        for first, start, stop in spans:
            for last in lasts[start:stop]:
                tries += 1
                if tries > _TRIES + _TRIES_PER_TOKEN * len(self._tokens.index):
                    return False
                if not self.score(first, last):
                    break
        return True

    def _begins(self, token: int) -> bool:
        """Whether some span needs this token as its first one: a wanted word can begin in it."""
        start, end = int(self._tokens.start[token]), int(self._tokens.end[token])
        own = max(1, len(self._words(self._context[start:end])))
        return any(word.startswith(self._wanted) for word in self._words(self._context[start : end + self._room])[:own])

    def _ends(self, token: int) -> bool:
        """Whether some span needs this token as its last one: a wanted word can end in it."""
        start, end = int(self._tokens.start[token]), int(self._tokens.end[token])
        own = max(1, len(self._words(self._context[start:end])))
        words = self._words(self._context[max(0, start - self._room) : end])[-own:]
        return any(word.endswith(self._wanted) for word in words)

    def _words(self, text: str) -> list[str]:
        """The words of a part of the context, with articles: they may be parts of other words."""
        if self._scoring.script is None:
            return text.lower().translate(_PUNCTUATION).split()
        return answer_tokens(normalize_answer(text, self._scoring.mixed_script), self._scoring.mixed_script)
