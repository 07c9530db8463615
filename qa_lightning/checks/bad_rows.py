"""Check rows before training: each finding has a count, a fix and its first rows.

Rows are streamed. Questions and contexts are compared over all rows by 8 bytes of a hash, which stay in memory.
Languages are guessed on a sample of at most 300 contexts; everything else is counted on all rows.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from qa_lightning.checks.languages import languages_of, script_of
from qa_lightning.data.columns import MadeId
from qa_lightning.data.examples import Example, IdPlaces, check_row
from qa_lightning.data.formats import PlacedRow
from qa_lightning.data.repair import occurrences
from qa_lightning.wording import shown

Severity = Literal["error", "warning", "note"]
LANGUAGE_SAMPLE = 300  # contexts
_AT_END = 10_000  # answers at the ends of contexts, at most
_MARKED, _MARKED_SHARE = 10, 0.05  # as many questions, and as large a part of them, with one answer are no accident

OR_SKIP = ", or train with --data.on_bad_rows skip, which leaves the rows out"
# kind -> severity, title, fix
ROW_FINDINGS: dict[str, tuple[Severity, str, str]] = {
    "columns": ("error", "rows without a column", "name it, for example with --data.columns.question NAME"),
    "fields": (
        "error",
        "rows with more or fewer fields than the header",
        "put texts that hold separators or line breaks in double quotes",
    ),
    "empty": (
        "error",
        "empty or null fields",
        f"fill them in{OR_SKIP}",
    ),
    "type": (
        "error",
        "fields of a wrong type",
        f"correct them{OR_SKIP}",
    ),
    "line": (
        "error",
        "lines that cannot be read as rows",
        "write on each line one whole JSON object: a row, or a context with a list of questions as its qas",
    ),
    "text": ("error", "texts that are not valid Unicode", "save the file as UTF-8"),
    "duplicate_id": (
        "error",
        "repeated ids",
        "make them unique, or pass --data.columns.id none: ids are then made from each row's content",
    ),
    "same_row": ("error", "rows that stand twice", f"leave one of the two out{OR_SKIP}"),
    "answers": (
        "error",
        "answers in another shape",
        "give each text its answer_start; give an empty list for no answer",
    ),
    "misplaced": (
        "error",
        "answers that are not at their answer_start",
        "train with --data.on_bad_rows repair, which repairs those whose right offset is certain; correct the others",
    ),
    "unplaced": (
        "error",
        "answers without an answer_start that occur several times, or not at all",
        f"give their answer_start, or correct the text{OR_SKIP}",
    ),
    "left_out": (
        "warning",
        "bad answers of questions that have others; they are left out",
        "train with --data.on_bad_rows repair, which repairs those whose right offset is certain; correct the others",
    ),
    "contradiction": ("error", "is_impossible contradicts the answers", "correct one of the two"),
    "several_places": (
        "note",
        "answers whose text occurs several times in the context",
        "make sure that answer_start is the occurrence that is meant",
    ),
    "marker": (
        "warning",
        "questions whose answer is the same text at the end of their context",
        "if it means that there is no answer, leave these answers empty: it now counts as an answer that is found",
    ),
    "asked_twice": (
        "warning",
        "questions asked twice about the same context, with different answers",
        "put the answers into one row, or correct one of them",
    ),
    "leakage": (
        "warning",
        "validation contexts that are also trained on",
        "remove them from one side, or leave --data.validation out: the data is then split by context",
    ),
}


@dataclass
class Finding:
    """All occurrences of one kind of problem.

    Attributes:
        kind: a key of `ROW_FINDINGS` or `tokens.TOKEN_FINDINGS`.
        severity: ``error`` stops training, ``warning`` costs quality, ``note`` is good to know.
        title: what was found, as a plural noun.
        fix: the flag or the edit that helps.
        count: number of occurrences.
        rows: the first of them, with ``place``, ``id`` and ``what``.
    """

    kind: str
    severity: Severity
    title: str
    fix: str
    count: int = 0
    rows: list[dict[str, str]] = field(default_factory=list)

    def add(self, place: str, row_id: str, what: str, max_rows: int) -> None:
        """Count an occurrence, and keep it if it is one of the first ``max_rows``."""
        self.count += 1
        if len(self.rows) < max_rows:
            self.rows.append({"place": place, "id": row_id, "what": what})


@dataclass
class Report:
    """The result of a check.

    Attributes:
        source: what was checked.
        facts: by name: counts, also of scripts and languages; with a tokenizer also lengths and the best score.
        findings: errors first; empty if nothing was found.
    """

    source: str
    facts: dict[str, Any] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def add(self, findings: list[Finding]) -> None:
        """Add findings, and sort all of them: errors first, then warnings, then notes."""
        order = ("error", "warning", "note")
        self.findings = sorted(self.findings + findings, key=lambda one: order.index(one.severity))

    @property
    def errors(self) -> int:
        """Number of problems that would stop training."""
        return sum(finding.count for finding in self.findings if finding.severity == "error")

    def as_json(self) -> dict[str, Any]:
        """The report as values that ``json`` can write."""
        return {"source": self.source, "facts": self.facts, "findings": [asdict(one) for one in self.findings]}

    @classmethod
    def of_json(cls, values: dict[str, Any]) -> Report:
        """Rebuild a report from the values of `as_json`."""
        return cls(values["source"], values["facts"], [Finding(**one) for one in values["findings"]])


class Findings:
    """Collects findings by kind.

    Args:
        kinds: kind -> severity, title, fix.
        max_rows: rows to keep for each kind.
    """

    def __init__(self, kinds: dict[str, tuple[Severity, str, str]], max_rows: int) -> None:
        self._all = {kind: Finding(kind, *about) for kind, about in kinds.items()}
        self._max_rows = max_rows

    def add(self, kind: str, place: str, row_id: str, what: str) -> None:
        """Count an occurrence of ``kind``; see `Finding.rows` for the other arguments."""
        self._all[kind].add(place, row_id, what, self._max_rows)

    def set_fix(self, kind: str, fix: str) -> None:
        """Replace the fix of a kind by one that names the data's own numbers."""
        self._all[kind].fix = fix

    def leave_out(self, part: str) -> None:
        """Leave a part of fixes out, which does not help here."""
        for one in self._all.values():
            one.fix = one.fix.replace(part, "")

    def join(self, others: Iterable[Finding]) -> None:
        """Add the findings of another part of the data, after these."""
        for other in others:
            mine = self._all[other.kind]
            mine.count += other.count
            mine.rows = (mine.rows + other.rows)[: self._max_rows]

    def found(self) -> list[Finding]:
        """The findings that occurred at least once."""
        return [one for one in self._all.values() if one.count]


