"""A table of characters: token i is the i-th of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# The sorted characters of tiny Shakespeare, the vocabulary of the article's model.
TINY_SHAKESPEARE = "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


class CharacterTokenizer:
    """Text of a fixed set of characters. The id after the last character is the mask's."""

    def __init__(self, characters: str) -> None:
        self._characters = characters
        self.description = f"characters {characters!r}"
        self._ids = {character: i for i, character in enumerate(characters)}

    def encode(self, text: str) -> NDArray[np.int32]:
        """int32 [len(text)]. Raises ValueError, in one line, for a character outside the table."""
        for position, character in enumerate(text):
            if character not in self._ids:
                raise ValueError(
                    f"character {character!r} at position {position} is unknown, "
                    f"allowed: the {len(self._characters)} characters {self._characters!r}"
                )
        return np.array([self._ids[character] for character in text], np.int32)

    def decode(self, tokens: NDArray[np.int32], mask: str = "_") -> str:
        return "".join(mask if token == len(self._characters) else self._characters[token] for token in tokens)
