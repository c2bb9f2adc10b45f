"""The given tokens of a text: a request's prefix and suffix, template and fixed positions, laid out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastsedd.architectures.base import ModelConfig
from fastsedd.choices import check_integer
from fastsedd.config import MAX_LENGTH
from fastsedd.diffusion.sampler import FREE
from fastsedd.request import FixedTokens, Request
from fastsedd.text import ChatTemplate, Tokenizer
from fastsedd.text import template as templates


@dataclass(frozen=True)
class Layout:
    """Turns text into the given tokens of a model."""

    config: ModelConfig
    tokenizer: Tokenizer
    chat: ChatTemplate | None = None

    def given(self, request: Request) -> NDArray[np.int32]:
        """The tokens of a request's texts, FREE where they are to be written: int32 [L].

        Raises ValueError, naming the argument, for text that the tokenizer refuses, that is too long or contradicts the
        fixed tokens.
        """
        length = request.length
        if length is not None:
            check_integer("length", length, 1, self._room)
        if request.prompt is not None or request.messages is not None:
            return np.concatenate([self.start, self._asked(request)])
        if request.template is None:
            given = self._between(request.prefix, request.suffix, self._length(request))
        else:
            given = templates.lay_out(
                request.template, lambda part: self.encode("template", part), length, self._room, FREE
            )
        given = given if request.fixed is None else _with_fixed(given, request.fixed, self.config)
        return np.concatenate([self.start, given])

    @property
    def start(self) -> NDArray[np.int32]:
        """The token that stands before every text: int32 [1], or [0] where there is none."""
        backbone = self.config.backbone
        return np.array([] if backbone is None or backbone.start is None else [backbone.start], np.int32)

    @property
    def _room(self) -> int:
        """The most tokens of a text."""
        backbone = self.config.backbone
        any_length = backbone is not None and backbone.context is not None
        return (MAX_LENGTH if any_length else self.config.length) - len(self.start)

    def _length(self, request: Request) -> int:
        """Positions of a text between prefix and suffix."""
        if request.length is not None or self.config.backbone is None:
            return self._room if request.length is None else request.length
        known = len(self.encode("prefix", request.prefix)) + len(self.encode("suffix", request.suffix))
        written = self._written(request, known)
        self._check_room("prefix and suffix have", known, written)
        return known + written

    def _asked(self, request: Request) -> NDArray[np.int32]:
        """The tokens of a conversation, and room for the answer."""
        name = "prompt" if request.messages is None else "messages"
        known = self.encode(name, self._conversation(request))
        written = self._written(request, len(known))
        self._check_room(f"{name} has" if name == "prompt" else f"{name} have", len(known), written)
        return np.concatenate([known, np.full(written, FREE, np.int32)])

    def _written(self, request: Request, known: int) -> int:
        """Tokens to be written beside those: of a model of any length, unless it is said, those that are left of its
        default text."""
        backbone = self.config.backbone
        assert backbone is not None  # which the model has checked
        if request.max_new_tokens is not None:
            return request.max_new_tokens
        own = backbone.unmasking.max_new_tokens
        return own - known if backbone.context is not None and known < own else own

    def _check_room(self, words: str, known: int, written: int) -> None:
        if known + written > self._room:
            raise ValueError(
                f"{words} {known} tokens, and {written} are to be written (max_new_tokens), allowed: "
                f"{self._room} together, the length"
            )

    def _conversation(self, request: Request) -> str:
        """The text that is continued. Raises ValueError where there is no template for it."""
        if request.messages is not None:
            messages = [{"role": role, "content": content} for role, content in request.messages]
        else:
            assert request.prompt is not None
            if self.chat is None and request.system is None:
                return request.prompt
            system = [] if request.system is None else [{"role": "system", "content": request.system}]
            messages = [*system, {"role": "user", "content": request.prompt}]
        if self.chat is None:
            name = "messages" if request.messages is not None else "system"
            raise ValueError(f"{name}: the tokenizer has no chat template, allowed: a prompt, continued as it is")
        return self.chat.render(messages)

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


def token_array(tokens: ArrayLike, config: ModelConfig) -> NDArray[np.int32]:
    """Texts as a caller gives them to a network: int32 [B, L]. Raises ValueError, saying what is allowed."""
    given = np.asarray(tokens)
    if given.dtype.kind not in "iu" or given.ndim != 2 or given.size == 0:
        raise ValueError(f"tokens is {given.dtype} {given.shape}, must be integers [B, L]")
    if given.shape[1] > config.length:
        raise ValueError(f"tokens has {given.shape[1]} positions, allowed: 1 to {config.length}")
    least, most = int(given.min()), int(given.max())
    if least < 0 or most >= config.vocab_size:
        raise ValueError(f"tokens has {least if least < 0 else most}, allowed: 0 to {config.vocab_size - 1}")
    return given.astype(np.int32)


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
