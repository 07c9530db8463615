"""Keep features on disk as flat arrays: written as a stream, mapped for reading, never in memory as a whole.

A folder holds ``windows.bin`` (records of `windows.WINDOW`), ``input_ids.bin``, ``token_type_ids.bin``,
``char_start.bin``, ``char_end.bin``, ``token_offset.bin`` and ``context_offset.bin`` (index of each window's first
value in the flat arrays), and ``summary.json``. If questions are trained on all their answers, it also holds
``gold_window.bin``, ``gold_start.bin`` and ``gold_end.bin``. Token ids take 2 bytes if the vocabulary has at most
65,536 tokens, else 4. Limit: the byte order is the machine's own, so the files cannot move to one with another order.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qa_lightning.arrays import Ints, as_files, mapped
from qa_lightning.features.windows import WINDOW, FeatureBatch


def write_features(
    batches: Iterable[FeatureBatch], folder: Path, vocab_size: int, all_answers: bool = False
) -> dict[str, Any]:
    """Write features into a folder.

    Args:
        batches: in order of examples.
        folder: exists and is empty.
        vocab_size: of the tokenizer; it decides how many bytes a token id takes.
        all_answers: windows are labelled with all answers: write those labels too.

    Returns:
        The content of ``summary.json``: counts, and the type of each array.
    """
    gold: dict[str, np.dtype[Any]] = {
        "gold_window": np.dtype(np.int64),
        "gold_start": np.dtype(np.int32),
        "gold_end": np.dtype(np.int32),
    }
    dtypes: dict[str, np.dtype[Any]] = {
        "windows": WINDOW,
        "input_ids": np.dtype(np.uint16 if vocab_size <= 2**16 else np.int32),
        "token_type_ids": np.dtype(np.int8),
        "char_start": np.dtype(np.int32),
        "char_end": np.dtype(np.int32),
        "token_offset": np.dtype(np.int64),
        "context_offset": np.dtype(np.int64),
        **(gold if all_answers else {}),
    }
    counts = {
        "features": 0,
        "tokens": 0,
        "context_tokens": 0,
        "cut_questions": 0,
        "unlabelled": 0,
        "longest": 0,
        **({"several_answers": 0} if all_answers else {}),
    }
    with ExitStack() as opened:
        files = {name: opened.enter_context((folder / f"{name}.bin").open("wb")) for name in dtypes}
        for batch in batches:
            arrays: dict[str, NDArray[Any]] = {
                name: getattr(batch, name)
                for name in ("windows", "input_ids", "token_type_ids", "char_start", "char_end")
            }
            arrays["token_offset"] = counts["tokens"] + _begins(batch.windows["length"])
            arrays["context_offset"] = counts["context_tokens"] + _begins(batch.windows["context_length"])
            if all_answers:
                arrays |= {name: getattr(batch, name) for name in gold}
                arrays["gold_window"] = counts["features"] + batch.gold_window
                counts["several_answers"] += batch.several
            for name, array in arrays.items():
                files[name].write(np.ascontiguousarray(array, dtypes[name]).data)
            counts["features"] += len(batch.windows)
            counts["tokens"] += len(batch.input_ids)
            counts["context_tokens"] += int(batch.windows["context_length"].sum(dtype=np.int64))
            counts["cut_questions"] += batch.cut_questions
            counts["unlabelled"] += int((batch.labelled == 0).sum())
            counts["longest"] = max(counts["longest"], int(batch.windows["length"].max(initial=0)))
    summary = {**counts, "dtypes": {name: dtype.str for name, dtype in dtypes.items() if name != "windows"}}
    (folder / "summary.json").write_text(json.dumps(summary))
    return summary


@dataclass(frozen=True)
class FeatureStore:
    """The features of some examples; see `windows.FeatureBatch` for the arrays.

    Attributes:
        token_offset: [F] index of each window's first value in ``input_ids`` and ``token_type_ids``.
        context_offset: [F] index of each window's first value in ``char_start`` and ``char_end``.
        gold_window, gold_start, gold_end: empty, unless questions are trained on all their answers.
    """

    windows: NDArray[np.void]
    input_ids: Ints
    token_type_ids: Ints
    char_start: Ints
    char_end: Ints
    token_offset: Ints
    context_offset: Ints
    gold_window: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    gold_start: Ints = field(default_factory=lambda: np.zeros(0, np.int32))
    gold_end: Ints = field(default_factory=lambda: np.zeros(0, np.int32))

    @classmethod
    def open(cls, folder: Path) -> FeatureStore:
        """Map a folder's files; the system loads only the pages that are used, and can drop them again."""
        dtypes = json.loads((folder / "summary.json").read_text())["dtypes"]
        arrays = {name: _map(folder / f"{name}.bin", np.dtype(code)) for name, code in dtypes.items()}
        return cls(windows=_map(folder / "windows.bin", WINDOW), **arrays)

    def __getstate__(self) -> dict[str, Any]:
        """A process that a store is sent to maps the files itself, so that nothing is copied."""
        return as_files(self.__dict__)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Map the files; see `__getstate__`."""
        self.__dict__.update(mapped(state))

    @classmethod
    def of_batch(cls, batch: FeatureBatch) -> FeatureStore:
        """A store of one batch, in memory."""
        return cls(
            batch.windows,
            batch.input_ids,
            batch.token_type_ids,
            batch.char_start,
            batch.char_end,
            _begins(batch.windows["length"]),
            _begins(batch.windows["context_length"]),
            gold_window=batch.gold_window,
            gold_start=batch.gold_start,
            gold_end=batch.gold_end,
        )

    def gold(self, index: int) -> tuple[Ints, Ints] | None:
        """First and last token of each gold span of a window, [A] each; None if it has less than two distinct ones."""
        if not len(self.gold_window):
            return None
        begin, end = np.searchsorted(self.gold_window, (index, index + 1))
        return (self.gold_start[begin:end], self.gold_end[begin:end]) if begin < end else None

    @cached_property
    def example(self) -> NDArray[np.int32]:
        """[F] index of each window's example, never decreasing; held in memory, 4 bytes per window."""
        return np.ascontiguousarray(self.windows["example"], np.int32)

    def __len__(self) -> int:
        return len(self.windows)


def _begins(lengths: NDArray[Any]) -> NDArray[np.int64]:
    """Index of the first value of each part, for parts of these lengths that follow each other."""
    wide = lengths.astype(np.int64)
    return wide.cumsum() - wide


def _map(path: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    if path.stat().st_size == 0:  # an empty file cannot be mapped
        return np.zeros(0, dtype)
    return np.memmap(path, dtype, mode="r")
