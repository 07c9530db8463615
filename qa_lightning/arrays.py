"""Array types, and rows of unequal length end to end."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.integer[Any]]
Floats = NDArray[np.floating[Any]]
Float64s = NDArray[np.float64]


def ragged(begin: Ints, length: Ints) -> NDArray[np.int64]:
    """Flat indices of rows end to end, where row i holds ``length[i]`` values from ``begin[i]`` on."""
    lengths = np.asarray(length, np.int64)
    ends = np.cumsum(lengths)
    places: NDArray[np.int64] = np.arange(ends[-1] if len(ends) else 0)
    places += np.repeat(begin - (ends - lengths), lengths)
    return places
