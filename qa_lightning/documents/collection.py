"""Documents that are read and cut into passages once, for any number of questions."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from qa_lightning.documents.passages import passages
from qa_lightning.documents.search import WordIndex
from qa_lightning.documents.sources import Document, OnBad, read_documents


class Extract(NamedTuple):
    """A part of a document that the model reads.

    Attributes:
        document: its index in the collection.
        start, end: character offsets in the document.
        passages: of each passage in it, its offset in the document and its score by words; empty if none was searched.
    """

    document: int
    start: int
    end: int
    passages: tuple[tuple[int, float], ...] = ()


class Collection:
    """Documents with their passages, and an index of the words in them that is made when it is first needed.

    Args:
        documents: as `sources.read_documents` returns them.
    """

    def __init__(self, documents: Sequence[Document]) -> None:
        self.documents = list(documents)
        self._passages = [passages(document.text) for document in self.documents]
        self._first = [0, *accumulate(map(len, self._passages))]  # number of each document's first passage
        self._index: WordIndex | None = None
        self._lock = threading.Lock()

    @classmethod
    def read(cls, documents: Any, on_bad: OnBad = "error") -> Collection:
        """Read documents; see `sources.read_documents`. A `Collection` is returned as it is."""
        return documents if isinstance(documents, cls) else cls(read_documents(documents, on_bad))

    def __len__(self) -> int:
        """Number of documents."""
        return len(self.documents)

    def __repr__(self) -> str:
        return f"Collection({len(self):,} documents, {self.passage_count:,} passages)"

    @property
    def passage_count(self) -> int:
        """Number of passages of all documents."""
        return self._first[-1]

    def passages_of(self, document: int) -> list[tuple[int, int]]:
        """Start and end offset of each passage of a document."""
        return self._passages[document]

    def extracts(self, question: str, candidates: int) -> list[Extract]:
        """What the model is to read: the ``candidates`` passages that share most words with the question.

        Passages that follow each other are one extract. So if there are at most ``candidates`` passages, the extracts
        are the whole documents.
        """
        if candidates >= self.passage_count:
            every = [Extract(document, 0, len(one.text)) for document, one in enumerate(self.documents)]
            return [one for one in every if self.documents[one.document].text.strip()]
        found: list[Extract] = []
        for number, score in sorted(zip(*self._searched().best(question, candidates), strict=True)):
            document = bisect_right(self._first, number) - 1
            start, end = self._passages[document][number - self._first[document]]
            passage = ((start, float(score)),)
            if found and (found[-1].document, found[-1].end) == (document, start):
                found[-1] = found[-1]._replace(end=end, passages=found[-1].passages + passage)
            else:
                found.append(Extract(document, start, end, passage))
        return [one for one in found if self.documents[one.document].text[one.start : one.end].strip()]

    def _searched(self) -> WordIndex:
        with self._lock:
            if self._index is None:
                self._index = WordIndex(
                    [
                        document.text[start:end]
                        for document, own in zip(self.documents, self._passages, strict=True)
                        for start, end in own
                    ]
                )
            return self._index
