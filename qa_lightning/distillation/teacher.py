"""A teacher's logits for the windows that a student trains on: computed once, and kept on disk as prepared data are.

The price: 8 bytes for each context token (float32, exact), about 100 MB for SQuAD; where the tokenizers differ, 8 more
for the tokens that they are mapped to, and some 3 for the teacher's windows. They depend on the teacher's weights and
the student's windows, not on temperature, weight or the student's model: all runs on the same windows share them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoConfig

from qa_lightning.arrays import Floats, Ints, ragged
from qa_lightning.caching import build_once
from qa_lightning.distillation.targets import SoftTargets, answerable
from qa_lightning.distillation.windows import INDICES, write_paired
from qa_lightning.errors import InputError
from qa_lightning.features.batching import PaddingCollator, window_batches
from qa_lightning.features.cache import PreparedSplit, folder_key, open_examples
from qa_lightning.features.store import FeatureStore
from qa_lightning.features.windows import windowing_key
from qa_lightning.models.computing.attention import mask_is_optional, without_reads
from qa_lightning.models.computing.loss import inputs_on, model_logits
from qa_lightning.models.computing.memory import is_out_of_memory
from qa_lightning.models.folder import weights_digest
from qa_lightning.models.load_errors import fitting, loading, quiet_transformers
from qa_lightning.models.loading import (
    CONFIG,
    lasting_name,
    load_answering_model,
    load_tokenizer,
    max_positions,
    resolve,
)
from qa_lightning.models.onnx import is_onnx_folder
from qa_lightning.models.settings import CONFIG_KEY
from qa_lightning.models.tiny import TINY
from qa_lightning.progress import loop_progress
from qa_lightning.wording import counted

# Of DistilBERT's distillation on SQuAD (Sanh et al., 2019; transformers' run_squad_w_distillation.py).
TEMPERATURE = 2.0
WEIGHT = 0.5
_FORMAT = 1  # of the files; raise it when their content changes


@dataclass(frozen=True)
class Computing:
    """How a teacher's logits are computed.

    Attributes:
        device: of the run.
        precision: the Trainer's, such as ``bf16-mixed``.
        batch_size: windows per forward pass.
    """

    device: torch.device
    precision: str
    batch_size: int

    @property
    def dtype(self) -> torch.dtype:
        """That of the forward pass."""
        half = {"bf16": torch.bfloat16, "16": torch.float16}
        return half.get(self.precision.partition("-")[0], torch.float32)


@dataclass(frozen=True)
class Teacher:
    """A trained model, and the split whose windows it gives soft targets for.

    Args:
        name: a name on the Hub, or a folder.
        split: the student's, with its tokenizer and settings.
        computing: how the logits are computed.

    Raises:
        InputError: the tokenizer cannot be loaded; from the methods, also the model: it is no trained model for
            question answering, or its windows are longer than it has positions for.
    """

    name: str
    split: PreparedSplit
    computing: Computing

    @cached_property
    def tokenizer(self) -> Any:
        """The teacher's own."""
        with _naming_the_flag():
            return load_tokenizer(self.name)

    @cached_property
    def is_mapped(self) -> bool:
        """Whether its tokens are others than the student's."""
        return windowing_key(self.tokenizer) != windowing_key(self.split.tokenizer)

    @cached_property
    def windows_folder(self) -> Path:
        """The folder of the windows that it reads; the student's own where both have the same tokens."""
        if not self.is_mapped:
            return self.split.features_folder
        key = folder_key([_FORMAT, self.split.features_folder.name, *windowing_key(self.tokenizer)])
        return self.split.cache_dir / "teacher_windows" / key

    @cached_property
    def folder(self) -> Path:
        """The folder of its logits."""
        parts = [
            _FORMAT,
            self.windows_folder.name,
            _model_key(self.name),
            list(self.tokenizer.model_input_names),
            str(self.computing.dtype),
        ]
        return self.split.cache_dir / "teacher_logits" / folder_key(parts)

    @property
    def key(self) -> str:
        """A key of all that its logits depend on, for checkpoints and other hosts."""
        return self.folder.name

    def prepare(self, thorough: bool = True) -> bool:
        """Compute the logits, if they are missing or damaged; returns whether they were.

        Args:
            thorough: see `caching.build_once`.
        """
        self.split.prepare(thorough)
        if self.is_mapped:
            build_once(self.windows_folder, self._write_windows, thorough)
        return build_once(self.folder, self._write_logits, thorough)

    def targets(self, temperature: float) -> SoftTargets:
        """Its soft targets, mapped from disk; computed if another process has not done so."""
        self.prepare(thorough=False)
        store = FeatureStore.open(self.windows_folder)
        count = store.windows["context_length"].astype(np.int64) + 1
        start, end = (np.memmap(self.folder / f"{name}.bin", np.float32, "r") for name in ("start", "end"))
        start_index = end_index = None
        if self.is_mapped:
            start_index, end_index = (np.memmap(self.windows_folder / f"{name}.bin", np.int32, "r") for name in INDICES)
        return SoftTargets(count.cumsum() - count, count, start, end, start_index, end_index, temperature)

    def _write_windows(self, folder: Path) -> None:
        examples = open_examples(self.split.examples_folder)
        write_paired(examples, self.split.tokenizer, self.tokenizer, self.split.settings, folder)

    def _write_logits(self, folder: Path) -> None:
        store = FeatureStore.open(self.windows_folder)
        count = store.windows["context_length"].astype(np.int64) + 1
        offset = count.cumsum() - count
        shape = int(count.sum())
        start, end = (np.memmap(folder / f"{name}.bin", np.float32, "w+", shape=shape) for name in ("start", "end"))
        try:
            for feature, own_start, own_end in self._logits(self._model(int(store.windows["length"].max())), store):
                flat = ragged(offset[feature], count[feature])
                start[flat], end[flat] = own_start, own_end
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            windows = counted(self.computing.batch_size, "window")
            raise InputError(
                f"--model.teacher {self.name}: out of memory with {windows} at a time; lower --data.eval_batch_size"
            ) from None
        for written in (start, end):
            written.flush()
        if self.computing.device.type == "cuda":
            torch.cuda.empty_cache()

    def _model(self, longest: int) -> Any:
        """The model on its device, for windows of at most ``longest`` tokens."""
        with _naming_the_flag():
            model, _ = load_answering_model(self.name, tokenizer=self.tokenizer)
        limit = max_positions(model)
        if limit and longest > limit:
            raise InputError(
                f"--model.teacher {self.name} has {limit} positions, and reads windows of up to {longest} tokens here: "
                f"lower --data.max_length, which is {self.split.settings.max_length} now, or choose another teacher"
            )
        with _naming_the_flag(), fitting(self.name):
            model = model.to(self.computing.device)
        if self.computing.device.type == "cuda":
            without_reads(model)
        return model

    def _logits(self, model: Any, store: FeatureStore) -> Iterator[tuple[Ints, Floats, Floats]]:
        """Of each batch: the features, and their start and end logits, flat, at the CLS token and the context's."""
        device, dtype = self.computing.device, self.computing.dtype
        may_lack_mask = device.type != "cuda" and mask_is_optional(model)
        # Lengths of up to 7 more tokens are faster than odd ones.
        collate = PaddingCollator(self.tokenizer, 8, max_positions(model))
        half = torch.autocast(device.type, dtype, enabled=dtype != torch.float32)
        with torch.inference_mode(), half, loop_progress(len(store), "window", what="teacher") as progress:
            for batch in window_batches(store, collate, self.computing.batch_size):
                start, end = model_logits(model, inputs_on(device, batch, may_lack_mask))
                logits = torch.stack([start, end]).cpu().numpy()
                cls, begin, length = (batch[name].numpy() for name in ("cls", "context_begin", "context_length"))
                row, column = answerable(cls, begin, length)
                own: NDArray[np.float32] = logits[:, row, column]
                if not np.isfinite(own).all():
                    raise InputError(
                        f"--model.teacher {self.name}: its logits are not numbers in {dtype}; pass --trainer.precision "
                        "32-true, or choose another teacher"
                    )
                yield batch["feature"].numpy(), own[0], own[1]
                progress.update(len(length))


