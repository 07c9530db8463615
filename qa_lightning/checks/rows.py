"""What is wrong with data, or worth a look, before anything is trained: findings with rows, counts and fixes.

Rows are streamed. What must be compared over all of them (questions and contexts) is remembered by 8 bytes of a hash.
Languages are guessed on a sample; everything else is counted on every row.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any, Literal

from qa_lightning.data.answers import occurrences
from qa_lightning.data.examples import Example, IdPlaces, check_row
from qa_lightning.data.formats import PlacedRow, shown

Severity = Literal["error", "warning", "note"]
LANGUAGE_SAMPLE = 300  # contexts
_LETTERS_LOOKED_AT = 2000  # of a context, for its script

# kind -> how bad it is, what it is called, what to do about it
ROW_FINDINGS: dict[str, tuple[Severity, str, str]] = {
    "columns": ("error", "rows without a column", "name it with --data.columns.question NAME and the like"),
    "empty": ("error", "empty or null fields", "fill them in, or --data.on_bad_rows skip leaves the rows out"),
    "type": ("error", "fields of a wrong type", "correct them, or --data.on_bad_rows skip leaves the rows out"),
    "text": ("error", "texts that are no valid Unicode", "save the file as UTF-8"),
    "duplicate_id": (
        "error",
        "ids that stand twice",
        "make them unique, or leave the id column out: ids are then made",
    ),
    "answers": ("error", "answers in another shape", "give texts and places in pairs; no answer is an empty list"),
    "misplaced": (
        "error",
        "answers that are not at their answer_start",
        "--data.on_bad_rows repair moves those that can only be meant elsewhere; correct the others",
    ),
    "unplaced": (
        "error",
        "answers without an answer_start that stand in several places, or in none",
        "add a column answer_start, or correct the text",
    ),
    "contradiction": ("error", "is_impossible against the answers", "correct one of the two"),
    "several_places": (
        "note",
        "answers whose text stands in several places of the context",
        "answer_start says which one is meant: make sure that it does",
    ),
    "asked_twice": (
        "warning",
        "questions asked twice about the same context, with different answers",
        "put the answers into one row, or correct one of them",
    ),
    "leakage": (
        "warning",
        "validation contexts that are trained on too",
        "take them out of one side, or leave --data.validation out: the data is then split by context",
    ),
}


@dataclass
class Finding:
    """One kind of thing that was found.

    Attributes:
        kind: a short name, one of `ROW_FINDINGS` or of `tokens.ROW_FINDINGS`.
        severity: ``error`` stops training, a ``warning`` costs quality, a ``note`` is good to know.
        title, fix: what it is, and the flag or the edit that helps.
        count: how often.
        rows: the first of them: ``place``, ``id`` and ``what``.
    """

    kind: str
    severity: Severity
    title: str
    fix: str
    count: int = 0
    rows: list[dict[str, str]] = field(default_factory=list)

    def add(self, place: str, row_id: str, what: str, max_rows: int) -> None:
        """Count a row, and keep it if it is one of the first ``max_rows``."""
        self.count += 1
        if len(self.rows) < max_rows:
            self.rows.append({"place": place, "id": row_id, "what": what})


@dataclass
class Report:
    """What a check found.

    Attributes:
        source: what was checked.
        facts: counts, and shares of scripts and languages, by name.
        findings: those that were found, errors first.
    """

    source: str
    facts: dict[str, Any] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def add(self, findings: list[Finding]) -> None:
        """Take in findings, errors first."""
        order = ("error", "warning", "note")
        self.findings = sorted(self.findings + findings, key=lambda one: order.index(one.severity))

    @property
    def errors(self) -> int:
        """How many things would stop training."""
        return sum(finding.count for finding in self.findings if finding.severity == "error")

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"source": self.source, "facts": self.facts, "findings": [asdict(one) for one in self.findings]}

    @classmethod
    def of_json(cls, values: dict[str, Any]) -> Report:
        """The report that `as_json` gave."""
        return cls(values["source"], values["facts"], [Finding(**one) for one in values["findings"]])


class Findings:
    """Collects findings by kind.

    Args:
        kinds: kind -> severity, title, fix.
        max_rows: rows to keep of each.
    """

    def __init__(self, kinds: dict[str, tuple[Severity, str, str]], max_rows: int) -> None:
        self._all = {kind: Finding(kind, *about) for kind, about in kinds.items()}
        self._max_rows = max_rows

    def add(self, kind: str, place: str, row_id: str, what: str) -> None:
        """Count a row."""
        self._all[kind].add(place, row_id, what, self._max_rows)

    def set_fix(self, kind: str, fix: str) -> None:
        """Say more exactly what helps."""
        self._all[kind].fix = fix

    def found(self) -> list[Finding]:
        """Those that there are."""
        return [one for one in self._all.values() if one.count]


class RowCheck:
    """Looks at rows, one after the other.

    Args:
        max_rows: rows to keep of each finding.
        other_contexts: hashes of the contexts that stand on the other side (see `context_hashes`).
    """

    def __init__(self, max_rows: int = 5, other_contexts: frozenset[int] = frozenset()) -> None:
        self.findings = Findings(ROW_FINDINGS, max_rows)
        self.rows = self.unanswerable = self.answers = 0
        self._contexts: set[int] = set()
        self._leaked: set[int] = set()
        self._asked: dict[int, int] = {}
        self._scripts: Counter[str] = Counter()
        self._sample: list[str] = []
        self._other = other_contexts
        self._places = IdPlaces()

    def close(self) -> None:
        """Forget where rows stand."""
        self._places.close()

    def place(self, findings: Iterable[Finding]) -> None:
        """Fill in where the rows of findings stand that know their ids alone."""
        for row in (row for finding in findings for row in finding.rows if not row["place"]):
            row["place"] = self._places.find(row["id"]) or ""

    def valid(self, rows: Iterable[PlacedRow]) -> Iterator[Example]:
        """Pass on the rows that nothing is wrong with; of all, note what is.

        Args:
            rows: with the usual columns.
        """
        for place, row in rows:
            self.rows += 1
            example, problems = check_row(place, row)
            name = str(row.get("id", ""))
            for problem in problems:
                what = problem.removeprefix(place).removeprefix(f" (id {name})").lstrip(": ")
                self.findings.add(problem.kind, place, name, what)
            if example is None:
                continue
            if first := self._places.add(example["id"], place):
                self.findings.add("duplicate_id", place, name, f"stands already at {first}")
                continue
            self._look(place, example)
            yield example

    def _look(self, place: str, example: Example) -> None:
        question, context, answers = example["question"], example["context"], example["answers"]
        self.unanswerable += not answers["text"]
        self.answers += len(answers["text"])
        self._look_at_context(place, example)
        for text in dict.fromkeys(answers["text"]):
            if len(found := occurrences(text, context)) > 1:
                what = f"{shown(text)} stands at {', '.join(map(str, found[:5]))}"
                self.findings.add("several_places", place, example["id"], what)
        asked = short_hash(" ".join(question.split()).lower(), context)
        said = short_hash(*sorted({text.strip().lower() for text in answers["text"]}))
        if self._asked.setdefault(asked, said) != said:
            self.findings.add("asked_twice", place, example["id"], shown(question))

    def _look_at_context(self, place: str, example: Example) -> None:
        context = example["context"]
        key = short_hash(context)
        if key not in self._contexts:
            self._contexts.add(key)
            self._scripts[script_of(context)] += 1
            # Every context up to so many, then ever fewer: spread over the data, the same each time.
            if len(self._sample) < LANGUAGE_SAMPLE:
                self._sample.append(context[:2000])
            elif key % len(self._contexts) < LANGUAGE_SAMPLE:
                self._sample[key % LANGUAGE_SAMPLE] = context[:2000]
        if key in self._other and key not in self._leaked:
            self._leaked.add(key)
            self.findings.add("leakage", place, example["id"], shown(context))

    def facts(self) -> dict[str, Any]:
        """Counts, and how contexts spread over scripts and languages."""
        return {
            "rows": self.rows,
            "contexts": len(self._contexts),
            "answers": self.answers,
            "unanswerable": self.unanswerable,
            "scripts": dict(self._scripts.most_common()),
            "languages": languages(self._sample),
        }


def context_hashes(rows: Iterable[PlacedRow]) -> frozenset[int]:
    """Of all contexts, to find them again on the other side."""
    return frozenset(short_hash(row["context"]) for _, row in rows if isinstance(row.get("context"), str))


def short_hash(*texts: str) -> int:
    """8 bytes of SHA-256."""
    digest = hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big")


def script_of(text: str) -> str:
    """The script that most letters of a text are of, by the first word of their Unicode names."""
    scripts = Counter(_script(letter) for letter in text[:_LETTERS_LOOKED_AT] if letter.isalpha())
    return scripts.most_common(1)[0][0] if scripts else "none"


@lru_cache(maxsize=65536)
def _script(letter: str) -> str:
    name = unicodedata.name(letter, "unnamed").split(" ")[0].split("-")[0]
    return name.capitalize() if name != "CJK" else name


def languages(texts: list[str]) -> dict[str, int]:
    """How many texts are of which language, as far as can be guessed; ISO 639-1 codes."""
    if not texts:
        return {}
    import py3langid  # imported late: it reads its model

    return dict(Counter(py3langid.classify(text)[0] for text in texts).most_common())
