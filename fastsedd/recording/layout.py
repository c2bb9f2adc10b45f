"""A text in lines, each piece of it with the step at which it settled: for recordings whose cells have places."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

COLUMNS = 100  # of characters: longer lines are broken, at a space if there is one

Line = list[tuple[str, int]]  # characters, and their step


def settled(states: Sequence[NDArray[np.int32]]) -> NDArray[np.intp]:
    """The step, counted from 0, from which on each token is the final one: intp [L]. states : int32 [L] per step"""
    differs = np.stack(states) != states[-1]
    return np.where(differs.any(axis=0), len(states) - np.argmax(differs[::-1], axis=0), 0)


def lines(pieces: Sequence[str], steps: NDArray[np.intp]) -> list[Line]:
    """The text line by line; no line is longer than COLUMNS. pieces : texts of tokens; steps : intp, of each of them"""
    found: list[Line] = [[]]
    for piece, step in zip(pieces, steps, strict=True):
        for i, part in enumerate(piece.split("\n")):
            if i > 0:
                found.append([])
            if part:
                found[-1].append((part, int(step)))
    return [short for line in found for short in _broken(line)]


def _broken(line: Line) -> list[Line]:
    """A line as lines that are short enough."""
    text = "".join(part for part, _ in line)
    cuts, begin = [], 0
    while len(text) - begin > COLUMNS:
        space = text.rfind(" ", begin, begin + COLUMNS)
        begin = space + 1 if space > begin else begin + COLUMNS
        cuts.append(begin)
    found: list[Line] = [[]]
    at = 0
    for part, step in line:
        while cuts and at + len(part) > cuts[0]:
            head, part = part[: cuts[0] - at], part[cuts[0] - at :]
            if head:
                found[-1].append((head, step))
            at = cuts.pop(0)
            found.append([])
        found[-1].append((part, step))
        at += len(part)
    return found
