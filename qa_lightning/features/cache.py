"""Prepare a split once: its examples and features are written to disk, under a key of everything that decides them.

Each combination of data and settings has folders of its own, and none is ever deleted here: disk space is the price.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from qa_lightning.data.columns import Columns, with_usual_columns
from qa_lightning.data.examples import Example, OnBadRows, in_validation, read_examples, write_examples
from qa_lightning.data.formats import counted
from qa_lightning.data.objects import GivenRows, Source, Split
from qa_lightning.data.sources import count_rows, read_rows, source_fingerprint
from qa_lightning.errors import InputError
from qa_lightning.features.store import FeatureStore, write_features
from qa_lightning.features.windows import FeatureBatch, Windower, WindowSettings, windowing_key
from qa_lightning.files import build_once
from qa_lightning.progress import loop_progress, tracked
from qa_lightning.wording import visible

log = logging.getLogger("qa_lightning")

TrainAnswers = Literal["first", "all"]
_FORMAT = 6  # of the files; raise it when their content changes
_ROWS = 1000  # examples tokenized at a time


@dataclass(frozen=True)
class PreparedSplit:
    """One split: its source, how it is cut into features, and its folders on disk.

    Args:
        split: which split.
        source: what it is read from; see `sources`.
        divided: (fraction, seed): the source is divided by context, this fraction of the contexts for validation; None
            if it is not divided.
        max_examples: take at most this many questions, the first ones; None for all.
        on_bad_rows, columns: see `SquadDataModule`.
        tokenizer: cuts the examples into features.
        settings: lengths for the tokenizer.
        cache_dir: parent of the folders.
        answers: which answers of a question label its windows.
    """

    split: Split
    source: Source
    divided: tuple[float, int] | None
    max_examples: int | None
    on_bad_rows: OnBadRows
    columns: Columns
    tokenizer: Any
    settings: WindowSettings
    cache_dir: Path
    answers: TrainAnswers = "first"

    @property
    def _part(self) -> Split:
        """The split that the source is asked for; a source that is divided here is read whole, as "train"."""
        return "train" if self.divided else self.split

    @cached_property
    def examples_folder(self) -> Path:
        """The folder of the examples; its name is a key of the source's content and all that selects examples."""
        parts = [
            _FORMAT,
            source_fingerprint(self.source, self._part),
            [self.split, *self.divided] if self.divided else None,
            self.max_examples,
            self.on_bad_rows,
            asdict(self.columns),
        ]
        return self.cache_dir / "examples" / _key(parts)

    @cached_property
    def features_folder(self) -> Path:
        """The folder of the features; its name is a key of the examples, the tokenizer and the settings."""
        parts = [
            _FORMAT,
            self.examples_folder.name,
            *windowing_key(self.tokenizer),
            asdict(self.settings),
            self.split == "validation",
            *(["all answers"] if self.answers == "all" else []),
        ]
        return self.cache_dir / "features" / _key(parts)

    def prepare(self, thorough: bool = True) -> bool:
        """Make what is not there yet, or is damaged; whether there was anything to make.

        Args:
            thorough: look for damage in every byte, as a run does once; see `files.build_once`.
        """
        made = build_once(self.examples_folder, self._write_examples, thorough)
        return build_once(self.features_folder, self._write_features, thorough) or made

    def open(self) -> tuple[FeatureStore, Any, bool]:
        """Features and examples, mapped, and whether some question has no answer."""
        self.prepare(thorough=False)  # what was removed or cut off meanwhile is not to be mapped
        unanswerable: int = self.summaries()[0]["unanswerable"]
        return FeatureStore.open(self.features_folder), open_examples(self.examples_folder), unanswerable > 0

    def summaries(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The contents of ``summary.json``, of the examples and of the features."""
        rows, windows = (
            json.loads((folder / "summary.json").read_text()) for folder in (self.examples_folder, self.features_folder)
        )
        return rows, windows

    def _write_examples(self, folder: Path) -> None:
        log.info(f"{self.split}: reading {self.source} ...")
        counts = {"unanswerable": 0}

        def wanted(example: Example) -> bool:
            if self.divided and in_validation(example["context"], *self.divided) != (self.split == "validation"):
                return False
            counts["unanswerable"] += not example["answers"]["text"]
            return True

        column_lines: list[str] = []
        skipped: list[str] = []
        repairs: list[str] = []
        total = count_rows(self.source, self._part) if self.max_examples is None else None
        rows = with_usual_columns(
            tracked(read_rows(self.source, self._part), total, what=f"{self.split}: reading"),
            self.columns,
            column_lines.append,
        )
        examples = read_examples(rows, self.on_bad_rows, skipped, wanted, self.max_examples, repairs=repairs)
        try:
            count = write_examples(examples, folder / "examples.arrow")
        except InputError as error:
            for line in column_lines:  # a wrong guess may be the cause
                log.info(f"{self.split}: {line}")
            name = self.source.argument if isinstance(self.source, GivenRows) else self.source
            if name in error.problems[0]:
                raise
            part = f", of which {self.split} gets a part by context," if self.divided else ""
            raise InputError([f"{self.source}{part}: {error.problems[0]}", *error.problems[1:]]) from None
        summary: dict[str, Any] = {
            **{"rows": count, **counts},
            **{"columns": column_lines, "skipped": skipped, "repaired": repairs},
        }
        if self.divided:
            summary["divided"] = {"validation_fraction": self.divided[0], "seed": self.divided[1]}
        (folder / "summary.json").write_text(json.dumps(summary))
        if repairs:
            (folder / "repaired.txt").write_text("".join(f"{visible(line)}\n" for line in repairs), encoding="utf-8")

    def _write_features(self, folder: Path) -> None:
        examples = open_examples(self.examples_folder)
        log.info(f"{self.split}: tokenizing {counted(len(examples), 'question')} ...")
        windower = Windower(self.tokenizer, self.settings, offsets=self.split == "validation")
        all_answers = self.answers == "all"
        batches = cut_examples(examples, windower, all_answers, f"{self.split}: tokenizing")
        write_features(batches, folder, len(self.tokenizer), all_answers)


def cut_examples(
    examples: Any, windower: Windower, all_answers: bool = False, what: str = "tokenizing"
) -> Iterator[FeatureBatch]:
    """Cut examples into features, 1,000 examples at a time.

    Args:
        examples: a ``datasets.Dataset`` of examples.
        windower: cuts them.
        all_answers: label windows with all answers, not only with the first one.
        what: what this is called where progress is told.
    """
    with loop_progress(len(examples), what=what) as progress:
        for first in range(0, len(examples), _ROWS):
            rows = examples[first : first + _ROWS]
            spans = [_spans(answers) for answers in rows["answers"]]
            others = [own[1:] for own in spans] if all_answers else None
            yield windower(
                rows["question"], rows["context"], [own[0] if own else None for own in spans], first, others=others
            )
            progress.update(len(spans))


def open_examples(folder: Path) -> Any:
    """Map a folder's examples from disk, as a ``datasets.Dataset``."""
    from datasets import Dataset  # imported late: --help does not wait for it

    return Dataset.from_file(str(folder / "examples.arrow"))


def _spans(answers: dict[str, Any]) -> list[tuple[int, int]]:
    """(start, end) of each gold answer in characters, end exclusive."""
    pairs = zip(answers["answer_start"], answers["text"], strict=True)
    return [(start, start + len(text)) for start, text in pairs]


def describe_split(prepared: PreparedSplit, how: str) -> Iterator[str]:
    """Lines to log: what a split holds, and what a person may want to change.

    Args:
        prepared: the split.
        how: words that say whether it was prepared now or before.
    """
    split = prepared.split
    rows, windows = prepared.summaries()
    unanswerable = f", {rows['unanswerable']:,} of them without an answer" if rows["unanswerable"] else ""
    yield (
        f"{split}: {prepared.source}: {counted(rows['rows'], 'question')}{unanswerable}, in "
        f"{counted(windows['features'], 'window')} of {windows['tokens'] / max(1, windows['features']):.0f} tokens on "
        f"average ({how})"
    )
    if divided := rows.get("divided"):
        yield (
            f"{split}: no validation data given, so the questions are split by context: "
            f"{divided['validation_fraction']:.0%} of the contexts validate (seed {divided['seed']})"
        )
    for line in rows["columns"]:
        yield f"{split}: {line}"
    if rows["repaired"]:
        listed = prepared.examples_folder / "repaired.txt"
        moved = counted(len(rows["repaired"]), "answer")
        yield f"{split}: moved {moved} (all are listed in {listed}), the first: {rows['repaired'][0]}"
    if rows["skipped"]:
        yield f"{split}: left out {counted(len(rows['skipped']), 'bad row')}, the first: {rows['skipped'][0]}"
    if windows["cut_questions"]:
        yield f"{split}: {windows['cut_questions']:,} questions were longer than --data.max_question_length and cut"
    if (several := windows.get("several_answers")) is not None:
        yield (
            f"{split}: {several:,} questions have several distinct answers, all of which they are trained on"
            if several
            else f"{split}: --data.train_answers all is without effect: no question has several distinct answers"
        )
    lost = windows["unlabelled"] - rows["unanswerable"]
    if lost > 0:
        yield f"{split}: {lost:,} answers stand whole in no window; a larger --data.doc_stride may hold them"


def _key(parts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:20]
