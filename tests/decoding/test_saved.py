"""Spans and ids come back from a file as they were; a damaged file is one clear error."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from qa_lightning.decoding.saved import read_spans, write_spans
from qa_lightning.decoding.spans import Spans
from qa_lightning.errors import InputError


def spans() -> Spans:
    count = np.array([2, 0, 1], np.int32)
    flat = np.array([5, 1, 3], np.int32)
    score = np.array([1 / 3, -2.0, 1e-9])
    null = np.array([0.1, np.inf, -np.inf])
    return Spans(count, flat, flat + 2, score, score / 2, null, null / 2, np.arange(6).reshape(3, 2) / 7, null - 3)


def test_ids_and_spans_come_back_to_the_last_bit(tmp_path) -> None:
    path, ids = tmp_path / "answers.npz", ["a", "ü 漢", "7"]
    write_spans(path, ids, spans())
    found, read = read_spans(path)
    assert found == ids
    for field in fields(Spans):
        own, other = getattr(spans(), field.name), getattr(read, field.name)
        assert own.dtype == other.dtype
        np.testing.assert_array_equal(own, other)


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "flipped"])
def test_a_damaged_file_is_one_clear_error(tmp_path, damage) -> None:
    path = tmp_path / "answers.npz"
    if damage != "missing":
        write_spans(path, ["a", "b", "c"], spans())
        content = path.read_bytes()
        at = len(content) // 2
        flipped = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
        path.write_bytes({"empty": b"", "cut": content[:at], "flipped": flipped}[damage])
    with pytest.raises(InputError, match=r"answers\.npz cannot be read .*remove the folder of its run"):
        read_spans(path)
