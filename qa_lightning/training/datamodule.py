"""`SquadDataModule`: prepares examples and features once, maps them from disk, makes the loaders."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields, replace
from functools import cache
from os import PathLike
from typing import Any, Literal, get_args

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch.utils.data import DataLoader

from qa_lightning.caching import default_cache_dir
from qa_lightning.data.columns import Columns, ReadSettings
from qa_lightning.data.division import Fold
from qa_lightning.data.examples import SKIPPING, OnBadRows
from qa_lightning.data.objects import GivenData, GivenRows, Source, Split, given_source
from qa_lightning.data.sources import has_validation, source_kind
from qa_lightning.errors import InputError, Rules, argument_kinds, broken_rules, worded
from qa_lightning.features.batching import (
    Batching,
    EvaluationSampler,
    FeatureDataset,
    LazyLoader,
    More,
    PaddingCollator,
    TrainingSampler,
)
from qa_lightning.features.cache import PreparedSplit, TrainAnswers, describe_split
from qa_lightning.features.defaults import BATCH_SIZE, DOC_STRIDE, EVAL_BATCH_SIZE, MAX_LENGTH, MAX_QUESTION_LENGTH
from qa_lightning.features.epochs import EpochWindows
from qa_lightning.features.labels import hold_answers
from qa_lightning.features.store import FeatureStore
from qa_lightning.features.token_batches import TokenSampler
from qa_lightning.features.windows import Windower, WindowSettings
from qa_lightning.inference.arguments import Item
from qa_lightning.inference.bulk.questions import BadRow, read_questions
from qa_lightning.inference.reader import QuestionSet
from qa_lightning.models.loading import lasting_name, load_tokenizer
from qa_lightning.paths import named_path
from qa_lightning.progress import print_log
from qa_lightning.training.steps.batch_size import AutoBatchSize
from qa_lightning.wording import counted, did_you_mean
from qa_lightning.workers import MOST_PROCESSES, Elsewhere, usable_cores

log = logging.getLogger("qa_lightning")

AUTO: Literal["auto"] = "auto"  # a batch size that memory decides

_COUNT = (lambda count: count >= 1, "must be at least 1")
_RULES: Rules = {
    "batch_size": (lambda size: size == AUTO or size >= 1, "must be at least 1, or auto"),
    "windows_per_step": _COUNT,
    "tokens_per_batch": _COUNT,
    "eval_batch_size": _COUNT,
    "pad_to_multiple_of": _COUNT,
    "num_workers": (lambda count: 0 <= count <= MOST_PROCESSES, f"must be from 0 to {MOST_PROCESSES}"),
    "prepare_workers": (lambda count: 1 <= count <= MOST_PROCESSES, f"must be from 1 to {MOST_PROCESSES}"),
    "max_train_examples": _COUNT,
    "max_validation_examples": _COUNT,
    "validation_fraction": (lambda part: 0 < part < 1, "must be between 0 and 1"),
    "keep_no_answer": (lambda share: 0 <= share <= 1, "must be at least 0 and at most 1"),
    "seed": (lambda seed: seed >= 0, "must not be negative"),
}


class SquadDataModule(LightningDataModule):
    """Questions with contexts, for training and validation.

    Args:
        dataset: what to train on: a dataset on the Hub, files (SQuAD JSON, JSON lines, CSV, TSV, Parquet, also with
            .gz; one, several separated by commas, or a pattern), a folder that ``datasets`` saved, or ``synthetic``,
            the embedded dataset. None: only validate. In Python also a path, a list of paths, a ``datasets.Dataset``
            or ``DatasetDict``, a DataFrame of pandas or polars, or a list of dicts.
        validation: what to validate on: a file or dataset. None: the validation split of ``dataset``, or, for a
            file, the questions of a part of its contexts (``validation_fraction``), which are not trained on then.
        model_name: the model whose tokenizer splits the text into tokens.
        max_length: the longest window in tokens, question included.
        doc_stride: how many tokens of context two neighbouring windows share.
        max_question_length: longer questions are cut to this many tokens.
        batch_size: windows per training step and device. ``auto``: in one pass as many as memory has room for, and as
            many passes as a step of ``windows_per_step`` needs; see `AutoBatchSize`.
        windows_per_step: with ``batch_size="auto"``: windows per optimizer step, on all devices together. None: those
            of the usual batch size, 8 on each device.
        tokens_per_batch: in place of ``batch_size``: as many windows of similar length per training step and device as
            have this many tokens, padding included; see `token_batches.TokenSampler`.
        eval_batch_size: windows per validation step and device.
        batching: ``length`` puts windows of similar length together, which saves most padding; ``random`` does not.
        pad_to_multiple_of: pad batches to a multiple of this many tokens, but not beyond ``max_length``: on CPUs, odd
            lengths are slower, and each length that occurs takes memory.
        validation_fraction: the part of a file's contexts to validate on, if ``validation`` is not given.
        fold: in place of ``validation``: ``2/5`` validates on the second of five folds of ``dataset`` and trains on the
            others; ``all`` trains on all of it and leaves nothing to validate on. See `Groups` for what stays together.
        max_train_examples: train only on this many questions, the first ones; with ``fold``, divide only these.
        max_validation_examples: validate only on this many questions, the first ones.
        on_bad_rows: ``error`` stops and lists every bad row; ``skip`` leaves bad rows out and says how many;
            ``repair`` repairs wrong answer offsets where that is certain, says which, and stops at the bad rows that
            remain; ``repair_or_skip`` leaves those out.
        columns: names of your files' columns, if they are not the usual ones.
        encoding: of text files that are not UTF-8, such as ``cp1252`` (Windows) or ``utf-16-le``.
        answer_separator: what stands between several answers in one cell, such as ``|``, or ``\\n`` for a line end;
            empty if a cell holds one answer.
        train_answers: ``first`` trains each question on its first answer; ``all`` on all annotators' answers: on the
            total probability of those in a window (marginal likelihood).
        keep_no_answer: the part of the training windows without an answer that an epoch trains on, 0 to 1, drawn anew
            for each epoch; those with an answer are trained on in every epoch. Below 1 for long contexts, most of
            whose windows hold no answer; with questions that have none, leave it at 1.
        seed: decides the order of batches and the split by context.
        num_workers: processes that load data; 0 loads in the main process, which is enough for mapped files.
        prepare_workers: processes that prepare data: read, check, tokenize. None: as many as there are cores that this
            process may use (on Linux; elsewhere one). The prepared files are the same. Several machines prepare
            together, each with as many.
        cache_dir: folder of prepared data; None for ``$QA_LIGHTNING_CACHE`` or the user's cache folder.
    """

    def __init__(
        self,
        dataset: GivenData | None = "rajpurkar/squad",
        validation: GivenData | None = None,
        model_name: str = "bert-base-cased",
        max_length: int = MAX_LENGTH,
        doc_stride: int = DOC_STRIDE,
        max_question_length: int = MAX_QUESTION_LENGTH,
        batch_size: int | Literal["auto"] = BATCH_SIZE,
        windows_per_step: int | None = None,
        tokens_per_batch: int | None = None,
        eval_batch_size: int = EVAL_BATCH_SIZE,
        batching: Batching = "length",
        pad_to_multiple_of: int = 4,
        validation_fraction: float = 0.1,
        fold: str | None = None,
        max_train_examples: int | None = None,
        max_validation_examples: int | None = None,
        on_bad_rows: OnBadRows = "error",
        columns: Columns = Columns(),  # noqa: B008 - frozen, and shown as flags
        encoding: str | None = None,
        answer_separator: str = "",
        train_answers: TrainAnswers = "first",
        keep_no_answer: float = 1.0,
        seed: int = 42,
        num_workers: int = 0,
        prepare_workers: int | None = None,
        cache_dir: str | None = None,
    ) -> None:
        super().__init__()
        print_log()
        model_name = lasting_name(model_name)
        cache_dir = str(cache_dir) if isinstance(cache_dir, PathLike) else cache_dir
        self.save_hyperparameters(ignore=["columns", "dataset", "validation"])
        sources = {"dataset": dataset, "validation": validation}
        if problems := data_problems({**self.hparams, **sources}) + _column_problems(columns):
            raise InputError(problems)
        given: Any = columns
        own = given if isinstance(given, Columns) else Columns(**given)  # a checkpoint gives plain values
        self.reading = ReadSettings(own, encoding, answer_separator or None)
        self.dataset, self.validation = (
            None if source is None else given_source(name, source) for name, source in sources.items()
        )
        # Plain values, which any checkpoint can hold; Lightning compares them with the arguments, so these change too.
        dataset, validation = (None if source is None else str(source) for source in self._sources.values())
        plain = {"dataset": dataset, "validation": validation, "columns": asdict(own)}
        self.save_hyperparameters(plain)
        self._auto = AutoBatchSize(windows_per_step)  # used if `finds_batch_size`
        self._batch_size = 0 if batch_size == AUTO else batch_size  # used otherwise
        self.tokens_per_batch = tokens_per_batch
        self.eval_batch_size = eval_batch_size
        self.batching = batching
        self.pad_to_multiple_of = pad_to_multiple_of
        self.validation_fraction = validation_fraction
        self.fold = None if fold is None else Fold.of(fold, seed)
        self.limits = {"train": max_train_examples, "validation": max_validation_examples}
        self.on_bad_rows: OnBadRows = on_bad_rows
        self.texts_alone = False  # an evaluation sets it: the texts of answers are enough, whatever their offsets
        self.train_answers: TrainAnswers = train_answers
        self.keep_no_answer = keep_no_answer
        self.seed = seed
        self.num_workers = num_workers
        self.cache_dir = named_path("--data.cache_dir", cache_dir) if cache_dir else default_cache_dir()
        self.settings = WindowSettings(max_length, doc_stride, max_question_length)
        self.others: Sequence[Elsewhere] = ()  # on other hosts, which help to prepare
        self.soft_targets: More | None = None  # what a module with a teacher adds to the training batches
        self.tokenizer = load_tokenizer(model_name)
        Windower(self.tokenizer, self.settings)  # refuses impossible settings before any data is read
        self.train_set: FeatureDataset | None = None
        self.validation_set: FeatureDataset | None = None
        self.question_set: QuestionSet | None = None
        self._chosen: EpochWindows | None = None  # the training windows of each epoch; None: all
        self._described: set[Split] = set()
        self._trained_on: str | None = None  # a key of the training windows that are mapped
        self._start = (0, 0)  # where training resumes: epoch, and its batches that are done
        self._limits: list[tuple[Any, str, float]] = []  # Trainers, their limits that were set here, the values before

    def __repr__(self) -> str:
        """Source, settings of windows and batches, and numbers of questions and windows; loads nothing."""
        settings = self.settings
        splits = {"train": self.train_set, "validation": self.validation_set}
        sizes = [
            f"{name}: {len(split.examples):,} questions in {len(split):,} windows"
            for name, split in splits.items()
            if split is not None
        ]
        return (
            f"SquadDataModule({self.dataset!r}, validation={self.validation!r}, "
            f"model_name={self.hparams['model_name']!r}, max_length={settings.max_length}, "
            f"doc_stride={settings.doc_stride}, {self._batch_setting}, "
            f"eval_batch_size={self.eval_batch_size};\n  {', '.join(sizes) or 'not set up yet'})"
        )

    __str__ = __repr__  # Lightning's own makes the loaders

    @property
    def _batch_setting(self) -> str:
        tokens = self.tokens_per_batch
        if self.finds_batch_size:
            found = f"batch_size='auto', windows_per_step={self.windows_per_step}"
        else:
            found = f"batch_size={self.batch_size}" if tokens is None else f"tokens_per_batch={tokens}"
        return found if self.keep_no_answer == 1 else f"{found}, keep_no_answer={self.keep_no_answer:g}"

    @property
    def trains_on_all(self) -> bool:
        """Whether no question is held out to validate on; the validation split then holds those that train."""
        return self.fold is not None and not self.fold.holds_out

    @property
    def finds_batch_size(self) -> bool:
        """Whether memory decides how many windows a training batch has."""
        return bool(self.hparams["batch_size"] == AUTO)

    @property
    def batch_size(self) -> int:
        """Windows per training batch and device; 0 if memory decides it and has not yet."""
        return self._auto.size if self.finds_batch_size else self._batch_size

    @batch_size.setter
    def batch_size(self, size: int) -> None:  # Lightning's finder of batch sizes sets it
        self._batch_size = size

    @property
    def windows_per_step(self) -> int | None:
        """Windows per optimizer step on all devices together, if they are given."""
        return self._auto.windows_per_step

    @property
    def accumulated(self) -> int:
        """Batches per optimizer step."""
        return self._auto.passes or (self.trainer.accumulate_grad_batches if self.trainer else 1)

    def step_size(self, devices: int) -> int:
        """Windows per optimizer step on so many devices together, for a batch size that memory decides."""
        return self._auto.step_size(devices)

    def batch_problems(self, trainer: Trainer, module: LightningModule | None = None) -> list[str]:
        """A line for each reason why memory cannot decide the batch size of a Trainer, if it is to.

        Args:
            trainer: fits the module.
            module: None: the Trainer's own, if it has one yet.
        """
        return self._auto.problems(trainer, module or trainer.lightning_module) if self.finds_batch_size else []

    def batch_limit(self, batches: int = 1) -> str:
        """What so many training batches hold, for a message: ``8 windows``, or ``at most 4,096 tokens``."""
        tokens = self.tokens_per_batch
        if tokens is None:
            return counted(batches * self.batch_size, "window")
        return f"at most {batches * tokens:,} tokens"

    @property
    def _sources(self) -> dict[str, Source | None]:
        return {"dataset": self.dataset, "validation": self.validation}

    def prepare_data(self) -> None:
        """Read, check, window and cache the splits that are not cached yet. Lightning calls it once per machine.

        The content of an object (a DataFrame, a list) is read anew in each call. For prediction, nothing is prepared.
        """
        if self.trainer is not None and self.trainer.state.fn == TrainerFn.PREDICTING:
            return
        for source in self._sources.values():
            if isinstance(source, GivenRows):
                source.forget()
        for prepared in self.to_prepare():
            started, split = time.perf_counter(), prepared.split
            fresh = prepared.prepare()
            seconds = time.perf_counter() - started
            how = f"prepared in {seconds:.1f} s" if fresh else "prepared before, reused"
            if split in self._described or (split == "validation" and self.trains_on_all):
                continue
            again = bool(self._described)
            self._described.add(split)
            for line in describe_split(prepared, how, again):
                log.info(worded(line))
            if split == "train" and (chosen := self._choose(prepared.open()[0])) is not None:
                log.info(worded(f"{split}: {chosen.described(prepared.summaries()[0]['unanswerable'])}"))

    def setup(self, stage: str) -> None:
        """Memory-map the files of `prepare_data`; the training split only for ``stage="fit"``.

        For ``stage="predict"`` the questions are read into memory; they need no answers.
        """
        if stage == "predict":
            self.question_set = self._read_questions()
            return
        if stage == "fit" and self.finds_batch_size:
            self._auto.forget()
            if self.trainer is not None and (problems := self.batch_problems(self.trainer)):
                raise InputError(problems)
        if "train" in self._splits() and stage == "fit":
            prepared = self.prepared("train")
            self._trained_on = prepared.features_folder.name  # what is mapped, whatever becomes of the file meanwhile
            self._start = (0, 0)
            self.train_set = FeatureDataset(*prepared.open())
            self._chosen = self._choose(self.train_set.store)
        self.validation_set = FeatureDataset(*self.prepared("validation").open())

    def _choose(self, store: FeatureStore) -> EpochWindows | None:
        """The training windows of each epoch, if some are left out; None takes all.

        Raises:
            InputError: none are left.
        """
        if self.keep_no_answer == 1:
            return None
        chosen = EpochWindows(hold_answers(store.windows), self.keep_no_answer)
        if not chosen.count:
            raise InputError(
                f"--data.keep_no_answer {self.keep_no_answer:g} leaves nothing to train on: none of the "
                f"{counted(len(store), 'window')} of {self.dataset} holds an answer; leave it out, or name data with "
                "answers"
            )
        return chosen

    def _read_questions(self) -> QuestionSet:
        source, divided = self._source("validation")
        if divided or self.fold is not None:
            by, without = ("context", "") if self.fold is None else ("fold", ", without --data.fold")
            raise InputError(
                f"{source} is divided by {by} for training, so there are no questions of its own to predict; "
                f"pass what to answer as --data.validation, and --data.dataset null{without}"
            )
        questions: list[Item] = []
        problems: list[str] = []
        for one in read_questions(source, self.reading, log.info):
            if isinstance(one, BadRow):
                problems.append(f"{one.place}: {one.problem}")
            else:
                questions.append({"id": one.id, "question": one.question, "context": one.context})
            if len(questions) == self.limits["validation"]:
                break
        if problems and (self.on_bad_rows not in SKIPPING or not questions):
            raise InputError(problems)
        if problems:
            log.info(f"predict: left out {counted(len(problems), 'bad row')}, the first: {problems[0]}")
        return QuestionSet(questions, self.tokenizer, self.settings, self.eval_batch_size)

    def describe(self) -> dict[str, dict[str, Any]]:
        """Source, fingerprint, and numbers of questions and windows of each prepared split, for ``run.json``.

        If all questions train, there is no validation split.
        """
        described: dict[str, dict[str, Any]] = {}
        for split in self._splits()[: 1 if self.trains_on_all else None]:
            prepared = self.prepared(split)
            rows, windows = prepared.summaries()
            held_out = self.validation_fraction if self._source(split)[1] else None
            if self.fold is not None:
                held_out = 1 / self.fold.count if self.fold.holds_out else None
            described[split] = {
                "source": str(prepared.source),  # not where the rows lay when they were prepared: files are moved
                "kind": source_kind(prepared.source),
                "held_out": held_out if split == "validation" else None,
                "fingerprint": self.fingerprint(split),
                "features": prepared.features_folder.name,
                "questions": rows["rows"],
                "unanswerable": rows["unanswerable"],
                "windows": windows["features"],
            }
        return described

    def fingerprint(self, split: Split) -> str:
        """Digest of a split's questions, contexts and answers, and of how they were read."""
        return self.prepared(split).examples_folder.name

    def fingerprints(self, split: Split) -> list[str]:
        """What `fingerprint` is under each value of ``on_bad_rows``, which changes some rows; nothing is prepared."""
        prepared = self.prepared(split)
        return [replace(prepared, on_bad_rows=policy).examples_folder.name for policy in get_args(OnBadRows)]

    def splits(self) -> list[PreparedSplit]:
        """The splits of this module, with different questions; see `prepared`."""
        return [self.prepared(split) for split in self._splits()[-1 if self.trains_on_all else 0 :]]

    def to_prepare(self) -> list[PreparedSplit]:
        """The splits whose folders `prepare_data` makes."""
        return [self.prepared(split) for split in self._splits()]

    def prepared(self, split: Split) -> PreparedSplit:
        """A split with its settings and the folders of its prepared data, whether or not they exist yet."""
        source, divided = self._source(split)
        return PreparedSplit(
            split,
            source,
            (self.validation_fraction, self.seed) if divided else None,
            self.limits["train" if self.fold else split],
            self.on_bad_rows,
            self.reading,
            self.tokenizer,
            self.settings,
            self.cache_dir,
            self.train_answers if split == "train" else "first",
            self.texts_alone,
            self.hparams["prepare_workers"] or usable_cores(),
            self.fold,
            self.others,
        )

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Batches for this process; see `TrainingSampler` and `TokenSampler` for their order."""
        if self.dataset is None:
            raise InputError("there is nothing to train on: --data.dataset is not given")
        if self.train_set is None:
            raise InputError(_not_set_up("train_dataloader", "fit"))
        if self.finds_batch_size:
            per_epoch = len(self.train_set) if self._chosen is None else self._chosen.count
            self._auto.settle(self.trainer, self.train_set, self._collator(self.soft_targets), per_epoch)
        lengths = self.train_set.store.windows["length"]
        shares = (*self._world(), self.seed, self.accumulated)
        sampler: TrainingSampler
        if self.tokens_per_batch is None:
            sampler = TrainingSampler(lengths, self.batch_size, self.batching, *shares, self._chosen)
        else:
            padding = self.pad_to_multiple_of, self.settings.max_length
            sampler = TokenSampler(lengths, self.tokens_per_batch, *padding, *shares)
        sampler.start = self._start
        batch_size = self.batch_size if self.tokens_per_batch is None else None
        return self._loader(self.train_set, batch_size, sampler, self.soft_targets)

    def teardown(self, stage: str) -> None:
        """Give the Trainer its own flags back."""
        self._give_back()

    def on_exception(self, exception: BaseException) -> None:
        """Give the Trainer its own flags back."""
        self._give_back()

    def _give_back(self) -> None:
        if self.trainer is not None:
            self._auto.give_back(self.trainer)
        for trainer, name, limit in self._limits:
            setattr(trainer, name, limit)
        self._limits = []

    def _limit(self, name: str, batches: int) -> None:
        """Set a limit of the Trainer until `teardown`."""
        before = getattr(self.trainer, name)
        if isinstance(before, float):
            self._limits.append((self.trainer, name, before))
        setattr(self.trainer, name, batches)

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Batches for this process; see `EvaluationSampler` for the windows that it gets."""
        return self._evaluation_loader("val")

    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        """The batches of `val_dataloader`: ``trainer.test`` scores the validation's questions."""
        return self._evaluation_loader("test")

    def predict_dataloader(self) -> DataLoader[Any]:
        """Lists of questions, in order, for `QALightningModule.predict_step`."""
        if self.question_set is None:
            raise InputError(_not_set_up("predict_dataloader", "predict"))
        return self.question_set.loader()

    def _evaluation_loader(self, name: Literal["val", "test"]) -> DataLoader[dict[str, Any]]:
        if self.validation_set is None:
            raise InputError(_not_set_up(f"{name}_dataloader", "validate" if name == "val" else name))
        windows = self.validation_set.store.windows
        limit = self.most_batches(f"limit_{name}_batches")
        if limit is not None:  # the Trainer would take a part of this process's batches
            self._limit(f"limit_{name}_batches", limit)
        of = None if limit is None else windows["example"]
        try:
            sampler = EvaluationSampler(windows["length"], self.eval_batch_size, *self._world(), limit, of)
        except InputError as error:
            raise InputError(f"--trainer.limit_{name}_batches {limit}: {error}") from None
        return self._loader(self.validation_set, self.eval_batch_size, sampler)

    def state_dict(self) -> dict[str, Any]:
        """Progress of training: epoch, batches of it that are done, and everything that decides what they held."""
        if self.trainer is None or self.dataset is None:
            return {}
        loop = self.trainer.fit_loop
        progress: Any = loop.epoch_progress.current
        batches: Any = loop.epoch_loop.batch_progress.current
        within = progress.ready > progress.processed
        return {
            "epoch": progress.processed,
            "batches": batches.processed if within else 0,
            "order": self._order(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume after the batches that are done.

        Raises:
            InputError: the checkpoint is from within an epoch, and flags that decide its batches have changed.
        """
        if self.trainer is None or self.trainer.state.fn != TrainerFn.FITTING:
            return
        epoch, batches, order = (state_dict[name] for name in ("epoch", "batches", "order"))
        order = {"--data.keep_no_answer": 1.0, **order}  # older checkpoints are of runs on all windows
        present = self._order()
        if self.finds_batch_size:
            order, present = self._auto.resume(order, present)
        changed = [
            f"{name} was {order[name]}, is {now}" for name, now in present.items() if order.get(name, now) != now
        ]
        if batches and changed:
            raise InputError(
                f"--ckpt_path: the checkpoint was written after batch {batches:,} of epoch {epoch + 1}, and the "
                f"batches are different now ({'; '.join(changed)}); resume with the flags of that run, or from the end "
                "of an epoch"
            )
        self._start = (epoch, batches)
        sampler = getattr(self.trainer.train_dataloader, "sampler", None)
        if isinstance(sampler, TrainingSampler):  # strategies that restore late have made the loader by now
            sampler.start = self._start

    def _order(self) -> dict[str, Any]:
        """Everything that decides which windows a batch of an epoch holds; keys are flags where there is one."""
        assert self.trainer is not None
        # Where memory decides the batch size, that changes the limit, too.
        limit = {} if self.finds_batch_size else {"--trainer.limit_train_batches": self.trainer.limit_train_batches}
        return {
            "training data": self._trained_on or self.prepared("train").features_folder.name,
            "--data.train_answers": self.train_answers,  # missing in older checkpoints
            "--data.keep_no_answer": self.keep_no_answer,
            "--data.batch_size": self.batch_size,
            "--data.tokens_per_batch": self.tokens_per_batch,
            "--data.batching": self.batching,
            "--data.pad_to_multiple_of": self.pad_to_multiple_of,  # dropout draws by shape
            "seed": self.seed,
            "processes": self.trainer.world_size,
            "--trainer.accumulate_grad_batches": self.accumulated,
            **limit,  # missing in older checkpoints
        }

    def most_batches(self, name: str = "limit_val_batches") -> int | None:
        """The Trainer's limit ``name`` as a number of validation batches over all processes; None for all.

        Counted so, any number of processes validates on the same features.
        """
        limit = getattr(self.trainer, name) if self.trainer else 1.0
        if takes_all(limit):
            return None
        if isinstance(limit, float):  # a part of all batches, rounded down as the Trainer does
            assert self.validation_set is not None
            of_all = int(-(-len(self.validation_set) // self.eval_batch_size) * limit)
            return of_all or None  # the Trainer reports a part that is none
        return int(limit)

    def _loader(
        self,
        dataset: FeatureDataset,
        batch_size: int | None,
        sampler: TrainingSampler | EvaluationSampler,
        more: More | None = None,
    ) -> DataLoader[dict[str, Any]]:
        return LazyLoader(
            dataset,
            batch_size=batch_size,
            sampler=sampler,
            collate_fn=self._collator(more),
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
        )

    def _collator(self, more: More | None) -> PaddingCollator:
        return PaddingCollator(self.tokenizer, self.pad_to_multiple_of, self.settings.max_length, more)

    def _world(self) -> tuple[int, int]:
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)

    def _splits(self) -> list[Split]:
        return ["validation"] if self.dataset is None else ["train", "validation"]

    def _source(self, split: Split) -> tuple[Source, bool]:
        """What ``split`` is read from, and whether that source is divided between the splits by context."""
        if self.dataset is None:
            assert self.validation is not None  # data_problems has checked that
            return self.validation, False
        if split == "validation" and self.validation is not None:
            return self.validation, False
        alone = self.validation is None and self.fold is None
        return self.dataset, alone and not has_validation(self.dataset, self.reading)


def takes_all(limit: int | float | None) -> bool:
    """Whether a limit of the Trainer is none: the whole number 1 is one batch, 1.0 are all of them."""
    return limit is None or (isinstance(limit, float) and limit == 1)


def _not_set_up(loader: str, stage: str) -> str:
    return f'{loader}() needs the prepared data: call setup("{stage}") first, which a Trainer does by itself'


@cache
def _argument_kinds() -> dict[str, Any]:
    kinds = argument_kinds(SquadDataModule.__init__)
    return {name: kind for name, kind in kinds.items() if name not in ("dataset", "validation")}


def data_problems(given: Mapping[str, Any]) -> list[str]:
    """A line for each bad argument of `SquadDataModule`, found before anything is loaded."""
    problems = broken_rules(given, _RULES, "data", _argument_kinds())
    problems += ReadSettings(encoding=given["encoding"], answer_separator=given["answer_separator"] or None).problems()
    if given["dataset"] is None and given["validation"] is None:
        problems.append("neither --data.dataset nor --data.validation names any data; give one of them")
    problems += _fold_problems(given)
    tokens, longest = given["tokens_per_batch"], given["max_length"]
    if isinstance(tokens, int) and isinstance(longest, int) and 1 <= tokens < longest:
        problems.append(
            f"--data.tokens_per_batch {tokens} has no room for the longest window, --data.max_length {longest}; "
            f"pass {longest} or more"
        )
    if tokens is not None and given["batch_size"] == AUTO:
        problems.append("--data.tokens_per_batch stands in place of --data.batch_size auto; leave one out")
    if given["windows_per_step"] is not None and given["batch_size"] != AUTO:
        problems.append(
            "--data.windows_per_step goes together with --data.batch_size auto; pass that, or a number of windows and "
            "--trainer.accumulate_grad_batches"
        )
    if tokens is not None and given["batching"] == "random":
        problems.append("--data.tokens_per_batch needs windows of similar length; leave --data.batching random out")
    share = given["keep_no_answer"]
    if tokens is not None and isinstance(share, int | float) and 0 <= share < 1:
        problems.append(
            f"--data.keep_no_answer {share:g} does not go together with --data.tokens_per_batch: each epoch takes "
            "other windows, so the number of its batches would not be known; pass --data.batch_size N in its place"
        )
    for name in ("dataset", "validation"):
        try:
            if given[name] is not None:
                source_kind(given_source(name, given[name]))
        except InputError as error:
            problems += [f"--data.{name} {problem}" for problem in error.problems]
    return problems


def _fold_problems(given: Mapping[str, Any]) -> Iterator[str]:
    if not isinstance(given["fold"], str):  # None, or refused for its type
        return
    try:
        Fold.of(given["fold"], 0)
    except InputError as error:
        yield from error.problems
    if given["dataset"] is None:
        yield "--data.fold divides the questions of --data.dataset, which is not given; name it"
    for name in ("validation", "max_validation_examples"):
        if given[name] is not None:
            yield f"--data.fold says which questions validate; leave --data.{name} out"


def _column_problems(given: Any) -> list[str]:
    """A line for each wrong name or value among the names of columns."""
    known = [field.name for field in fields(Columns)]
    if isinstance(given, Columns):
        given = asdict(given)
    if not isinstance(given, Mapping):
        return [f"--data.columns is {given!r:.80}; pass the names as a dict, such as --data.columns.question NAME"]
    return [
        f"--data.columns has {name!r}, which is no name of a column here{did_you_mean(str(name), known)}"
        if name not in known
        else f"--data.columns.{name} is {value!r:.80}; it must be a text, the name of a column"
        for name, value in dict(given).items()
        if name not in known or not (value is None or isinstance(value, str))
    ]
