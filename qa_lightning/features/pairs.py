"""How a tokenizer puts a question and a context together; found out from the tokenizer, not from a model's name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

IntArray = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class PairLayout:
    """The five parts of a pair: special tokens, first text, special tokens, second text, special tokens.

    Attributes:
        special: ids of the special tokens before, between and after the texts.
        special_types: their token types.
        text_types: the token type of each of the two texts.
    """

    special: tuple[list[int], list[int], list[int]]
    special_types: tuple[list[int], list[int], list[int]]
    text_types: tuple[int, int]

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> PairLayout:
        """Look at what the tokenizer makes of a pair; it must not truncate."""
        pair = tokenizer.encode("a", "a")
        owner = pair.sequence_ids
        first, second = owner.index(0), owner.index(1)
        cuts = slice(0, first), slice(first + owner.count(0), second), slice(second + owner.count(1), None)
        return cls(
            special=(pair.ids[cuts[0]], pair.ids[cuts[1]], pair.ids[cuts[2]]),
            special_types=(pair.type_ids[cuts[0]], pair.type_ids[cuts[1]], pair.type_ids[cuts[2]]),
            text_types=(pair.type_ids[first], pair.type_ids[second]),
        )

    @property
    def special_tokens(self) -> int:
        """How many special tokens a pair has."""
        return sum(map(len, self.special))

    def find(self, token: int | None) -> tuple[int, int] | None:
        """Part (0, 2 or 4) and place in it of the first special token that is ``token``; None where there is none."""
        for part, ids in enumerate(self.special):
            if token in ids:
                return 2 * part, ids.index(token)
        return None


def cut(length: int, room: int, stride: int) -> list[tuple[int, int]]:
    """Ranges of at most ``room`` tokens that cover ``length`` of them, neighbours sharing ``stride`` (< room)."""
    if length <= room:
        return [(0, length)]
    begins = range(0, length - stride, room - stride)
    return [(begin, min(begin + room, length)) for begin in begins]


def ragged(begin: IntArray, length: IntArray) -> NDArray[np.int64]:
    """Flat indices of rows end to end, where row i holds ``length[i]`` values from ``begin[i]`` on."""
    lengths = np.asarray(length, np.int64)
    ends = np.cumsum(lengths)
    places: NDArray[np.int64] = np.arange(ends[-1] if len(ends) else 0)
    places += np.repeat(begin - (ends - lengths), lengths)
    return places
