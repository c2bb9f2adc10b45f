"""Text as token ids separated by spaces: for a checkpoint that has no tokenizer."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class TokenIds:
    """Ids 0 to `tokens`, one of which is the mask's, the last one if it is None."""

    def __init__(self, tokens: int, mask: int | None = None) -> None:
        self._tokens = tokens
        self._mask = tokens if mask is None else mask
        self.description = "none: texts are token ids"

    def encode(self, text: str) -> NDArray[np.int32]:
        """int32 [n]. Raises ValueError, in one line, for anything but ids."""
        ids = []
        for word in text.split():
            token = int(word) if word.isascii() and word.isdigit() and len(word) < 10 else -1
            if not 0 <= token <= self._tokens or token == self._mask:
                raise ValueError(f"{word!r} is not a token id, allowed: {self._allowed()}, separated by spaces")
            ids.append(token)
        return np.array(ids, np.int32)

    def decode(self, tokens: NDArray[np.int32], mask: str = "_") -> str:
        return " ".join(mask if token == self._mask else str(token) for token in tokens)

    def _allowed(self) -> str:
        last = self._mask == self._tokens
        return f"0 to {self._tokens - 1}" if last else f"0 to {self._tokens} but the mask, {self._mask}"
