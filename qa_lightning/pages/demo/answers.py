"""What the page to ask in does between a question and its answers: limits, files, the model, and the threshold."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qa_lightning.arrays import Float64s
from qa_lightning.decoding.calibrator import BestSpan, rescaled
from qa_lightning.documents.collection import Collection, Extract
from qa_lightning.documents.sources import Document, read_documents
from qa_lightning.errors import InputError
from qa_lightning.inference.asking import AskedModel, AskSettings
from qa_lightning.models.settings import AnswerSettings
from qa_lightning.pages.demo.limits import MAX_QUESTION, Limits
from qa_lightning.wording import counted

_LISTED = 6  # answers listed
PASTED = "text"  # the id of the text in the box, where it stands alone
_BATCH_SIZE = 16  # windows per forward pass; the time limit is checked between two
_ALWAYS = 3  # answers that are listed however unlikely they are
_NEGLIGIBLE = 0.001  # of the probability of all spans; a further answer with less is not listed


class AnswerSpan(NamedTuple):
    """A span that may be the answer.

    Attributes:
        text: of the span.
        place: the part of a document that it is, by the document's index.
        where: document, and page or line, for people; empty if there is only the text of the box.
        probability: at the model's own threshold, without a calibrator.
    """

    text: str
    place: Extract
    where: str
    probability: float


@dataclass(frozen=True)
class Asked:
    """The answers to one question, without the texts: small enough to be kept for every open page.

    Attributes:
        question: what was asked.
        found: spans, best first.
        null_probability: of "no answer", at the model's own threshold, without a calibrator.
        windows: what each window covers.
        passages_left: passages that were not read, as they share too few words with the question.
        seconds: from the call to the answers.
        best_span: what a calibrator reads of the best span; None without a span.
    """

    question: str
    found: tuple[AnswerSpan, ...]
    null_probability: float
    windows: tuple[Extract, ...]
    passages_left: int
    seconds: float
    best_span: BestSpan | None = None


class AtThreshold(NamedTuple):
    """The answers at a threshold.

    Attributes:
        probabilities: of each of ``Asked.found``.
        null: probability of "no answer".
        rest: probability of all other spans; with that of "no answer", which a model may have without knowing it.
        best: index of the answer; None for "no answer", or if none is likely enough.
    """

    probabilities: list[float]
    null: float
    rest: float
    best: int | None


def at_threshold(asked: Asked, settings: AnswerSettings, threshold: float) -> AtThreshold:
    """The answers at another threshold than the model's own.

    Args:
        asked: the answers.
        settings: of the model.
        threshold: if the model knows "no answer", the null odds above which that is the answer; else the lowest
            probability of an answer, 0-1.

    Returns:
        The same probabilities as if the windows were decoded at this threshold: a threshold multiplies the weight of
        "no answer" by one factor (`decoding.spans`), so the model need not run again. If the model has a calibrator,
        it turns them into scores; what they lack to 1 counts as that of other spans.
    """
    found = np.array([one.probability for one in asked.found])
    null = asked.null_probability
    if settings.version_2:
        change = (settings.null_score_diff_threshold - threshold) / settings.temperature
        weight = null * np.exp(np.clip(change, -700, 700))
        total = max(1 - null, found.sum()) + weight
        found, null = found / total, float(weight / total)
        best = 0 if len(found) and found[0] >= null else None
        found, null = _calibrated(asked, settings, found, null)
    else:
        found, null = _calibrated(asked, settings, found, null)
        best = 0 if len(found) and found[0] >= threshold else None
    rest = max(0.0, 1.0 - float(found.sum()) - (null if settings.version_2 else 0.0))
    return AtThreshold(found.tolist(), null, rest, best)


def _calibrated(asked: Asked, settings: AnswerSettings, found: Float64s, null: float) -> tuple[Float64s, float]:
    """The scores of the spans and of "no answer" if the model has a calibrator; else their probabilities."""
    calibrator = settings.scaling.calibrator
    if calibrator is None or asked.best_span is None or not len(found):
        return found, null
    is_null = settings.version_2 and null > found[0]
    every = np.append(found, null) if settings.version_2 else found  # as in `AskedModel.ask`
    best = len(found) if is_null else 0
    scores = rescaled(every, best, asked.best_span.right(float(every[best]), is_null, calibrator))
    return (scores[:-1], float(scores[-1])) if settings.version_2 else (scores, null)


class Asker:
    """Answers the questions of a page within limits; may be called by several threads at once.

    Args:
        model: answers.
        limits: what is refused.
    """

    def __init__(self, model: AskedModel, limits: Limits) -> None:
        self.settings = model.settings
        self.limits = limits
        self._model = model

    def documents(self, text: str, files: Sequence[Path]) -> list[Document]:
        """The text of the box, unless it is blank, and the files.

        Raises:
            InputError: there is nothing to read, a file cannot be read, or a limit is exceeded.
        """
        limits = self.limits
        if len(files) > limits.files:
            raise InputError(f"there are {len(files):,} files; at most {limits.files:,} are read at a time")
        documents = read_documents({"text": text, "id": PASTED}) if text.strip() else []
        names = _distinct([path.name for path in files])
        problems: list[str] = []
        for path, name in zip(files, names, strict=True):
            try:
                documents += self._of_file(path, name)
            except InputError as error:
                problems += [problem.replace(str(path), name) for problem in error.problems]
        if problems:
            raise InputError(problems)
        if not documents:
            raise InputError("there is no text to look in: paste one, or drop a file")
        if (total := sum(len(one.text) for one in documents)) > limits.characters:
            raise InputError(f"there are {total:,} characters; at most {limits.characters:,} are read at a time")
        return documents

    def _of_file(self, path: Path, name: str) -> Iterator[Document]:
        size = path.stat().st_size if path.is_file() else 0
        if size > self.limits.file_mb * 1_000_000:
            raise InputError(f"{name}: has {size:,} bytes; a file may have {self.limits.file_mb} MB")
        yield from (replace(one, id=name, path=Path(name)) for one in read_documents(path))

    def ask(self, question: str, documents: Sequence[Document]) -> Asked:
        """Answer a question.

        Raises:
            InputError: the question cannot be asked, or the time is over.
        """
        started = time.monotonic()
        if len(question) > MAX_QUESTION:
            raise InputError(f"the question has {len(question):,} characters; at most {MAX_QUESTION:,} are read")
        collection = Collection(documents, keep_index=False)  # what people paste stays in memory
        settings = AskSettings(top_k=_LISTED, batch_size=_BATCH_SIZE)
        model = replace(self._model, forward=self._timed(started))
        reading = model.read(question, collection, settings)
        alone = [one.id for one in documents] == [PASTED]
        least = _NEGLIGIBLE * (1 - reading.null_probability)
        likely = [one for number, one in enumerate(reading.answers) if number < _ALWAYS or one.score >= least]
        found = [_found(answer, documents, alone) for answer in likely]
        return Asked(
            question,
            tuple(found),
            reading.null_probability,
            tuple(reading.windows),
            max(0, collection.passage_count - settings.candidates),
            time.monotonic() - started,
            reading.best,
        )

    def _timed(self, started: float) -> Callable[[Any], Any]:
        """The forward pass of the model, until the time is over."""

        def forward(batch: Any) -> Any:
            if time.monotonic() - started > self.limits.seconds:
                raise InputError(
                    f"reading took longer than {counted_seconds(self.limits.seconds)}; ask about a shorter text, or "
                    "about fewer files"
                )
            return self._model.forward(batch)

        return forward


def _found(answer: Any, documents: Sequence[Document], alone: bool) -> AnswerSpan:
    number = next(index for index, one in enumerate(documents) if one is answer.document)
    place = Extract(number, answer.start, answer.end)
    return AnswerSpan(answer.text, place, "" if alone else answer.place, answer.score)


def counted_seconds(seconds: float) -> str:
    """``30 seconds``, ``0.5 seconds``."""
    return counted(int(seconds), "second") if seconds == int(seconds) else f"{seconds:g} seconds"


def _distinct(names: Sequence[str]) -> list[str]:
    """Names of files, with a number behind those that were there before."""
    seen: dict[str, int] = {}
    found = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return found
