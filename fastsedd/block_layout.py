"""Blocks that positions of a text are divided into, left to right."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class BlockLayout:
    """Blocks of one length, counted from an origin in both directions: those before it end there.

    length : 1 or more; origin : 0 or more. With an origin of 5, blocks of 4 are 0, 1 to 4, 5 to 8, ...
    context : positions that a block sees, up to its end, length or more; None: all
    """

    length: int
    origin: int = 0
    context: int | None = None

    def index(self, position: int) -> int:
        """The block of a position, below 0 before the origin."""
        return (position - self.origin) // self.length

    def begin(self, position: int) -> int:
        """The first position of the block of a position."""
        return max(0, self.origin + self.index(position) * self.length)

    def end(self, position: int) -> int:
        """The position after the block of a position."""
        return self.origin + (self.index(position) + 1) * self.length

    def first_seen(self, position: int) -> int:
        """The first position that the block of a position sees."""
        return 0 if self.context is None else max(0, self.end(position) - self.context)

    def spans(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """The blocks from `first`, which begins one, up to `last`, where the final one may be cut off."""
        while first < last:
            end = min(self.end(first), last)
            yield first, end
            first = end
