"""Which windows an epoch trains on: all that hold an answer, and a share of the others, drawn anew for each epoch.

Of a long context's windows one or two hold the answer, and the others are many examples of the same lesson. The BERT
baseline on Natural Questions kept 2% of them (Alberti et al., 2019).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from qa_lightning.wording import counted


@dataclass(frozen=True)
class EpochWindows:
    """The windows of each epoch; all epochs have the same number, so that a scheduler knows how many steps there are.

    Args:
        answered: [F] whether each window holds an answer; see `labels.hold_answers`.
        share: the part, 0 to 1, of the windows without an answer that an epoch takes; rounded to whole windows.
    """

    answered: NDArray[np.bool_]
    share: float

    @cached_property
    def _answered(self) -> int:
        return int(self.answered.sum())

    @property
    def _others(self) -> int:
        return len(self.answered) - self._answered

    @property
    def _drawn(self) -> int:
        return round(self.share * self._others)

    @property
    def count(self) -> int:
        """How many windows an epoch takes."""
        return self._answered + self._drawn

    def of_epoch(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """[count] indices of an epoch's windows, rising; they depend on ``seed`` and ``epoch`` alone."""
        taken = self.answered.copy()
        # The third number keeps these draws apart from those of the order, which the samplers make.
        random = np.random.default_rng([seed, epoch, 2])
        taken[random.choice(np.flatnonzero(~taken), self._drawn, replace=False, shuffle=False)] = True
        return np.flatnonzero(taken)

    def described(self, unanswerable: int) -> str:
        """What an epoch takes, for a line.

        Args:
            unanswerable: how many questions have no answer at all.
        """
        if not self._others:
            return f"--data.keep_no_answer {self.share:g} is without effect: every window holds an answer"
        theirs = f"{counted(unanswerable, 'question')} that {'has' if unanswerable == 1 else 'have'} no answer"
        return (
            f"an epoch takes {counted(self._answered, 'window')} with an answer and {self._drawn:,} of the "
            f"{self._others:,} without (--data.keep_no_answer {self.share:g}), drawn anew each time"
            + (f"; among those without are the windows of {theirs}" if unanswerable else "")
        )
