"""Array types, and indices into ragged rows: rows of unequal length, concatenated in one flat array."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.integer[Any]]
Floats = NDArray[np.floating[Any]]
Float64s = NDArray[np.float64]


def ragged(begin: Ints, length: Ints) -> NDArray[np.int64]:
    """Flat indices of N rows, concatenated: row i is ``begin[i]``, ..., ``begin[i] + length[i] - 1``.

    Args:
        begin: [N] flat index of the first value of each row.
        length: [N] number of values of each row.

    Returns:
        [sum(length)] indices.
    """
    lengths = np.asarray(length, np.int64)
    ends = np.cumsum(lengths)
    indices: NDArray[np.int64] = np.arange(ends[-1] if len(ends) else 0)
    indices += np.repeat(begin - (ends - lengths), lengths)
    return indices
