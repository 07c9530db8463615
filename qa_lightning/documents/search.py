"""The first stage: find the passages that share words with a question, by BM25 over an index of all passages.

It only narrows down what the model reads. Words are runs of letters and digits without case, on each side of an
apostrophe ("l'eau"), but for an English "'s"; scripts that write without spaces count by single signs and pairs of
neighbours. Limit: words are compared as they are, so "lives" does not find "live".

An index is cached in the folder of prepared data under a digest of the passages, and built again when they change.
"""

from __future__ import annotations

import hashlib
import logging
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qa_lightning.caching import build_once, default_cache_dir
from qa_lightning.errors import InputError

FOLDER = "documents"
_FORMAT = 2  # of the words and the index; another number builds every index again
_MIN_CACHED = 2000  # passages; a smaller index takes a moment to build
# Han, kana, Thai, Lao, Myanmar and Khmer, which write without spaces between words.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff"
# Devanagari to Sinhala, without the danda: their vowel signs are marks, without which words are others.
_INDIC = "\u0900-\u0963\u0966-\u0dff"
_WORD = re.compile(rf"[{_UNSPACED}]+|(?:[^\W_{_UNSPACED}]|[{_INDIC}])+")
_POSSESSIVE = re.compile(r"(?<=\w)['’]s\b")  # of "Tesla's"
_IS_UNSPACED = re.compile(rf"[{_UNSPACED}]")
_KEEPS_MARKS = re.compile(rf"[{_UNSPACED}{_INDIC}]")


def words(text: str) -> list[str]:
    """The words of a text, for comparison: without case, width and accents."""
    plain = text if text.isascii() else _without_accents(text)
    found: list[str] = []
    for run in _WORD.findall(_POSSESSIVE.sub("", plain.casefold())):
        if _IS_UNSPACED.match(run):
            found += [*run, *(run[at : at + 2] for at in range(len(run) - 1))]
        else:
            found.append(run)
    return found


def _without_accents(text: str) -> str:
    letters = unicodedata.normalize("NFKD", text)
    kept = (letter for letter in letters if unicodedata.category(letter) != "Mn" or _KEEPS_MARKS.match(letter))
    return unicodedata.normalize("NFC", "".join(kept))


class WordIndex:
    """BM25 (k1 1.5, b 0.75) over passages.

    Args:
        passages: their texts, in order.
        cache_dir: the folder of caches; None takes `files.default_cache_dir`.
        keep: whether an index of many passages is written there.

    Raises:
        InputError: the index cannot be written.
    """

    def __init__(self, passages: Sequence[str], cache_dir: Path | None = None, keep: bool = True) -> None:
        self._index: Any
        self._count = len(passages)
        if not keep or len(passages) < _MIN_CACHED:
            self._index = _built(passages)
            return
        bm25s = _library()
        folder = (cache_dir or default_cache_dir()) / FOLDER / _digest(passages)
        build_once(folder, lambda part: _built(passages).save(str(part), show_progress=False))
        self._index = bm25s.BM25.load(str(folder), mmap=True, show_progress=False)

    def best(self, question: str, count: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The ``count`` passages that share most with the question, best first; ties in reading order.

        Returns:
            Their indices and their scores, [count] each.
        """
        known = self._index.get_tokens_ids(words(question))
        scores = np.zeros(self._count) if not known else np.asarray(self._index.get_scores_from_ids(known), np.float64)
        order = np.argsort(-scores, kind="stable")[:count]
        return order, scores[order]


def _built(passages: Sequence[str]) -> Any:
    index = _library().BM25(k1=1.5, b=0.75, method="lucene")
    index.index([words(passage) for passage in passages], show_progress=False)
    return index


def _library() -> Any:
    try:
        import bm25s
    except ImportError:
        raise InputError(
            "narrowing down many documents needs bm25s: `pip install bm25s`; or raise --candidates to the number of "
            "passages, which reads them all"
        ) from None
    logging.getLogger("bm25s").setLevel(logging.WARNING)  # it sets DEBUG, and would print to whoever logs
    return bm25s


def _digest(passages: Sequence[str]) -> str:
    found = hashlib.sha256(f"{_FORMAT} {_library().__version__}\n".encode())
    for passage in passages:
        content = passage.encode()
        found.update(b"%d\n" % len(content))
        found.update(content)
    return found.hexdigest()[:32]
