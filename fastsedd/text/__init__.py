"""Tokenizers: text <-> token ids."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fastsedd.config import ModelConfig
from fastsedd.text.characters import CharacterTokenizer
from fastsedd.text.token_ids import TokenIds

__all__ = ["CharacterTokenizer", "TokenIds", "Tokenizer", "for_config"]


class Tokenizer(Protocol):
    """What an engine needs of a tokenizer."""

    def encode(self, text: str) -> NDArray[np.int32]:
        """Token ids, int32 [n]. Raises ValueError, in one line, for text that has none."""

    def decode(self, tokens: NDArray[np.int32], mask: str = "_") -> str:
        """The text of token ids; the mask is shown as `mask`."""


def for_config(config: ModelConfig) -> Tokenizer:
    """The tokenizer that a model's config tells of; without one, text is token ids."""
    return TokenIds(config.tokens) if config.characters is None else CharacterTokenizer(config.characters)
