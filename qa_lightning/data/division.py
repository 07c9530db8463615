"""How one source is divided into questions to train on and questions that are held out: a share, or folds.

No context is on both sides: a model that has seen a context in training does better on its other questions than on
those of a new one. Folds also keep an article together, where titles tell articles apart.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qa_lightning.errors import InputError
from qa_lightning.wording import counted

ALL = "all"  # in place of a fold: nothing is held out


def in_validation(context: str, fraction: float, seed: int) -> bool:
    """Whether a context, with all its questions, belongs to the held-out share ``fraction`` of the contexts.

    A hash of ``seed`` and context decides, so the split does not depend on the order or number of rows.
    """
    digest = hashlib.sha256(f"{seed}\n{context}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64


def article_of(example: Mapping[str, Any]) -> str:
    """The article of a question: by its title or, without one, by a digest of its context."""
    return _named(example.get("title"), _context_of(example["context"]))


def _named(title: str | None, context: str) -> str:
    """The name of an article: its title, else what `_context_of` makes of its context."""
    return f"title {title}" if title else context


def _context_of(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


@dataclass(frozen=True)
class Fold:
    """Which questions of a source are held out, and validate: those of one fold of several; the others train.

    Args:
        number: from 1 to ``count``; 0 holds out nothing, so that all train.
        count: number of folds.
        seed: decides between groups of equal size.
    """

    number: int
    count: int
    seed: int

    @classmethod
    def of(cls, given: str, seed: int) -> Fold:
        """The fold that is written as ``2/5``, the second of five, or ``all``: none is held out.

        Raises:
            InputError: it is written in another way.
        """
        if given == ALL:
            return cls(0, 1, seed)
        found = re.fullmatch(r"(\d+)/(\d+)", given)
        number, count = map(int, found.groups()) if found else (0, 0)
        if not 1 <= number <= count or count < 2:
            raise InputError(
                f"--data.fold is {given!r}; it must be a fold such as 2/5, the second of five, or {ALL}, which trains "
                "on all questions and validates on none"
            )
        return cls(number, count, seed)

    @property
    def holds_out(self) -> bool:
        """Whether there are questions to validate on."""
        return self.number > 0

    def held_out(self, groups: Groups) -> NDArray[np.bool_]:
        """[N] whether each question is held out.

        Raises:
            InputError: there are fewer groups than folds.
        """
        return np.equal(groups.folds(self.count, self.seed), self.number)


@dataclass(frozen=True)
class Groups:
    """Questions that belong to one fold: those of an article, if titles tell several apart, else those of a context.

    Attributes:
        names: [N] the group of each question; the same whatever the order of the questions.
        by: what groups are, ``article`` or ``context``.
    """

    names: NDArray[np.object_]
    by: str

    @classmethod
    def of(cls, examples: Any) -> Groups:
        """The groups of a ``datasets.Dataset`` of examples; articles that share a context are one group."""
        titles, contexts = examples["title"], list(map(_context_of, examples["context"]))
        if len(set(filter(None, titles))) < 2:
            return cls(np.array(contexts, object), "context")
        # One context may be under two titles: the groups are what titles and contexts connect.
        known: dict[str, str] = {}  # title or context -> another one of its group; itself, if it names the group
        articles = list(map(_named, titles, contexts))
        for one, other in zip(articles, contexts, strict=True):
            first, second = sorted((_root(known, one), _root(known, other)))
            known[second] = first
        return cls(np.array([_root(known, one) for one in articles], object), "article")

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Group -> number of its questions."""
        return dict(Counter(self.names.tolist()))

    def folds(self, count: int, seed: int) -> NDArray[np.int64]:
        """[N] the fold of each question, from 1: whole groups, with about as many questions in each fold.

        The largest group comes first, each to the fold with the fewest questions so far. The seed decides the order of
        equally large ones; the order of the questions decides nothing.

        Raises:
            InputError: there are fewer groups than folds.
        """
        if len(self.sizes) < count:
            has = f"has {counted(len(self.sizes), self.by)}" + (" (by title)" if self.by == "article" else "")
            fix = f"at most {len(self.sizes)} folds" if len(self.sizes) > 1 else "data about more of them"
            raise InputError(f"the data {has}, too few for {count} folds, each of which needs one; take {fix}")
        load, fold = [0] * count, {}
        for name in sorted(self.sizes, key=lambda name: (-self.sizes[name], _drawn(name, seed))):
            fold[name] = load.index(min(load))
            load[fold[name]] += self.sizes[name]
        return np.array([1 + fold[name] for name in self.names], np.int64)


def _root(known: dict[str, str], name: str) -> str:
    """The name of the group that a title or context is in so far; shortens the way there."""
    way: Sequence[str] = ()
    while (above := known.setdefault(name, name)) != name:
        way, name = (*way, name), above
    known |= dict.fromkeys(way, name)
    return name


def _drawn(name: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\n{name}".encode("utf-8", "surrogatepass")).digest()
