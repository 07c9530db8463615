"""Writes and reads decoded spans with the ids of their questions, as plain arrays in one ``.npz`` file."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import IO

import numpy as np

from qa_lightning.decoding.spans import Spans
from qa_lightning.errors import InputError
from qa_lightning.files import write_file

_IDS = "ids"  # JSON as bytes: arrays of texts could only be read by code that a file may bring


def write_spans(path: Path, ids: Sequence[str], spans: Spans) -> None:
    """Write the spans of N questions, whose ids are in the same order.

    Raises:
        OSError: the file cannot be written, and has not changed.
    """
    arrays = {field.name: getattr(spans, field.name) for field in fields(Spans)}
    arrays[_IDS] = np.frombuffer(json.dumps(list(ids)).encode(), np.uint8)

    def write(file: IO[bytes]) -> None:
        np.savez(file, **arrays)

    write_file(path, write)


def read_spans(path: Path) -> tuple[list[str], Spans]:
    """Ids and spans of N questions.

    Raises:
        InputError: the file is missing or damaged.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as saved:
            ids = json.loads(saved[_IDS].tobytes())
            return ids, Spans(*(saved[field.name] for field in fields(Spans)))
    except (OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path} cannot be read ({type(error).__name__}: {error}); remove the folder of its run, to train it again"
        ) from None
