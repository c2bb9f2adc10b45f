"""Byte pair encoding over a fixed alphabet, in plain Python: tokens are characters, and pairs of earlier tokens."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fastsedd.text.characters import CharacterTokenizer

# A piece is a word with the space before it, a run of other signs with the space before it, or one space or line end.
# No token spans two pieces, so a text that is cut between words, or at a line end, has the tokens of its parts.
PIECE = re.compile(r" ?[A-Za-z']+| ?[^A-Za-z'\s]+|\s")
MAX_KEPT_PIECES = 1 << 16


class CharacterMerges:
    """Text of a fixed set of characters, in pieces of words. The id after the last token is the mask's.

    Token i is the i-th character, and token ``len(characters) + i`` the two tokens of the i-th merge, joined. Within a
    piece (see `PIECE`), the earliest merge that applies is applied first, everywhere, until none is left (Sennrich et
    al. 2016).
    """

    def __init__(self, characters: str, merges: Sequence[tuple[int, int]]) -> None:
        """merges : pairs of earlier tokens, as `ModelConfig` checks them"""
        self._alphabet = CharacterTokenizer(characters)
        self._texts = spellings(characters, merges)
        first = len(characters)
        self._ranks = {pair: first + i for i, pair in enumerate(merges)}
        self._encode_piece = lru_cache(MAX_KEPT_PIECES)(self._merge)
        self.description = f"{len(self._texts)} tokens: {len(characters)} characters and {len(merges)} merges"

    def encode(self, text: str) -> NDArray[np.int32]:
        """int32 [n]. Raises ValueError, in one line, for a character outside the alphabet."""
        self._alphabet.encode(text)  # for its error
        return np.array([token for piece in PIECE.findall(text) for token in self._encode_piece(piece)], np.int32)

    def decode(self, tokens: NDArray[np.int32], mask: str = "_") -> str:
        """The text of tokens, each in [0, tokens]; the mask is shown as `mask`."""
        return "".join(mask if token == len(self._texts) else self._texts[token] for token in tokens)

    def _merge(self, piece: str) -> tuple[int, ...]:
        tokens: list[int] = self._alphabet.encode(piece).tolist()
        while len(tokens) > 1:
            ranked = [(self._ranks[pair], pair) for pair in itertools.pairwise(tokens) if pair in self._ranks]
            if not ranked:
                break
            merged, pair = min(ranked)
            tokens = join(tokens, pair, merged)
        return tuple(tokens)


def join(tokens: Sequence[int], pair: tuple[int, int], merged: int) -> list[int]:
    """The tokens with each occurrence of a pair, from the left, replaced by the token it merges to."""
    joined: list[int] = []
    i = 0
    while i < len(tokens):
        if tuple(tokens[i : i + 2]) == pair:
            joined.append(merged)
            i += 2
        else:
            joined.append(tokens[i])
            i += 1
    return joined


def spellings(characters: str, merges: Sequence[tuple[int, int]]) -> list[str]:
    """The text of every token."""
    texts = list(characters)
    for left, right in merges:
        texts.append(texts[left] + texts[right])
    return texts
