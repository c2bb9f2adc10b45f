"""Byte pair encoding, GPT-2's above all, through the `tokenizers` library, which is optional."""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastsedd.errors import CheckpointError, UnavailableError

END_OF_TEXT = "<|endoftext|>"
MAX_BYTES = 1 << 26


class BytePairs:
    """Text of any characters, in pieces of a vocabulary, with ids 0 to `tokens`, of which one is the mask's."""

    def __init__(
        self, files: tuple[Path, ...], tokens: int, mask: int | None = None, document: str | None = None
    ) -> None:
        """files : tokenizer.json, or vocab.json and merges.txt; tokens : of the model, the mask not counted

        mask : its id, the last one if None; document : the contents of tokenizer.json, instead of the file's

        Raises CheckpointError for files that hold no tokenizer, UnavailableError where the library is not installed.
        """
        self._tokenizer = _load(files, document)
        self._tokens = tokens
        self._mask = tokens if mask is None else mask
        self.description = f"byte pairs of {files[0]}"

    def encode(self, text: str) -> NDArray[np.int32]:
        """int32 [n]. Raises ValueError, in one line, for text that the tokens would not give back as it is: where the
        tokenizer rewrites it (lower case, spaces, unknown characters), or the model has no token for a piece."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"character {text[error.start]!r} at position {error.start} is not text") from None
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        if self._mask in ids:
            raise ValueError(f"a piece of the text is the mask, token {self._mask}")
        last = self._tokens - (self._mask == self._tokens)
        if max(ids, default=0) > last:
            raise ValueError(f"a piece of the text has the token {max(ids)}, allowed: 0 to {last}")
        kept = self._decode(ids)
        if kept != text:
            raise ValueError(f"the tokenizer rewrites the text: {_difference(text, kept)}")
        return np.array(ids, np.int32)

    def decode(self, tokens: NDArray[np.int32], mask: str = "_") -> str:
        """The text of tokens, int32 [n]; those that are not whole characters are shown as U+FFFD."""
        ids = np.asarray(tokens)
        masked = np.flatnonzero(ids == self._mask)
        pieces = np.split(ids, np.stack([masked, masked + 1], 1).reshape(-1))
        return "".join(mask if i % 2 else self._decode(piece.tolist()) for i, piece in enumerate(pieces))

    def _decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=False)
        return text


def _difference(text: str, kept: str) -> str:
    """The first difference between a text and its round trip, with some characters of both."""
    pairs = zip(text, kept, strict=False)
    at = next((i for i, (given, got) in enumerate(pairs) if given != got), min(len(text), len(kept)))
    return f"{text[at : at + 20]!r} at position {at} would become {kept[at : at + 20]!r}"


def _load(files: tuple[Path, ...], document: str | None) -> Any:
    """The library's tokenizer, set to encode a text whole, and the same way every time."""
    try:
        import tokenizers
    except ImportError:
        raise UnavailableError(f"{files[0]}: needs tokenizers: pip install 'fastsedd[hub]'") from None
    contents = [_content(file) for file in files] if document is None else [document]
    try:
        if len(files) == 1:
            tokenizer = tokenizers.Tokenizer.from_str(contents[0])
        else:
            tokenizer = _from_pairs(tokenizers, *contents)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        if getattr(tokenizer.model, "dropout", None) is not None:  # merges left out at random, for training
            tokenizer.model.dropout = None
    except Exception as error:  # the library raises no narrower one
        raise CheckpointError(f"{files[0]}: is not a tokenizer: {' '.join(str(error).split())}") from None
    return tokenizer


def _content(file: Path) -> str:
    """A file's text, without a byte-order mark."""
    try:
        if (size := file.stat().st_size) > MAX_BYTES:
            raise CheckpointError(f"{file}: has {size} bytes, allowed: at most {MAX_BYTES}")
        data = file.read_bytes()
        return data.removeprefix(codecs.BOM_UTF8).decode()
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{file}: is not a tokenizer: not UTF-8 at byte {error.start}") from None


def _from_pairs(tokenizers: Any, vocabulary: str, merges: str) -> Any:
    """GPT-2's tokenizer: pieces of bytes, {piece: id} in JSON, and which two are joined, one pair per line."""
    lines = [line for line in merges.replace("\r\n", "\n").split("\n") if line and not line.startswith("#version")]
    pairs = [tuple(line.split(" ")) for line in lines]
    broken = next((line for line in pairs if len(line) != 2), None)
    if broken is not None:
        raise ValueError(f"a merge has {len(broken)} pieces, allowed: 2")
    model = tokenizers.models.BPE(json.loads(vocabulary), pairs)
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    if tokenizer.token_to_id(END_OF_TEXT) is not None:
        tokenizer.add_special_tokens([END_OF_TEXT])
    return tokenizer
