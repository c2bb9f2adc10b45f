"""Learn the merges of a text: byte pair encoding (Sennrich et al. 2016) over its characters, deterministic."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict

from fastsedd.text.character_merges import PIECE, join

Pair = tuple[int, int]


class _Pairs:
    """The pieces of a text as tokens, and how often each pair of neighbours occurs among them."""

    def __init__(self, characters: str, text: str) -> None:
        ids = {character: i for i, character in enumerate(characters)}
        pieces = Counter(PIECE.findall(text))
        self._tokens = [[ids[character] for character in piece] for piece in pieces]
        self._weights = list(pieces.values())
        self.counts: Counter[Pair] = Counter()
        self._holders: defaultdict[Pair, set[int]] = defaultdict(set)
        for index in range(len(self._tokens)):
            self._count(index, 1)

    def _count(self, index: int, sign: int) -> None:
        tokens = self._tokens[index]
        for pair in itertools.pairwise(tokens):
            self.counts[pair] += sign * self._weights[index]
            if sign > 0:
                self._holders[pair].add(index)

    def merge(self, pair: Pair, merged: int) -> None:
        for index in sorted(self._holders.pop(pair)):
            self._count(index, -1)
            self._tokens[index] = join(self._tokens[index], pair, merged)
            self._count(index, 1)


def learn(text: str, characters: str, tokens: int) -> list[Pair]:
    """Merges of the most frequent pair, the smallest of equals, until there are so many tokens or no pair occurs twice.

    characters : every character of the text; tokens : how many there shall be, the characters included
    """
    pairs = _Pairs(characters, text)
    merges: list[Pair] = []
    while len(characters) + len(merges) < tokens:
        count, pair = max(((count, (-a, -b)) for (a, b), count in pairs.counts.items()), default=(0, (0, 0)))
        if count < 2:
            break
        found = (-pair[0], -pair[1])
        pairs.merge(found, len(characters) + len(merges))
        merges.append(found)
        pairs.counts = +pairs.counts
    return merges
