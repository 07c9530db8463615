"""Groups questions by what can be seen of them, and finds the groups that cost most.

The cost of a group is what F1 over all questions would gain, in points, if the group did as well as all others.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qa_lightning.arrays import Float64s
from qa_lightning.checks.languages import language_of_each
from qa_lightning.metrics.bootstrap import Interval, bootstrap
from qa_lightning.pages.questions import Scored, ScoredQuestion

MAX_GROUPS = 12  # of a slice, in a report; the others are counted together
_OTHER = "all others"
_NONE = "no answer"
_CONTEXTS = 1000  # distinct contexts, at most, whose language is guessed: it takes a millisecond or two for each
_CONTEXT_START = 400  # characters that it is guessed from
_QUESTION_WORDS = re.compile(r"\b(how (?:many|much)|how|what|who|whom|whose|when|where|why|which)\b", re.IGNORECASE)
_JOINED = {"how many": "how many, how much", "how much": "how many, how much", "whom": "who", "whose": "who"}
_FIRST_WORD = re.compile(r"\w+")
_WORDS_OF_ANSWER = ((1, "1 word"), (2, "2 words"), (3, "3 words"), (5, "4 to 5"), (10, "6 to 10"))
_WORDS_OF_CONTEXT = ((100, "up to 100 words"), (150, "101 to 150"), (200, "151 to 200"), (400, "201 to 400"))
_QUARTERS = ("first quarter", "second quarter", "third quarter", "last quarter")


@dataclass(frozen=True)
class Group:
    """The questions of a slice that are alike.

    Attributes:
        name: what they have in common.
        exact, f1: their means, on 0-100.
        cost: see the module; negative for a group that is better than the others.
    """

    name: str
    exact: Interval
    f1: Interval
    cost: float


@dataclass(frozen=True)
class Slice:
    """All questions, grouped by one property.

    Attributes:
        name: the property.
        groups: the group that costs most first.
        left_out: the groups that are not listed one by one, but together.
    """

    name: str
    groups: tuple[Group, ...]
    left_out: int = 0


class Labels:
    """Collects the properties of questions, one question after the other."""

    def __init__(self, scored: Scored) -> None:
        self._scored = scored
        self._labels: dict[str, list[str]] = {name: [] for name in _PROPERTIES}
        self._first_words: list[str] = []
        self._languages: list[str] = []  # beginnings of distinct contexts
        self._context: dict[str, int] = {}
        self._language: list[int] = []  # of each question, an index into `_languages`; -1 if it is not guessed

    def add(self, question: ScoredQuestion) -> None:
        """Note the properties of the next question."""
        for name, label in _PROPERTIES.items():
            self._labels[name].append(label(question, self._scored))
        first = _FIRST_WORD.search(question.question)
        self._first_words.append(first[0].lower() if first else "")
        start = question.context[:_CONTEXT_START]
        number = self._context.get(start, -1)
        if number < 0 and len(self._context) < _CONTEXTS:
            number = self._context[start] = len(self._context)
        self._language.append(number)

    def take(self) -> dict[str, list[str]]:
        """Property -> the label of each question; empty where it is not known."""
        found = dict(self._labels)
        words = found["question word"]
        if sum(map(bool, words)) < len(words) / 2:  # not English
            common = {word for word, _ in Counter(self._first_words).most_common(MAX_GROUPS - 1)}
            words = [word if word in common else "" for word in self._first_words]
        found["question word"] = [word or "other" for word in words]
        names = language_of_each(list(self._context))
        found["language"] = [names[number] if number >= 0 else "" for number in self._language]
        return found


def slices(
    labels: Mapping[str, Sequence[str]], exact: Float64s, f1: Float64s, articles: NDArray[np.object_]
) -> list[Slice]:
    """Group the questions by each property; the slice with the group that costs most comes first.

    A property with one group says nothing, and is left out.

    Args:
        labels: property -> label of each of the N questions; questions with an empty label are left out.
        exact, f1: [N] scores, 0-1.
        articles: [N] the article of each question.
    """
    scores = 100 * np.stack([exact, f1], axis=1)
    found = [_slice(name, np.array(each, object), scores, articles) for name, each in labels.items()]
    useful = [one for one in found if len(one.groups) > 1]
    return sorted(useful, key=lambda one: -one.groups[0].cost)


def _slice(name: str, labels: NDArray[np.object_], scores: Float64s, articles: NDArray[np.object_]) -> Slice:
    known, total = labels != "", len(labels)
    labels, scores, articles = labels[known], scores[known], articles[known]
    names, which, counts = np.unique(labels, return_inverse=True, return_counts=True)
    sums = np.bincount(which, scores[:, 1], len(names))
    others = np.maximum(len(labels) - counts, 1)
    costs = np.where(counts < len(labels), (counts * (sums.sum() - sums) / others - sums) / max(total, 1), 0.0)
    by_cost, by_count = (np.argsort(-each, kind="stable").tolist() for each in (costs, counts))
    keep = list(dict.fromkeys([*by_cost[: MAX_GROUPS // 2], *by_count]))[:MAX_GROUPS]  # the costliest, and the largest
    left_out = len(names) - len(keep)
    groups = [
        Group(str(names[number]), *_intervals(scores, articles, which == number), float(costs[number]))
        for number in keep
    ]
    if left_out:
        rest = ~np.isin(which, keep)
        groups.append(Group(_OTHER, *_intervals(scores, articles, rest), _cost(scores[:, 1], rest, total)))
    return Slice(name, tuple(sorted(groups, key=lambda one: (one.name == _OTHER, -one.cost))), left_out)


def _cost(f1: Float64s, inside: NDArray[np.bool_], total: int) -> float:
    if inside.all() or not inside.any():
        return 0.0
    return float(inside.sum() / total * (f1[~inside].mean() - f1[inside].mean()))


def _intervals(scores: Float64s, articles: NDArray[np.object_], rows: NDArray[np.bool_]) -> tuple[Interval, Interval]:
    exact, f1 = bootstrap(scores[rows], articles[rows])
    return exact, f1


def _question_word(question: ScoredQuestion, scored: Scored) -> str:
    found = _QUESTION_WORDS.search(question.question)
    word = found[0].lower() if found else ""
    return _JOINED.get(word, word)


def _answer_length(question: ScoredQuestion, scored: Scored) -> str:
    if not question.golds:
        return _NONE
    return _up_to(min(len(gold.text.split()) for gold in question.golds), _WORDS_OF_ANSWER, "more than 10")


def _context_length(question: ScoredQuestion, scored: Scored) -> str:
    return _up_to(len(question.context.split()), _WORDS_OF_CONTEXT, "more than 400")


def _up_to(count: int, steps: Sequence[tuple[int, str]], more: str) -> str:
    return next((name for most, name in steps if count <= most), more)


def _place(question: ScoredQuestion, scored: Scored) -> str:
    if not question.golds:
        return _NONE
    span = question.golds[0].span
    if span is None:
        return "not in the context"
    return _QUARTERS[min(4 * span[0] // max(len(question.context), 1), 3)]


def _windows(question: ScoredQuestion, scored: Scored) -> str:
    count = len(scored.windows(question.number))
    return f"{count} window{'' if count == 1 else 's'}" if count < 4 else "4 windows or more"


def _unknown(question: ScoredQuestion, scored: Scored) -> str:
    spans = scored.unknown(question.number)
    if not spans:
        return "none"
    golds = [gold.span for gold in question.golds if gold.span]
    within = any(start < stop and begin < end for start, end in spans for begin, stop in golds)
    return "in a gold answer" if within else "elsewhere in the context"


def _article(question: ScoredQuestion, scored: Scored) -> str:
    return question.title


_PROPERTIES: dict[str, Callable[[ScoredQuestion, Scored], str]] = {
    "question word": _question_word,
    "answer length": _answer_length,
    "context length": _context_length,
    "place of the answer": _place,
    "number of windows": _windows,
    "unknown characters": _unknown,
    "article": _article,
}
