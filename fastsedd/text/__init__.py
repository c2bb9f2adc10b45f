"""Tokenizers: text <-> token ids."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fastsedd.architectures.base import ModelConfig
from fastsedd.text.byte_pairs import BytePairs
from fastsedd.text.character_merges import CharacterMerges
from fastsedd.text.characters import CharacterTokenizer
from fastsedd.text.chat_template import ChatTemplate
from fastsedd.text.token_ids import TokenIds

__all__ = ["BytePairs", "CharacterMerges", "CharacterTokenizer", "ChatTemplate", "TokenIds", "Tokenizer", "choose"]


class Tokenizer(Protocol):
    """A tokenizer as the engine uses it; description : one for people to read."""

    description: str

    def encode(self, text: str) -> NDArray[np.int32]:
        """Token ids, int32 [n]. Raises ValueError, in one line, for text that has none."""

    def decode(self, tokens: NDArray[np.int32], mask: str = "_") -> str:
        """The text of token ids; the mask is shown as `mask`."""


def choose(config: ModelConfig, files: tuple[Path, ...] = (), document: str | None = None) -> Tokenizer:
    """The tokenizer of these files; without any, the one that a model's config states, or else token ids.

    document : a tokenizer.json, where the file, one, is of another format that holds it
    """
    if files:
        return BytePairs(files, config.tokens, config.mask, document)
    if config.characters is None:
        return TokenIds(config.tokens, config.mask)
    if config.merges:
        return CharacterMerges(config.characters, config.merges)
    return CharacterTokenizer(config.characters)
