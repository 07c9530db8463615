"""Which rows of a source a task answers, where several tasks share it: contiguous ranges of whole chunks.

Chunks are counted from the first row of the source, as without shards, so every question is in the batch that it would
be in anyway: the files of all shards, one after the other, are the file of one run, byte for byte. The number of rows
must be known for this. Where a format does not tell it, every task reads the source once more to count them, which is
far quicker than to answer them. Dealing out chunks in turn would need no count, but then a command would have to merge
the files.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Shard:
    """One of several equal parts of a source.

    Attributes:
        number: which one, from 1.
        of: how many there are.
    """

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Parse ``3/8``: the third of eight.

        Raises:
            ValueError: it is no such text, or there is no such shard.
        """
        found = re.fullmatch(r"\s*(-?[0-9]{1,9})\s*/\s*([0-9]{1,9})\s*", text)
        if not found:
            raise ValueError(f"{text!r} is no shard; pass I/N, such as 3/8 for the third of 8")
        number, of = int(found[1]), int(found[2])
        if of < 1:
            raise ValueError(f"{text} is no shard: there must be at least 1")
        if not 1 <= number <= of:
            reason = "shards are counted from 1" if number == 0 else f"there are {of}"
            raise ValueError(f"{text} is no shard: {reason}; pass 1/{of} to {of}/{of}")
        return cls(number, of)

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def span(self, rows: int, rows_together: int) -> RowSpan:
        """The rows of this shard.

        Args:
            rows: of the source.
            rows_together: rows of a chunk.
        """
        chunks = -(-rows // rows_together)
        first, end = (rows_together * (chunks * number // self.of) for number in (self.number - 1, self.number))
        return RowSpan(first + 1, min(end, rows), self.number == self.of)


@dataclass(frozen=True)
class RowSpan:
    """Consecutive rows of a source.

    Attributes:
        first, last: numbers of its first and last row, from 1; last < first where there are none, and None where the
            number of rows is not known.
        to_the_end: read to the end of the source, whatever ``last`` is, so that no count can lose a row.
    """

    first: int = 1
    last: int | None = None
    to_the_end: bool = True

    @property
    def rows(self) -> int | None:
        """The number of rows; None if it is not known."""
        return None if self.last is None else self.last - self.first + 1
