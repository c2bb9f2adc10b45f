"""The given tokens of a text: a request's prefix and suffix, template and fixed positions, laid out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastsedd.architectures.base import ModelConfig
from fastsedd.choices import check_integer
from fastsedd.diffusion.sampler import FREE
from fastsedd.request import FixedTokens, Request
from fastsedd.text import Tokenizer
from fastsedd.text import template as templates


@dataclass(frozen=True)
class Layout:
    """Turns text into the given tokens of a model."""

    config: ModelConfig
    tokenizer: Tokenizer

    def given(self, request: Request) -> NDArray[np.int32]:
        """The tokens of a request's texts, FREE where they are to be written: int32 [L].

        Raises ValueError, naming the argument, for text that the tokenizer refuses, that is too long or contradicts the
        fixed tokens.
        """
        length = request.length
        if length is not None:
            check_integer("length", length, 1, self.config.length)
        if request.template is None:
            given = self._between(request.prefix, request.suffix, self.config.length if length is None else length)
        else:
            given = templates.lay_out(
                request.template, lambda part: self.encode("template", part), length, self.config.length, FREE
            )
        return given if request.fixed is None else _with_fixed(given, request.fixed, self.config)

    def encode(self, name: str, text: str) -> NDArray[np.int32]:
        """Tokens of an argument's text. Raises ValueError, naming the argument."""
        try:
            return self.tokenizer.encode(text)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None

    def _between(self, prefix: str, suffix: str, length: int) -> NDArray[np.int32]:
        begin, end = self.encode("prefix", prefix), self.encode("suffix", suffix)
        if len(begin) + len(end) > length:
            raise ValueError(
                f"prefix and suffix have {len(begin)} and {len(end)} tokens, allowed: {length} together, the length"
            )
        given = np.full(length, FREE, np.int32)
        given[: len(begin)] = begin
        given[length - len(end) :] = end
        return given


def _with_fixed(given: NDArray[np.int32], fixed: FixedTokens, config: ModelConfig) -> NDArray[np.int32]:
    """Given tokens, with more of them; where both say something they must agree."""
    if fixed.length not in (None, len(given)):
        raise ValueError(f"fixed has {fixed.length} positions, allowed: {len(given)}, the length")
    result = given.copy()
    for position, token in fixed.pairs:
        if not 0 <= position < len(given):
            raise ValueError(f"fixed has position {position}, allowed: 0 to {len(given) - 1}")
        if not FREE <= token < config.vocab_size or token == config.mask_id:
            mask = "" if config.mask is None else f" but the mask, {config.mask}"
            last = config.tokens - (not mask)
            raise ValueError(f"fixed has token {token}, allowed: 0 to {last}{mask}, or {FREE} where free")
        if token == FREE:
            continue
        if given[position] not in (FREE, token):
            raise ValueError(f"fixed has token {token} at position {position}, where the text has {given[position]}")
        result[position] = token
    return result
