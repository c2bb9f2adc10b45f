"""Text as token ids separated by spaces: for a checkpoint that has no tokenizer."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class TokenIds:
    """Ids 0 to tokens - 1; the id `tokens` is the mask's."""

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens
        self.description = "none: texts are token ids"

    def encode(self, text: str) -> NDArray[np.int32]:
        """int32 [n]. Raises ValueError, in one line, for anything but ids."""
        ids = []
        for word in text.split():
            if not (word.isascii() and word.isdigit() and len(word) < 10 and int(word) < self._tokens):
                raise ValueError(f"{word!r} is not a token id, allowed: 0 to {self._tokens - 1}, separated by spaces")
            ids.append(int(word))
        return np.array(ids, np.int32)

    def decode(self, tokens: NDArray[np.int32], mask: str = "_") -> str:
        return " ".join(mask if token == self._tokens else str(token) for token in tokens)