def lasting_teacher(name: str | PathLike[str] | None) -> str | None:
    """`lasting_name` of a teacher, if there is one.

    Raises:
        InputError: see `loading.resolve`.
    """
    if name is None:
        return None
    try:
        return lasting_name(name)
    except InputError as error:
        raise InputError([problem.replace("--model ", "--model.teacher ", 1) for problem in error.problems]) from None


def teacher_digest(name: str | None) -> str | None:
    """A digest of a teacher's weights and architecture; None without one."""
    return None if name is None else folder_key(_model_key(name))


def teacher_problems(given: Mapping[str, Any]) -> list[str]:
    """A line for each thing that is wrong with a teacher's name, or with its flags where there is none.

    Args:
        given: argument of the module -> value.
    """
    name = given["teacher"]
    if name is None:
        usual = {"teacher_temperature": TEMPERATURE, "teacher_weight": WEIGHT}
        return [
            f"--model.{flag} {given[flag]} goes together with --model.teacher; pass that too, or leave it out"
            for flag, value in usual.items()
            if given[flag] != value
        ]
    if name == TINY:
        return [f"--model.teacher {TINY} is not trained; pass the folder of a trained model, or of a run"]
    if isinstance(name, str) and is_onnx_folder(name):
        return [f"--model.teacher {name} is an ONNX export; pass the folder of the model that was exported"]
    return []


@contextmanager
def _naming_the_flag() -> Iterator[None]:
    """Begin each problem that a model or tokenizer has with the flag that named it."""
    try:
        yield
    except InputError as error:
        raise InputError([f"--model.teacher: {problem}" for problem in error.problems]) from None


def _model_key(name: str) -> list[Any]:
    """A key of a model's weights and architecture: digests of a folder's files, or the revision on the Hub."""
    folder = Path(resolve(name)).expanduser()
    with _naming_the_flag(), loading(name), quiet_transformers():
        if not folder.is_dir():
            return [name, AutoConfig.from_pretrained(name, trust_remote_code=False)._commit_hash]
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        config.pop(CONFIG_KEY, None)  # how it is asked
        return [weights_digest(folder), config]
