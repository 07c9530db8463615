"""An answer with the document that holds it: offsets, sentence, page and line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from qa_lightning.documents.collection import Collection
from qa_lightning.documents.markup import PAGE_END
from qa_lightning.documents.passages import passages_around, sentence_around
from qa_lightning.documents.sources import Document
from qa_lightning.marking import answer_card


@dataclass(frozen=True)
class DocumentAnswer:
    """An answer to a question, from one of several documents.

    Attributes:
        question: what was asked.
        text: the answer, exactly ``document.text[start:end]``; empty for "no answer".
        score: probability, normalised over all spans of everything that was read and "no answer".
        document: holds the answer; None for "no answer".
        start, end: character offsets in the document, end exclusive; both 0 for "no answer".
        sentence: the sentence around the answer, and perhaps several.
        sentence_start: offset of the sentence in the document.
        context: the passage around the answer.
        context_start: offset of the passage in the document.
        page: number from 1, if the document has several pages (form feeds in its text); else None.
        line: number from 1 in the file, for text and Markdown files; else None.
    """

    question: str
    text: str
    score: float
    document: Document | None = None
    start: int = 0
    end: int = 0
    sentence: str = ""
    sentence_start: int = 0
    context: str = ""
    context_start: int = 0
    page: int | None = None
    line: int | None = None

    @classmethod
    def at(
        cls, question: str, score: float, collection: Collection, document: int, start: int, end: int
    ) -> DocumentAnswer:
        """The answer at these offsets of a document.

        Args:
            question, score: see the class.
            collection: has the document.
            document: index of the document in it.
            start, end: character offsets in the document.
        """
        own = collection.documents[document]
        text = own.text
        first, last = sentence_around(text, start, end)
        begin, stop = passages_around(collection.passages_of(document), start, end)
        return cls(
            question,
            text[start:end],
            score,
            own,
            start,
            end,
            text[first:last],
            first,
            text[begin:stop],
            begin,
            text.count(PAGE_END, 0, start) + 1 if PAGE_END in text else None,
            text.count("\n", 0, start) + 1 if own.has_lines else None,
        )

    @property
    def place(self) -> str:
        """Where the answer is, for people: the document's id, and page or line; empty for "no answer"."""
        if self.document is None:
            return ""
        return self.document.id + (f" page {self.page}" if self.page else f" line {self.line}" if self.line else "")

    def _repr_html_(self) -> str:
        """The answer marked in its passage, for notebooks."""
        start, end = self.start - self.context_start, self.end - self.context_start
        return answer_card(self.question, self.context, start, end, self.score, self.place)

    def as_dict(self) -> dict[str, Any]:
        """The answer as a dict for JSON, with the names of haystack's ``ExtractedAnswer``.

        ``document_offset``, ``context_offset`` and ``sentence_offset`` are the offsets of the answer in the document,
        in ``context`` and in ``sentence``. For "no answer", ``data`` and all that belongs to a document are None.
        """
        data = None if self.document is None else self.text
        return {"query": self.question, "data": data, "score": self.score, **self.about()}

    def about(self) -> dict[str, Any]:
        """What `as_dict` says beside question, answer and score."""
        if self.document is None:
            nothing = ("document", "document_offset", "context", "context_offset", "sentence", "sentence_offset")
            return {**dict.fromkeys(nothing), "meta": {}}
        found = {"page_number": self.page, "line_number": self.line}
        return {
            "document": {"id": self.document.id, "meta": dict(self.document.meta)},
            "document_offset": self._offset(0),
            "context": self.context,
            "context_offset": self._offset(self.context_start),
            "sentence": self.sentence,
            "sentence_offset": self._offset(self.sentence_start),
            "meta": {name: value for name, value in found.items() if value is not None},
        }

    def _offset(self, begin: int) -> dict[str, int]:
        return {"start": self.start - begin, "end": self.end - begin}
