"""Array types; runs of equal values; indices into ragged rows, which are rows of unequal length in one flat array."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.integer[Any]]
Floats = NDArray[np.floating[Any]]
Float64s = NDArray[np.float64]


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
