"""Array types; runs of equal values; arrays that map files, sent to other processes; indices into ragged rows.

Ragged rows are rows of unequal length in one flat array.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.integer[Any]]
Floats = NDArray[np.floating[Any]]
Float64s = NDArray[np.float64]


class MappedFile(NamedTuple):
    """In place of an array that maps a whole file, where it is sent to another process."""

    path: str
    dtype: np.dtype[Any]


def as_files(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with a `MappedFile` for each array that maps a whole file; pickle would copy them."""
    return {
        name: MappedFile(str(value.filename), value.dtype) if _maps_file(value) else value
        for name, value in values.items()
    }


def mapped(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of `as_files` with the files mapped again."""
    return {
        name: np.memmap(value.path, value.dtype, mode="r") if isinstance(value, MappedFile) else value
        for name, value in values.items()
    }


def _maps_file(value: Any) -> bool:
    if not isinstance(value, np.memmap) or value.filename is None:
        return False
    return bool(value.nbytes == Path(value.filename).stat().st_size)  # not a part of it


def begins_run(*values: NDArray[Any]) -> NDArray[np.bool_]:
    """[N] whether a value differs from the one before it, as the first does; of several arrays, whether one does.

    Far quicker than `numpy.unique` where equal values follow each other.
    """
    found = np.ones(len(values[0]), bool)
    if len(found) == 1:
        return found
    np.not_equal(values[0][1:], values[0][:-1], out=found[1:])
    for own in values[1:]:
        found[1:] |= own[1:] != own[:-1]
    return found


def ragged(begin: Ints, length: Ints) -> NDArray[np.int64]:
    """Flat indices of N rows, concatenated: row i is ``begin[i]``, ..., ``begin[i] + length[i] - 1``.

    Args:
        begin: [N] flat index of the first value of each row.
        length: [N] number of values of each row.

    Returns:
        [sum(length)] indices.
    """
    if len(length) == 1:  # a short question's only window, for which each step counts
        first = int(begin[0])
        return np.arange(first, first + int(length[0]))
    lengths = np.asarray(length, np.int64)
    ends = lengths.cumsum()
    indices: NDArray[np.int64] = np.arange(ends[-1] if len(ends) else 0)
    indices += np.repeat(begin - (ends - lengths), lengths)
    return indices
