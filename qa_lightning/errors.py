"""The one exception for bad input, and the one function that prints it."""

from __future__ import annotations

from collections.abc import Sequence


class InputError(ValueError):
    """Something a person gave is wrong: a file, a row, a flag or a name.

    Args:
        problems: one line each, naming the place, the value and the cure. All that were found, not only the first.
        shown: how many lines the message lists; the rest is counted.
    """

    def __init__(self, problems: str | Sequence[str], shown: int = 20) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        lines = self.problems[:shown]
        if len(self.problems) > shown:
            lines.append(f"... and {len(self.problems) - shown:,} more")
        super().__init__("\n".join(lines))


class DivergedError(RuntimeError):
    """Training produced a loss that is not a number: there is nothing left to learn from."""