class RowCheck:
    """Checks rows one after the other, and collects findings and facts.

    Args:
        max_rows: rows to keep for each finding.
        other_contexts: hashes of the contexts of the other split, from `context_hashes` or of its check, to find shared
            ones.
    """

    def __init__(self, max_rows: int = 5, other_contexts: frozenset[int] = frozenset()) -> None:
        self.findings = Findings(ROW_FINDINGS, max_rows)
        self.rows = self.unanswerable = self.answers = self._valid = 0
        self._at_end: dict[str, Finding] = {}  # answer at the end of its context -> its questions
        self._max_rows = max_rows
        self._contexts_of_rows: set[int] = set()  # of all rows; the others are of valid rows
        self._contexts: set[int] = set()
        self._leaked: set[int] = set()
        self._asked: dict[int, int] = {}
        self._scripts: Counter[str] = Counter()
        self._sample: list[str] = []
        self._other = other_contexts
        self._places = IdPlaces()

    def close(self) -> None:
        """Remove the temporary file of the rows' places."""
        self._places.close()

    def add_places(self, findings: Iterable[Finding]) -> None:
        """Fill in the places of those rows of findings that have only an id."""
        for row in (row for finding in findings for row in finding.rows if not row["place"]):
            row["place"] = self._places.find(row["id"]) or ""

    def valid(self, rows: Iterable[PlacedRow]) -> Iterator[Example]:
        """Check all rows, and yield those without errors as examples.

        Args:
            rows: with the usual columns.
        """
        for place, row in rows:
            self.rows += 1
            checked = check_row(place, row)
            example, name = checked.example, str(row.get("id", ""))
            found = [(problem.kind, problem) for problem in checked.problems]
            for kind, problem in found + [("left_out", problem) for problem in checked.left_out]:
                what = problem.removeprefix(place).removeprefix(f" (id {name})").lstrip(": ")
                self.findings.add(kind, place, name, what)
            if isinstance(row.get("context"), str):
                self._contexts_of_rows.add(short_hash(row["context"]))
            if example is None:
                self._count_context(row.get("context"))
                continue
            if first := self._places.add(example["id"], place):
                made = isinstance(row.get("id"), MadeId)
                what = f"the same as {first}" if made else f"is also the id of {first}"
                self.findings.add("same_row" if made else "duplicate_id", place, name, what)
                continue
            self._valid += 1
            self._check(place, example)
            yield example
        self._end()

    def _end(self) -> None:
        """Add what is known after the last row."""
        for found in self._at_end.values():
            if found.count >= max(_MARKED, self._valid * _MARKED_SHARE):
                self.findings.join([found])
        self._at_end.clear()
        if self.rows and not self._valid:
            self.findings.leave_out(OR_SKIP)

    def _check(self, place: str, example: Example) -> None:
        question, context, answers = example["question"], example["context"], example["answers"]
        self.unanswerable += not answers["text"]
        self.answers += len(answers["text"])
        self._check_context(place, example)
        end = len(context.rstrip())
        if answers["text"] and all(
            start + len(text) == end for text, start in zip(answers["text"], answers["answer_start"], strict=True)
        ):
            self._count_at_end(place, example["id"], answers["text"][0])
        for text in dict.fromkeys(answers["text"]):
            if len(found := occurrences(text, context, 6)) > 1:
                more = " and elsewhere" if len(found) > 5 else ""
                what = f"{shown(text)} occurs at {', '.join(map(str, found[:5]))}{more}"
                self.findings.add("several_places", place, example["id"], what)
        asked = short_hash(" ".join(question.split()).lower(), context)
        answered = short_hash(*sorted({text.strip().lower() for text in answers["text"]}))
        if self._asked.setdefault(asked, answered) != answered:
            self.findings.add("asked_twice", place, example["id"], shown(question))

    def _count_at_end(self, place: str, name: str, text: str) -> None:
        """Count an answer at the end of its context; those that are rare are forgotten again."""
        known = self._at_end.setdefault(text, Finding("marker", *ROW_FINDINGS["marker"]))
        known.add(place, name, shown(text), self._max_rows)
        if len(self._at_end) > _AT_END:
            least = self._valid * _MARKED_SHARE / 2
            self._at_end = {text: found for text, found in self._at_end.items() if found.count > least}

    def _check_context(self, place: str, example: Example) -> None:
        context = example["context"]
        key = self._count_context(context)
        if key in self._other and key not in self._leaked:
            self._leaked.add(key)
            self.findings.add("leakage", place, example["id"], shown(context))

    def _count_context(self, context: Any) -> int | None:
        """Count a context, of a good row or a bad one; its hash, or None if it is no text."""
        if not isinstance(context, str) or not context.strip():
            return None
        key = short_hash(context)
        if key not in self._contexts:
            self._contexts.add(key)
            self._scripts[script_of(context)] += 1
            # The first contexts fill the sample; a later one replaces one of them, ever less often. So the sample is
            # spread over the data. The hash decides, so it is the same each time.
            if len(self._sample) < LANGUAGE_SAMPLE:
                self._sample.append(context[:2000])
            elif key % len(self._contexts) < LANGUAGE_SAMPLE:
                self._sample[key % LANGUAGE_SAMPLE] = context[:2000]
        return key

    @property
    def contexts(self) -> frozenset[int]:
        """Hashes of the contexts of all rows, as `context_hashes` gives them."""
        return frozenset(self._contexts_of_rows)

    def facts(self) -> dict[str, Any]:
        """Counts of rows, contexts and answers, and of contexts by script and (on the sample) by language."""
        return {
            "rows": self.rows,
            "contexts": len(self._contexts_of_rows),
            "answers": self.answers,
            "unanswerable": self.unanswerable,
            "scripts": dict(self._scripts.most_common()),
            "languages": languages_of(self._sample),
        }


def context_hashes(rows: Iterable[PlacedRow]) -> frozenset[int]:
    """Hashes of the contexts of some rows, for `RowCheck` to find the same contexts in another split."""
    return frozenset(short_hash(row["context"]) for _, row in rows if isinstance(row.get("context"), str))


def short_hash(*texts: str) -> int:
    """The first 8 bytes of the SHA-256 of some texts; a separator keeps ("ab", "c") and ("a", "bc") apart."""
    digest = hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big")
