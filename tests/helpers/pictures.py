"""Empty pictures in place of figures that nobody looks at: drawing takes a third of a short run's time."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


def empty_pictures(names: Iterable[str]) -> dict[str, NDArray[np.uint8]]:
    """In place of `qa_lightning.metrics.plots.draw`."""
    return {name: np.zeros((8, 8, 4), np.uint8) for name in names}
