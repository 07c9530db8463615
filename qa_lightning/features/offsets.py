"""Compute the characters that each context token covers: without outer white space, with marks that normalizers drop.

Tokens of byte-level and SentencePiece tokenizers cover the space before their word, which belongs to no answer. If a
normalizer drops or composes accents, no token covers them; here they belong to the letter before them. So do the
letters of a Hangul syllable and the voiced marks of halfwidth kana, which normalizers compose, too.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding

_VOWELS, _FINALS = ("\u1161", "\u1175"), ("\u11a8", "\u11c2")  # of Hangul: the letters that compose with one before
# str.isspace for every code point up to the last one for which it holds
_SPACE = np.array([chr(code).isspace() for code in range(0x3002)])


def offsets_without_space(
    encodings: Sequence[Encoding], texts: Sequence[str]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Compute the span of characters that each token covers, without white space at its edges.

    Args:
        encodings: the tokens of each context.
        texts: the contexts.

    Returns:
        Start and end (exclusive) of each token, flat over all contexts; offsets count from the token's own context.
        start == end marks a token without characters.
    """
    parts = [np.fromiter(chain.from_iterable(encoding.offsets), np.int32, 2 * len(encoding)) for encoding in encodings]
    flat = np.concatenate([*parts, np.zeros(0, np.int32)])
    starts, ends = flat[::2].copy(), flat[1::2].copy()
    codes = np.frombuffer("".join(texts).encode("utf-32-le"), np.uint32)  # all texts end to end
    sizes = np.array([len(text) for text in texts], np.int64)
    shift = np.repeat(sizes.cumsum() - sizes, [len(encoding) for encoding in encodings])
    space = _SPACE[np.minimum(codes, len(_SPACE) - 1)]
    first, last = shift + starts, shift + ends - 1
    covers = ends > starts
    if space[first[covers]].any() or space[last[covers]].any():  # SentencePiece and byte-level tokenizers
        index = np.arange(len(codes))
        next_start = np.minimum.accumulate(np.where(space, len(codes), index)[::-1])[::-1]
        previous_end = np.maximum.accumulate(np.where(space, 0, index + 1))
        # A token of white space alone has no character left: its start moves to its end.
        starts[covers] = np.minimum(next_start[first[covers]] - shift[covers], ends[covers])
        ends[covers] = np.maximum(previous_end[last[covers]] - shift[covers], starts[covers])
    loose = _joining(codes)
    if loose.any():
        edges = np.zeros(len(codes) + 1, np.int64)
        np.add.at(edges, first[covers], 1)
        np.add.at(edges, last[covers] + 1, -1)
        loose &= np.cumsum(edges[:-1]) == 0  # only what no token covers
        loose[(sizes.cumsum() - sizes)[sizes > 0]] = False  # a mark that begins a text has no letter before it
        kept = np.minimum.accumulate(np.where(np.append(loose, False), len(codes), np.arange(len(codes) + 1))[::-1])
        covers = ends > starts
        ends[covers] = kept[::-1][(shift + ends)[covers]] - shift[covers]
    return starts, ends


def _joining(codes: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """Whether each code point joins the one before it: a combining mark, or what composes as one does.

    Marks are accents, vowel signs and variation selectors. The vowels and final consonants of Hangul, and the voiced
    marks of halfwidth kana, are letters to Unicode, but a normalizer composes them too, as they are or in their
    compatibility forms.
    """
    found = np.zeros(len(codes), bool)
    if len(codes) and codes.max() >= 0x300:  # the first combining mark of Unicode
        distinct = np.unique(codes[codes >= 0x300])
        marks = [code for code in distinct.tolist() if _joins(chr(code))]
        if marks:
            found = np.isin(codes, marks)
    return found


@lru_cache(maxsize=1 << 16)
def _joins(letter: str) -> bool:
    first = unicodedata.normalize("NFKD", letter)[0]  # of a halfwidth form: the usual one
    return (
        unicodedata.category(first).startswith("M")
        or _VOWELS[0] <= first <= _VOWELS[1]
        or _FINALS[0] <= first <= _FINALS[1]
    )
