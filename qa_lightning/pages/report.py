"""The report of a model's errors: one HTML file that opens offline, and a JSON lines file with every question.

Limits: the page holds some of the questions (`ErrorReport.html`) and says so; the JSON lines file holds all. Intervals
of groups are not corrected for looking at many groups.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from qa_lightning.data.formats.limits import MAX_ROW
from qa_lightning.data.sources import also_read
from qa_lightning.errors import InputError
from qa_lightning.files import write_file
from qa_lightning.metrics.bootstrap import Difference, Interval, bootstrap, paired_bootstrap
from qa_lightning.metrics.errors import ErrorKind
from qa_lightning.pages import MAX_QUESTIONS
from qa_lightning.pages.charts import interval_bar
from qa_lightning.pages.html import as_bytes, framed, make_page
from qa_lightning.pages.marks import cut_short
from qa_lightning.pages.questions import Scored, ScoredQuestion
from qa_lightning.pages.records import shown_question
from qa_lightning.pages.slices import Labels, Slice, slices
from qa_lightning.pages.trust import trust_values
from qa_lightning.wording import counted

_MAX_BYTES = 3_000_000  # of the questions in the page, about
_EACH = 100  # questions of each kind that the page has room for, before others
_NAME = 200  # characters of the name of a model, or of a group
_SAME = 0.05  # points: a smaller difference is written as 0.0
_RIGHT = 50  # right answers in the page: those that the model is least sure of
_OF_A_ROW = {"prediction", "score", "exact", "f1", "kind", "doubt", "n_best"}  # keys by which a report's row is known
_IN_NOTEBOOK, _FRAME = 150, 900  # questions and pixels of a report in a notebook


@dataclass(frozen=True)
class ErrorReport:
    """A report of the errors of a model, maybe against another one on the same questions.

    In a notebook, it shows itself.

    Args:
        scored: the model's answers.
        against: another model's answers to the same questions.
    """

    scored: Scored
    against: Scored | None = None

    def __post_init__(self) -> None:
        """Refuse to compare answers to different questions.

        Raises:
            InputError: the two models did not answer the same questions.
        """
        if self.against is not None and self._ids(self.scored) != self._ids(self.against):
            raise InputError(f"{self.scored.model} and {self.against.model} did not answer the same questions")

    def __repr__(self) -> str:
        """The names of model and data, and the scores."""
        scores = ", ".join(f"{each['name']} {each['interval'].mean:.2f}" for each in self._headline[:2])
        return f"ErrorReport({self.scored.model!r}, {self.scored.data!r}: {scores})"

    def _repr_html_(self) -> str:
        return framed(self.html(_IN_NOTEBOOK), _FRAME)

    @staticmethod
    def _ids(scored: Scored) -> list[str]:
        ids: list[str] = scored.predictions.examples[scored.predictions.index.tolist()]["id"] if len(scored) else []
        return ids

    @cached_property
    def _seen(self) -> tuple[NDArray[np.object_], NDArray[np.float64], dict[str, list[str]]]:
        """[N] kind, [N] doubt, and labels of all questions; one pass over them."""
        labels = Labels(self.scored)
        kinds, doubts = np.empty(len(self.scored), object), np.zeros(len(self.scored))
        for question in self.scored.questions():
            kinds[question.number], doubts[question.number] = question.kind, question.doubt
            labels.add(question)
        return kinds, doubts, labels.take()

    @cached_property
    def slices(self) -> list[Slice]:
        """The questions in groups, the slice with the group that costs most first."""
        return slices(self._seen[2], *self.scored.scores, self.scored.outcomes.article)

    @cached_property
    def kinds(self) -> dict[ErrorKind, int]:
        """How many answers are wrong in which way, and how many are right."""
        found = Counter(self._seen[0].tolist())
        return {kind: found[kind] for kind in ErrorKind}

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """``exact`` and ``f1`` on 0-100 of all questions and, in SQuAD v2.0, of ``HasAns`` and ``NoAns``."""
        exact, f1 = self.scored.scores
        has, article = self.scored.outcomes.has_answer, self.scored.outcomes.article
        rows = {"": np.ones(len(has), bool)}
        if self.scored.version_2:
            rows |= {"HasAns_": has, "NoAns_": ~has}
        table = 100 * np.stack([exact, f1], axis=1)
        return {
            f"{prefix}{name}": interval
            for prefix, some in rows.items()
            if some.any() or not prefix
            for name, interval in zip(("exact", "f1"), bootstrap(table[some], article[some]), strict=True)
        }

    @cached_property
    def differences(self) -> dict[str, Difference]:
        """``exact`` and ``f1``: points on 0-100 that the model is better than the other; empty without another."""
        if self.against is None:
            return {}
        pairs = zip(self.scored.scores, self.against.scores, strict=True)
        article = self.scored.outcomes.article
        return {
            name: paired_bootstrap(100 * ours, 100 * theirs, article)
            for name, (ours, theirs) in zip(("exact", "f1"), pairs, strict=True)
        }

    @cached_property
    def won(self) -> NDArray[np.int64]:
        """[N] 1 for a question that only this model answers right, -1 for one that only the other does, else 0."""
        theirs = self.scored.scores[0] if self.against is None else self.against.scores[0]
        return np.sign(self.scored.scores[0] - theirs).astype(np.int64)

    @property
    def lines(self) -> list[str]:
        """The scores with their intervals, and how the models compare, in sentences."""
        scores = [f"{one['name']} {one['interval'].mean:.2f}{_range(one['interval'])}" for one in self._headline]
        return [f"{', '.join(scores)}; {self._ranges}", *self.verdicts.values()]

    @property
    def verdicts(self) -> dict[str, str]:
        """``f1`` and ``exact``: how much better one model is, in a sentence; empty without another model."""
        if self.against is None:
            return {}
        return {key: self._verdict(key, name, self.against.model) for key, name in (("f1", "F1"), ("exact", "EM"))}

    def _verdict(self, key: str, name: str, other: str) -> str:
        gain, is_clear = self.differences[key].gain, self.differences[key].is_clear
        names, ends = (self.scored.model, other), (gain.low, gain.high)
        if gain.mean < 0:
            names, ends = names[::-1], (-gain.high, -gain.low)
        if abs(gain.mean) < _SAME:
            found = f"{names[0]} and {names[1]} have about the same {name}"
        else:
            how = "is better than" if is_clear else "scores higher here than"
            found = f"{names[0]} {how} {names[1]} by {abs(gain.mean):.1f} {name}"
        interval = f", 95% interval of the difference {ends[0]:.1f} to {ends[1]:.1f}" if gain.is_known else ""
        return f"{'' if is_clear else 'No clear difference: '}{found}{interval}"

    @property
    def _headline(self) -> list[dict[str, Any]]:
        names = {"exact": "EM", "f1": "F1"}
        parts = {"HasAns": " with an answer", "NoAns": " without one"}
        shown = []
        for key, interval in self.intervals.items():
            part, _, score = key.rpartition("_")
            shown.append({"name": names[score] + parts.get(part, ""), "interval": interval, "key": key})
        return shown

    def chosen(self, limit: int = MAX_QUESTIONS) -> list[int]:
        """The questions for the page, at most ``limit``: of each kind in turn the one that the model is surest of.

        What looks like wrong gold, what a comparison won and lost, and right answers are kinds, too. So each has its
        place wherever the list is cut.
        """
        kinds, doubts, _ = self._seen
        sure = self.scored.judged.confidence
        surest = np.argsort(-sure, kind="stable")
        wrong = [int(number) for number in surest if kinds[number] is not ErrorKind.RIGHT]
        parts = [[number for number in wrong if kinds[number] is kind][:_EACH] for kind in ErrorKind]
        parts.append([number for number in np.argsort(-doubts, kind="stable").tolist() if doubts[number]][:_EACH])
        parts += [[int(number) for number in surest if self.won[number] == side][:_EACH] for side in (1, -1)]
        parts.append([int(number) for number in surest[::-1] if kinds[number] is ErrorKind.RIGHT][:_RIGHT])
        turns = max(map(len, parts), default=0)
        mixed = [part[turn] for turn in range(turns) for part in parts if turn < len(part)]
        return list(dict.fromkeys([*mixed, *wrong]))[:limit]

    def html(self, questions: int = MAX_QUESTIONS) -> str:
        """The page.

        Args:
            questions: how many of them it holds, at most; fewer if they are very long.
        """
        records, numbers = self._records(self.chosen(questions))
        kinds, doubts, _ = self._seen
        listed = Counter(kinds[number] for number in numbers)
        filters = [(kind.name, kind.value, kind.meaning, self.kinds[kind], listed[kind]) for kind in ErrorKind]
        wrong = len(self.scored) - self.kinds[ErrorKind.RIGHT]
        trust = trust_values(self.scored)
        values = {
            "report": self,
            "headline": self._headline,
            "filters": [one for one in filters if one[3] and one[0] != "RIGHT"],
            "right": next(one for one in filters if one[0] == "RIGHT"),
            "wrong": (wrong, sum(record["k"] != 0 for record in records)),
            "doubted": (int((doubts > 0).sum()), sum(record["d"] > 0 for record in records)),
            "fights": self._fights,
            "listed": len(records),
            "trust": trust,
            "ranges": self._ranges,
            "counted": counted,
            "bar": _bar,
            "short": _short,
        }
        data = {
            "questions": records,
            "kinds": [[kind.name, kind.value, kind.meaning] for kind in ErrorKind],
            "curve": trust["curve"],
            "thresholds": trust["thresholds"],
            "models": [_short(one.model) for one in (self.scored, self.against) if one is not None],
        }
        return make_page("report", values, data)

    @property
    def _ranges(self) -> str:
        """What the ranges behind the scores are, in words."""
        interval = self.intervals["f1"]
        if not interval.is_known:
            return "one question has no interval"
        return f"95% intervals, resampling {interval.units:,} {interval.unit}"

    @property
    def _fights(self) -> list[tuple[str, str, int]]:
        """Filter, model, and how many questions only that model answers right; empty without another model."""
        if self.against is None:
            return []
        sides = (("won", self.scored.model, 1), ("lost", self.against.model, -1))
        return [(name, model, int((self.won == side).sum())) for name, model, side in sides]

    def _records(self, numbers: list[int]) -> tuple[list[dict[str, Any]], list[int]]:
        """What the page holds of some questions, and of which: those that fit into `_MAX_BYTES`."""
        records: list[dict[str, Any]] = []
        kept: list[int] = []
        size = 0
        for question, other in self._pairs(numbers):
            record = shown_question(question, other, int(self.won[question.number]))
            size += len(as_bytes(json.dumps(record, ensure_ascii=False)))
            if size > _MAX_BYTES and records:
                break
            records.append(record)
            kept.append(question.number)
        return records, kept

    def _pairs(self, numbers: list[int] | None = None) -> Iterator[tuple[ScoredQuestion, ScoredQuestion | None]]:
        """Questions with this model's answers, and the same ones with the other's."""
        if self.against is None:
            yield from ((question, None) for question in self.scored.questions(numbers))
        else:
            yield from zip(self.scored.questions(numbers), self.against.questions(numbers), strict=True)

    def write(self, path: str | PathLike[str], questions: int = MAX_QUESTIONS) -> list[Path]:
        """Write the page to ``path``, and all questions to a ``.jsonl`` file beside it; returns both.

        Raises:
            InputError: the ``.jsonl`` file would replace one that is not a report's, or the data.
            OSError: they cannot be written.
        """
        page = Path(path)
        if problem := would_replace(page, self.scored.data):
            raise InputError(problem)
        lines = page.with_suffix(".jsonl")
        write_file(lines, self._write_lines)
        write_file(page, as_bytes(self.html(questions)))
        return [page, lines]

    def _write_lines(self, file: IO[bytes]) -> None:
        labels = self._seen[2]
        for question, other in self._pairs():
            values = question.as_json()
            values["slices"] = {name: each[question.number] for name, each in labels.items() if each[question.number]}
            if other is not None:
                theirs = other.as_json()
                values["against"] = {name: theirs[name] for name in ("prediction", "score", "exact", "f1", "kind")}
            file.write(as_bytes(json.dumps(values, ensure_ascii=False) + "\n"))


def would_replace(page: Path, data: str) -> str | None:
    """What is wrong if the file beside a page would replace one of ``data``, or one that no report wrote; else None.

    So it is if the file would be read as data once it is there.
    """
    lines = page.with_suffix(".jsonl")
    if lines == page:
        return (
            f"{page}: the questions are written to a file of this name; give the page another one, such as report.html"
        )
    if not lines.exists():
        what = f"be written to {lines}, and would be read as data" if _is_data(lines, data) else ""
    elif _is_data(lines, data):
        what = f"replace {lines}, and it is the data"
    else:
        what = "" if _is_a_report(lines) else f"replace {lines}, and no report wrote it"
    return f"{page}: the questions would {what}; give the page another name" if what else None


def _is_data(lines: Path, data: str) -> bool:
    try:
        return bool(also_read([lines], {"--data": data}))
    except (OSError, ValueError, RuntimeError):  # no name of files
        return False


def _is_a_report(lines: Path) -> bool:
    """Whether the first row is a report's; also if there is none."""
    try:
        with lines.open("rb") as file:
            first = file.readline(MAX_ROW)
        row = json.loads(first) if first else dict.fromkeys(_OF_A_ROW)
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(row, dict) and row.keys() >= _OF_A_ROW


def _range(interval: Interval) -> str:
    return f" ({interval.low:.1f} to {interval.high:.1f})" if interval.is_known else ""


def _short(name: str) -> str:
    return cut_short(name, _NAME)


def _bar(interval: Interval, reference: float) -> str:
    """The picture of an interval, with a line at the mean of all questions."""
    return interval_bar(interval.low, interval.mean, interval.high, reference)
