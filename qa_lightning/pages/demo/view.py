"""The page to ask in, as HTML: the answers as bars, the text with its answers and windows marked.

All text goes through `marking.inert`. What moves is in ``page.js``: it finds elements by the attributes written here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from qa_lightning.documents.collection import Extract
from qa_lightning.documents.markup import PAGE_END
from qa_lightning.documents.sources import Document
from qa_lightning.marking import Tag, inert, tagged
from qa_lightning.models.settings import AnswerSettings
from qa_lightning.pages.demo.answers import Asked, AtThreshold
from qa_lightning.wording import counted

_SHOWN_WINDOWS = 200  # on the map and in the text
_SHOWN_TEXT = 90  # characters of an answer in its row
_LINE_END = "\n"  # a page of a PDF is shown to end so; of the same length, as offsets count
_LANES = 3  # rows of the map of windows: neighbours overlap, and never stand in the same one


class Panel(NamedTuple):
    """What stands beside the text: the answer in large, and the rows below it."""

    headline: str
    rows: str


WELCOME = Panel('<p class="qa-hint">Press <kbd>Enter</kbd> to ask. The answer is marked in the text.</p>', "")


def problem_panel(problems: Sequence[str]) -> Panel:
    """What is wrong, in the place of the answer."""
    lines = "".join(f"<p>{inert(_sentence(problem))}</p>" for problem in problems)
    return Panel(f'<div class="qa-problem" role="alert">{lines}</div>', "")


def _sentence(problem: str) -> str:
    """A problem as a sentence; one that begins with the name of a file keeps it as it is."""
    text = problem[:1].upper() + problem[1:] if problem.partition(" ")[0].isalpha() else problem
    return text if text.endswith((".", "!", "?", "`")) else f"{text}."


def answers_panel(asked: Asked, judgement: AtThreshold, settings: AnswerSettings) -> Panel:
    """The answer, and a row with a bar for each candidate, for "no answer" and for the rest."""
    best = judgement.best
    rows = [
        _row(number, one.text, one.where, judgement.probabilities[number], number == best)
        for number, one in enumerate(asked.found)
    ]
    if settings.version_2:
        null = judgement.null
        chosen = " qa-chosen" if best is None else ""
        rank = next((rank for rank, other in enumerate(judgement.probabilities) if other < null), len(rows))
        rows.insert(rank, f'<li class="qa-other{chosen}">{_bar("No answer", null)}</li>')
    rest = "All other spans" if settings.version_2 else "All other spans and “no answer”"
    rows.append(f'<li class="qa-other">{_bar(rest, judgement.rest)}</li>')
    return Panel(
        _headline(asked, judgement, settings),
        f'<section class="qa-answers" data-best="{"" if best is None else best}">'
        f'<ol class="qa-rows" aria-label="Answers, by probability">{"".join(rows)}</ol>'
        f"{_windows(asked, settings)}</section>",
    )


def _headline(asked: Asked, judgement: AtThreshold, settings: AnswerSettings) -> str:
    if judgement.best is not None:
        one = asked.found[judgement.best]
        where = f'<p class="qa-where">{inert(one.where)}</p>' if one.where else ""
        said = f'<p class="qa-answer" dir="auto">{inert(_short(one.text, 300))}</p>{where}'
    elif settings.version_2:
        said = '<p class="qa-answer qa-none">The text does not answer it.</p>'
    elif asked.found:
        said = '<p class="qa-answer qa-none">No answer is likely enough.</p>'
    else:
        said = '<p class="qa-answer qa-none">The text holds nothing that could be an answer.</p>'
    return f'<div aria-live="polite"><h2>Answer</h2>{said}</div>'


def _row(number: int, text: str, where: str, probability: float, is_best: bool) -> str:
    place = f'<span class="qa-where">{inert(where)}</span>' if where else ""
    return (
        f'<li><button type="button" class="qa-chip" data-answer="{number}" aria-pressed="{str(is_best).lower()}">'
        f"{_bar(_short(text, _SHOWN_TEXT), probability)}{place}</button></li>"
    )


def _bar(text: str, probability: float) -> str:
    """A text, its probability, and a bar of that length."""
    percent = 100 * probability
    shown = "< 0.1" if percent < 0.1 else "> 99.9" if percent > 99.9 else f"{percent:.1f}"
    return (
        f'<span class="qa-text" dir="auto">{inert(text)}</span><span class="qa-percent">{inert(shown)}%</span>'
        f'<span class="qa-bar" aria-hidden="true"><i style="width:{percent:.2f}%"></i></span>'
    )


def _short(text: str, limit: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def _windows(asked: Asked, settings: AnswerSettings) -> str:
    """How the text was read: a line, and on demand a map of the windows; `page.js` then shows their edges in it."""
    shown = asked.windows[:_SHOWN_WINDOWS]
    notes = [f"each of at most {settings.max_length} tokens; neighbours share {settings.doc_stride}"]
    if len(asked.windows) == 1:
        notes = [f"all of the text at once; a window has at most {settings.max_length} tokens"]
    if len(asked.windows) > len(shown):
        notes.append(f"the first {len(shown)} are shown")
    if asked.passages_left:
        notes.append(f"{counted(asked.passages_left, 'passage')} with too few words of the question were not read")
    best = asked.found[0].place if asked.found else None
    drawn = _map(shown, best) if len(shown) > 1 else ""
    return (
        f'<details class="qa-windows"><summary>{counted(len(asked.windows), "window")}'
        f'<span class="qa-time">{asked.seconds:.2f} s</span></summary>'
        f"{drawn}<p>{_sentence('; '.join(notes))}</p></details>"
    )


def _map(windows: Sequence[Extract], best: Extract | None) -> str:
    """The windows of each document as bars over its length, with a line where the likeliest answer is."""
    by_document: dict[int, list[Extract]] = defaultdict(list)
    for one in windows:
        by_document[one.document].append(one)
    strips = []
    for document, own in by_document.items():
        ends = [one.end for one in (*own, best) if one is not None and one.document == document]
        length = max(ends) or 1
        bars = [
            f'<i style="left:{100 * one.start / length:.2f}%;width:{100 * (one.end - one.start) / length:.2f}%;'
            f'top:{7 * (number % _LANES)}px"></i>'
            for number, one in enumerate(own)
        ]
        if best is not None and best.document == document:
            bars.append(f'<b style="left:{100 * best.start / length:.2f}%"></b>')
        strips.append(f'<div class="qa-map" aria-hidden="true">{"".join(bars)}</div>')
    return "".join(strips)


def marked_text(documents: Sequence[Document], asked: Asked) -> str:
    """The documents, with all candidates and edges of windows marked; `page.js` lights one candidate up."""
    tags: dict[int, list[tuple[int, int, str]]] = defaultdict(list)  # offset, rank at one offset, HTML
    for number, one in enumerate(asked.found):
        place = one.place
        tags[place.document] += [
            (place.start, 2, f'<mark id="qa-answer-{number}" data-answer="{number}">'),
            (place.end, 0, "</mark>"),
        ]
    windows = asked.windows[:_SHOWN_WINDOWS] if len(asked.windows) > 1 else ()
    for number, window in enumerate(windows, 1):
        tags[window.document] += [
            (window.start, 1, f'<i class="qa-edge" data-edge="{number} begins"></i>'),
            (window.end, 1, f'<i class="qa-edge" data-edge="{number} ends"></i>'),
        ]
    parts = []
    for number, document in enumerate(documents):
        own = [Tag(offset, html) for offset, _, html in sorted(tags[number])]
        name = f"<h2>{inert(document.id)}</h2>" if len(documents) > 1 or document.path else ""
        parts.append(
            f'<article class="qa-document">{name}<div class="qa-body" dir="auto" data-document="{number}">'
            f"{tagged(document.text.replace(PAGE_END, _LINE_END), own)}</div></article>"
        )
    return f'<div class="qa-pages" tabindex="0" aria-label="The text, with its answers marked">{"".join(parts)}</div>'
