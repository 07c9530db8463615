"""Caches prepared splits: examples and features on disk, in folders named by a key of all that they depend on.

Each combination of data and settings has its own folders, and none is ever deleted here: disk space is the price.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.compute as pc

from qa_lightning.caching import build_once
from qa_lightning.data.answers import UNPLACED
from qa_lightning.data.chunks import write_checked
from qa_lightning.data.columns import ReadSettings, parsed, renamed
from qa_lightning.data.division import Fold, Groups, in_validation
from qa_lightning.data.examples import (
    LEFT_OUT,
    NO_QUESTIONS,
    REPAIRED,
    SKIPPING,
    ExampleSettings,
    OnBadRows,
    RowChanges,
    changed_lines,
    read_examples,
    write_examples,
)
from qa_lightning.data.formats import PlacedRow
from qa_lightning.data.objects import GivenRows, Source, Split
from qa_lightning.data.sources import count_rows, read_rows, source_files, source_fingerprint
from qa_lightning.errors import InputError
from qa_lightning.features.store import FeatureStore, write_features
from qa_lightning.features.windows import FeatureBatch, Windower, WindowSettings, vocabulary_size, windowing_key
from qa_lightning.progress import loop_progress, tracked
from qa_lightning.wording import command, counted, visible
from qa_lightning.workers import Elsewhere, LostWorkerError, Packed, forked

log = logging.getLogger("qa_lightning")

TrainAnswers = Literal["first", "all"]
_FORMAT = 11  # of the files; raise it when their content changes
_ROWS = 1000  # examples tokenized at a time, at most
_BYTES = 1 << 22  # of their contexts, about: tokens take some hundred times as much, in each process
_PLACE_IN_OBJECT = re.compile(r"(?<!\S)(?:dataset|validation)(?:\['\w+'\])?(?:\.iloc|\.row)?[\[(](\d+)[\])]")  # a row's
WORKER = "--data.prepare_workers: a process that prepares data"
_CONTEXTS_COUNTED = 1000  # distinct contexts, at most, that are counted for a message


@dataclass
class _Seen:
    """What was counted while a source was read.

    Attributes:
        rows: valid rows, of both parts if the source is divided.
        contexts: distinct contexts of these rows, the first `_CONTEXTS_COUNTED`; only if the source is divided.
        unanswerable: questions of this split without an answer.
    """

    rows: int = 0
    contexts: set[str] = field(default_factory=set)
    unanswerable: int = 0


@dataclass(frozen=True)
class PreparedSplit:
    """One split: its source, how it is cut into features, and its folders on disk.

    Args:
        split: which split.
        source: what it is read from; see `sources`.
        divided: (fraction, seed): the source is divided by context, this fraction of the contexts for validation; None
            if it is not divided.
        max_examples: take at most this many questions, the first ones; None for all.
        on_bad_rows: see `SquadDataModule`.
        reading: how its rows are understood.
        tokenizer: cuts the examples into features.
        settings: lengths for the tokenizer.
        cache_dir: parent of the folders.
        answers: which answers of a question label its windows.
        texts_alone: the split is only scored, for which the texts of its answers are enough; see `read_examples`.
        workers: processes that prepare it; the files do not depend on it.
        fold: the source is divided into folds, one of them for validation; its questions are then those of the split
            "train", whatever else it has, and ``max_examples`` counts those of all folds. None if it is not.
        others: do a `CheckJob` or a `CutJob` for it, too; the files do not depend on them.
    """

    split: Split
    source: Source
    divided: tuple[float, int] | None
    max_examples: int | None
    on_bad_rows: OnBadRows
    reading: ReadSettings
    tokenizer: Any
    settings: WindowSettings
    cache_dir: Path
    answers: TrainAnswers = "first"
    texts_alone: bool = False
    workers: int = 1
    fold: Fold | None = None
    others: Sequence[Elsewhere] = ()

    @property
    def _part(self) -> Split:
        """The split to read from the source; a source that is divided here is read as a whole, as "train"."""
        return "train" if self.divided or self.fold else self.split

    @property
    def whole(self) -> PreparedSplit:
        """All questions, before they are divided into folds; itself, if they are not."""
        return replace(self, split="train", fold=None) if self.fold else self

    @cached_property
    def examples_folder(self) -> Path:
        """The folder of the examples; its name is a key of the source and of all that selects examples."""
        if self.fold:
            whole = self.whole.examples_folder
            parts = [_FORMAT, whole.name, self.split, *asdict(self.fold).values()]
            return examples_folder(self.cache_dir, folder_key(parts)) if self.fold.holds_out else whole
        parts = [
            _FORMAT,
            source_fingerprint(self.source, self._part, self.reading),
            [self.split, *self.divided] if self.divided else None,
            self.max_examples,
            self.on_bad_rows,
            *self.reading.key(),
            *(["texts alone"] if self.texts_alone else []),
        ]
        return examples_folder(self.cache_dir, folder_key(parts))

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
        return self.cache_dir / "features" / folder_key(parts)

    def prepare(self, thorough: bool = True) -> bool:
        """Prepare examples and features that are missing or damaged; returns whether there were any.

        Args:
            thorough: compare every byte with its checksum, as a run does once; see `caching.build_once`.
        """
        made = build_once(self.examples_folder, self._write_examples, thorough)
        return build_once(self.features_folder, self._write_features, thorough) or made

    def open(self) -> tuple[FeatureStore, Any, bool]:
        """Features and examples, mapped, and whether some question has no answer: of the split, or of all folds."""
        self.prepare(thorough=False)  # a file that was removed or cut off since then must not be mapped
        rows = self.summaries()[0]
        version_2: bool = rows.get("version_2", rows["unanswerable"] > 0)  # files of older versions do not have it
        return FeatureStore.open(self.features_folder), open_examples(self.examples_folder), version_2

    def summaries(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The contents of ``summary.json``, of the examples and of the features."""
        rows, windows = (
            json.loads((folder / "summary.json").read_text()) for folder in (self.examples_folder, self.features_folder)
        )
        return rows, windows

    def _write_examples(self, folder: Path) -> None:
        if self.fold:
            self._write_fold(folder) if self.fold.holds_out else self.whole._write_examples(folder)
            return
        log.info(f"{self.split}: reading {self.source} ...")
        seen, changes = _Seen(), RowChanges()
        column_lines: list[str] = []
        total = count_rows(self.source, self._part) if self.max_examples is None else None
        rows = renamed(
            tracked(read_rows(self.source, self._part, self.reading), total, what=f"{self.split}: reading"),
            self.reading,
            column_lines.append,
            skips=self.on_bad_rows in SKIPPING,
        )
        try:
            count = self._write_rows(rows, folder / "examples.arrow", changes, partial(self._is_wanted, seen))
        except LostWorkerError:
            raise
        except InputError as error:
            for line in column_lines:  # a wrong guess may be the cause
                log.info(f"{self.split}: {line}")
            raise self._with_source(error, seen) from None
        summary: dict[str, Any] = {"rows": count, "unanswerable": seen.unanswerable, "columns": column_lines}
        summary |= {**vars(changes), "files": _files(self.source), "version_2": seen.unanswerable > 0}
        if self.divided:
            summary["divided"] = {"validation_fraction": self.divided[0], "seed": self.divided[1]}
        (folder / "summary.json").write_text(json.dumps(summary))
        for name, lines in ((REPAIRED, changes.repaired), (LEFT_OUT, [*changes.skipped, *changes.left_out])):
            if lines:
                (folder / name).write_text("".join(f"{visible(line)}\n" for line in lines), encoding="utf-8")

    def _write_fold(self, folder: Path) -> None:
        """Write the examples that are in the fold, or for training those that are not, in the order of the source."""
        assert self.fold is not None
        whole = self.whole
        build_once(whole.examples_folder, whole._write_examples)
        examples = open_examples(whole.examples_folder)
        try:
            held_out = self.fold.held_out(Groups.of(examples))
        except InputError as error:
            raise self._with_source(error, _Seen()) from None
        rows = np.flatnonzero(held_out == (self.split == "validation"))
        write_examples((examples[row] for row in rows.tolist()), folder / "examples.arrow")
        chosen = examples.select(rows)["answers"]
        unanswerable = sum(not answers["text"] for answers in chosen)
        summary = json.loads((whole.examples_folder / "summary.json").read_text())
        summary |= {"rows": len(rows), "unanswerable": unanswerable, "fold": asdict(self.fold)}
        (folder / "summary.json").write_text(json.dumps(summary))

    def _write_rows(
        self, rows: Iterator[PlacedRow], path: Path, changes: RowChanges, wanted: Callable[[str, bool], bool]
    ) -> int:
        if self.max_examples is None:
            settings = ExampleSettings(self.on_bad_rows, self.texts_alone)
            separator = self.reading.answer_separator
            return write_checked(rows, separator, path, settings, changes, wanted, self.workers, WORKER, self.others)
        # Row by row: nothing behind the last one that is taken is looked at.
        usual = parsed(rows, self.reading)
        examples = read_examples(
            usual, self.on_bad_rows, changes, wanted, self.max_examples, texts_alone=self.texts_alone
        )
        return write_examples(examples, path)

    def _is_wanted(self, seen: _Seen, context: str, answered: bool) -> bool:
        """Whether a valid example belongs to this split; it is counted."""
        seen.rows += 1
        if self.divided:
            if len(seen.contexts) < _CONTEXTS_COUNTED:
                seen.contexts.add(context)
            if in_validation(context, *self.divided) != (self.split == "validation"):
                return False
        seen.unanswerable += not answered
        return True

    def _with_source(self, error: InputError, seen: _Seen) -> InputError:
        """An error about the rows, with the name of their source."""
        name = self.source.argument if isinstance(self.source, GivenRows) else self.source
        if name in error.problems[0]:
            return error
        if self.divided and seen.rows and error.problems == [NO_QUESTIONS]:
            return InputError(self._too_small(seen.rows, len(seen.contexts)))
        return InputError([f"{self.source}: {error.problems[0]}", *error.problems[1:]])

    def _too_small(self, rows: int, contexts: int) -> str:
        """The message for a source that was divided by context so that this split got nothing."""
        assert self.divided is not None
        fraction, seed = self.divided
        needed = contexts_needed(fraction)
        found = f"{'more than ' if contexts == _CONTEXTS_COUNTED else ''}{counted(contexts, 'context')}"
        other = "training" if self.split == "validation" else "validation"
        return (
            f"{self.source} is too small to be split into training and validation: it has {counted(rows, 'row')} with "
            f"{found}, all of which went to {other} (--data.validation_fraction {fraction:g}, seed {seed}). A split by "
            f"context needs at least 2 contexts, and {needed} to be safe; name validation data with --data.validation "
            f"FILE, choose another --data.validation_fraction, or train on all rows with `{command('crossval')}`"
        )

    def _write_features(self, folder: Path) -> None:
        examples = open_examples(self.examples_folder)
        log.info(f"{self.split}: tokenizing {counted(len(examples), 'question')} ...")
        windower = Windower(self.tokenizer, self.settings, offsets=self.split == "validation")
        all_answers = self.answers == "all"
        what = f"{self.split}: tokenizing"
        with closing(cut_examples(examples, windower, all_answers, what, self.workers, self.others)) as batches:
            write_features(batches, folder, vocabulary_size(self.tokenizer), all_answers)


