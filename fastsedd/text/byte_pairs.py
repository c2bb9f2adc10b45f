"""Byte pair encoding, GPT-2's above all, through the `tokenizers` library, which is optional."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastsedd.errors import CheckpointError, UnavailableError

END_OF_TEXT = "<|endoftext|>"
MOST_BYTES = 1 << 26


class BytePairs:
    """Text of any characters, in pieces of a vocabulary. The id `tokens` is the mask's."""

    def __init__(self, files: tuple[Path, ...], tokens: int) -> None:
        """files : tokenizer.json, or vocab.json and merges.txt; tokens : of the model, the mask not counted.

        Raises CheckpointError for files that are none, UnavailableError where the library is not installed.
        """
        self._tokenizer = _read(files)
        self._tokens = tokens
        self.description = f"byte pairs of {files[0]}"

    def encode(self, text: str) -> NDArray[np.int32]:
        """int32 [n]. Raises ValueError, in one line, for text whose pieces the model has no tokens for."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"character {text[error.start]!r} at position {error.start} is no text") from None
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        if max(ids, default=0) >= self._tokens:
            raise ValueError(f"a piece of the text has the token {max(ids)}, allowed: 0 to {self._tokens - 1}")
        return np.array(ids, np.int32)

    def decode(self, tokens: NDArray[np.int32], mask: str = "_") -> str:
        """Tokens that are no whole characters are shown as U+FFFD."""
        ids = np.asarray(tokens)
        masked = np.flatnonzero(ids == self._tokens)
        pieces = np.split(ids, np.stack([masked, masked + 1], 1).reshape(-1))
        return "".join(mask if i % 2 else self._piece(piece) for i, piece in enumerate(pieces))

    def _piece(self, ids: NDArray[np.int32]) -> str:
        text: str = self._tokenizer.decode(ids.tolist(), skip_special_tokens=False)
        return text


def _read(files: tuple[Path, ...]) -> Any:
    try:
        import tokenizers
    except ImportError:
        raise UnavailableError(f"{files[0]}: needs tokenizers: pip install 'fastsedd[hub]'") from None
    for file in files:
        if (size := file.stat().st_size) > MOST_BYTES:
            raise CheckpointError(f"{file}: has {size} bytes, allowed: at most {MOST_BYTES}")
    try:
        if len(files) == 1:
            return tokenizers.Tokenizer.from_file(str(files[0]))
        vocabulary, merges = map(str, files)
        tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE.from_file(vocabulary, merges))
    except Exception as error:  # the library raises no narrower one
        raise CheckpointError(f"{files[0]}: is no tokenizer: {' '.join(str(error).split())}") from None
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    if tokenizer.token_to_id(END_OF_TEXT) is not None:
        tokenizer.add_special_tokens([END_OF_TEXT])
    return tokenizer
