"""What the server of the page to ask in takes on. Nothing is imported here, so that ``--help`` can show it at once."""

from __future__ import annotations

from dataclasses import dataclass

MAX_QUESTION = 1000  # characters


@dataclass(frozen=True)
class Limits:
    """What the server takes on, for each question.

    Args:
        characters: of the text and all files together.
        seconds: of computing; checked between two forward passes.
        concurrency: questions that are answered at a time; others wait.
        waiting: questions that may wait; more are refused.
        files: files at a time.
        file_mb: size of each file, in MB (1,000,000 bytes).
    """

    characters: int = 1_000_000
    seconds: float = 30.0
    concurrency: int = 2
    waiting: int = 64
    files: int = 20
    file_mb: int = 20

    @property
    def body(self) -> int:
        """Bytes of a request, at most: a text whose every character is written as an escape, or all files."""
        return max(12 * (self.characters + MAX_QUESTION), self.files * self.file_mb * 1_000_000) + 1_000_000