@dataclass(frozen=True)
class CutJob:
    """Examples to be cut into features, with their texts, for a process that does not have them.

    Attributes:
        offsets: of the windower to cut with; see `Windower`.
        questions, contexts, spans, first: what it is called with.
        more_spans: as ``others``, too.
    """

    offsets: bool
    questions: Sequence[str]
    contexts: Sequence[str]
    spans: Sequence[tuple[int, int] | None]
    first: int
    more_spans: Sequence[Sequence[tuple[int, int]]] | None

    def done(self, windower: Windower) -> FeatureBatch:
        """The features; the windower has the tokenizer and the settings of the split."""
        return windower(self.questions, self.contexts, self.spans, self.first, others=self.more_spans)


def contexts_needed(fraction: float) -> int:
    """The number of contexts of which a split by context most likely leaves neither part empty (95%).

    Args:
        fraction: probability that a context goes to validation, between 0 and 1.
    """
    return max(2, math.ceil(math.log(0.05) / math.log1p(-min(fraction, 1 - fraction))))


def cut_examples(
    examples: Any,
    windower: Windower,
    all_answers: bool = False,
    what: str = "tokenizing",
    workers: int = 1,
    others: Sequence[Elsewhere] = (),
) -> Generator[FeatureBatch, None, None]:
    """Cut examples into features: at a time 1,000 of them, or fewer with long contexts.

    Args:
        examples: a ``datasets.Dataset`` of examples.
        windower: cuts them.
        all_answers: label windows with all answers, not only with the first one.
        what: name of the loop in the lines about progress.
        workers: number of processes; one cuts in this process, with the tokenizer's own threads, unless others help.
        others: do a `CutJob`, too.

    Raises:
        InputError: a process died.
    """

    def texts(part: tuple[int, int]) -> CutJob:
        first, stop = part
        rows = examples[first:stop]
        spans = [_spans(answers) for answers in rows["answers"]]
        more = [own[1:] for own in spans] if all_answers else None
        own = [each[0] if each else None for each in spans]
        return CutJob(windower.offsets, rows["question"], rows["context"], own, first, more)

    def cut(part: tuple[int, int]) -> FeatureBatch:
        return texts(part).done(windower)

    count = max(1, min(workers, -(-len(examples) // _ROWS)))
    elsewhere = [Packed(one, texts) for one in others]
    with loop_progress(len(examples), what=what) as progress, forked(cut, count, WORKER, elsewhere) as cut_in_order:
        for (first, stop), batch in cut_in_order((part, part) for part in _parts(examples)):
            yield batch
            progress.update(stop - first)


def _parts(examples: Any) -> Iterator[tuple[int, int]]:
    """First example of each job, and the one behind its last."""
    columns = examples.with_format("arrow")
    for first in range(0, len(examples), _ROWS):
        sizes = pc.binary_length(columns[first : first + _ROWS]["context"]).to_numpy()
        passed = (sizes.cumsum() - sizes) // _BYTES  # of each example, how often those before it fill a job
        edges = [first, *(first + 1 + np.flatnonzero(np.diff(passed))).tolist(), first + len(sizes)]
        yield from pairwise(edges)


def examples_folder(cache_dir: Path, key: str) -> Path:
    """The folder of a split's examples; ``key`` is its fingerprint in ``run.json``."""
    return cache_dir / "examples" / key


def open_examples(folder: Path) -> Any:
    """Map a folder's examples from disk, as a ``datasets.Dataset``."""
    from datasets import Dataset  # imported late: --help does not wait for it

    return Dataset.from_file(str(folder / "examples.arrow"))


def _spans(answers: dict[str, Any]) -> list[tuple[int, int]]:
    """(start, end) of each gold answer in characters, end exclusive; without those of which only the text is known."""
    pairs = zip(answers["answer_start"], answers["text"], strict=True)
    return [(start, start + len(text)) for start, text in pairs if start != UNPLACED]


def describe_split(prepared: PreparedSplit, how: str, again: bool = False) -> Iterator[str]:
    """Lines to log: the content of a split, and findings that call for another flag.

    Args:
        prepared: the split.
        how: whether it was prepared now or before, in words.
        again: another split has been described. If both are parts of one source, what is true of all its rows is not
            said twice.
    """
    split = prepared.split
    rows, windows = prepared.summaries()
    unanswerable = f", {rows['unanswerable']:,} of them without an answer" if rows["unanswerable"] else ""
    yield (
        f"{split}: {prepared.source}: {counted(rows['rows'], 'question')}{unanswerable}, in "
        f"{counted(windows['features'], 'window')} of {windows['tokens'] / max(1, windows['features']):.0f} tokens on "
        f"average ({how})"
    )
    divided = rows.get("divided")
    fold = rows.get("fold")
    said = again and (divided or fold)
    if fold and not said:
        yield f"{split}: fold {fold['number']} of {fold['count']} validates, the others train (seed {fold['seed']})"
    if divided and not said:
        yield (
            f"{split}: no validation data given, so the questions are split by context: "
            f"{divided['validation_fraction']:.0%} of the contexts validate (seed {divided['seed']})"
        )
    for line in [] if said else _where_it_is(prepared, rows, rows["columns"]):
        yield f"{split}: {line}"
    names = (one.name for one in fields(RowChanges))
    changes = RowChanges(*(_where_it_is(prepared, rows, rows[name]) for name in names))
    if said and fold:
        changes = RowChanges()  # those of all folds together
    elif said:
        changes.skipped.clear()
    for line in changed_lines(changes, prepared.whole.examples_folder):
        yield f"{split}: {line}"
    if cut := windows["cut_questions"]:
        were = "question was" if cut == 1 else "questions were"
        yield f"{split}: {cut:,} {were} longer than --data.max_question_length and cut"
    if (several := windows.get("several_answers")) is not None:
        has = "has" if several == 1 else "have"
        it = "it is" if several == 1 else "they are"
        yield (
            f"{split}: {counted(several, 'question')} {has} several distinct answers, all of which {it} trained on"
            if several
            else f"{split}: --data.train_answers all is without effect: no question has several distinct answers"
        )
    lost = windows["unlabelled"] - rows["unanswerable"]
    if lost > 0 and not rows["unplaced"]:  # answers without an offset have no label either
        yield (
            f"{split}: {counted(lost, 'answer')} {'stands' if lost == 1 else 'stand'} whole in no window; a larger "
            "--data.doc_stride may help"
        )


def _files(source: Source) -> list[str]:
    """The files that a source names, as the places of rows begin; itself, if it is none."""
    if isinstance(source, GivenRows):
        return [source.argument]
    return [str(path) for path in source_files(source)] or [source]


def _where_it_is(prepared: PreparedSplit, rows: Mapping[str, Any], lines: list[str]) -> list[str]:
    """Lines with the places of rows as they are now: a file may have been moved, or the rows be in another object."""
    source, part = prepared.source, prepared._part
    if isinstance(source, GivenRows):
        given = source
        return [_PLACE_IN_OBJECT.sub(lambda found: given.place(part, int(found[1])), line) for line in lines]
    moved = dict(zip(rows.get("files", []), _files(source), strict=False))
    if all(old == new for old, new in moved.items()):
        return lines
    names = "|".join(re.escape(name) for name in sorted(moved, key=len, reverse=True))
    return [re.sub(rf"(?<!\S)({names})(?=[ :])", lambda found: moved[found[1]], line) for line in lines]


def folder_key(parts: list[Any]) -> str:
    """The name of a folder of prepared data: a digest of all that its content depends on, JSON values."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:20]
