"""Texts of one request, on their way into replies."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from msgspec import UNSET, UnsetType
from numpy.typing import NDArray

from fastsedd.engine import Model, Writing
from fastsedd.request import Request
from fastsedd.server.answer import Answer
from fastsedd.server.bodies import Chat, Completion, Sampling
from fastsedd.server.replies import (
    ChatChoice,
    ChatReply,
    Choice,
    CompletionReply,
    Delta,
    Diffusion,
    FinishReason,
    Usage,
)
from fastsedd.server.scheduler import Returned, State, Written

Reply = CompletionReply | ChatReply
NO_TOKEN = -1  # of a position that has none


@dataclass(frozen=True)
class Asked:
    """A request that has been checked, with all that its replies need. name : of the model, as it is served"""

    body: Sampling
    request: Request
    writing: Writing[Any]
    model: Model
    name: str
    id: str = field(default_factory=lambda: secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def usage(self) -> Usage:
        """Tokens of all its texts together; those of the prompt once."""
        free = int((self.writing.given < 0).sum())
        known = len(self.writing.given) - free
        return Usage(known, free * self.request.num_samples, known + free * self.request.num_samples)

    def reply(self, texts: list[Written], usage: Usage | UnsetType | None = UNSET) -> Reply:
        """The reply that has all texts."""
        choices = [(each.index, *self.cut(each)) for each in sorted(texts, key=lambda each: each.index)]
        return self._dress(choices, usage, streamed=False)

    def chunk(self, written: Written) -> Reply:
        """The piece of a stream that has a text, whole."""
        return self._dress([(written.index, *self.cut(written))], streamed=True)

    def count(self) -> Reply:
        """The last piece of a stream, which counts the tokens."""
        return self._dress([], self.usage, streamed=True)

    def state(self, state: Diffusion) -> Reply:
        """The piece of a stream that has a state, and no text."""
        return self._dress([(state.index, "", None)], diffusion=state, streamed=True)

    def _dress(
        self, texts: Sequence[tuple[int, str, FinishReason | None]], usage: Usage | UnsetType | None = UNSET,
        diffusion: Diffusion | UnsetType = UNSET, *, streamed: bool,
    ) -> Reply:  # fmt: skip
        if not isinstance(self.body, Chat):
            choices = [Choice(*each) for each in texts]
            return CompletionReply(
                f"cmpl-{self.id}", "text_completion", self.created, self.name, choices, self.request.seed, usage,
                diffusion,
            )  # fmt: skip
        answers = [
            ChatChoice(index, delta=Delta(text), finish_reason=reason) if streamed else
            ChatChoice(index, message=Delta(text), finish_reason=reason)
            for index, text, reason in texts
        ]  # fmt: skip
        return ChatReply(
            f"chatcmpl-{self.id}", "chat.completion.chunk" if streamed else "chat.completion", self.created, self.name,
            answers, self.request.seed, usage, diffusion,
        )  # fmt: skip

    def cut(self, written: Written) -> tuple[str, FinishReason]:
        """A text as it is answered: without prompt and suffix unless they are wanted, up to the first stop."""
        free = np.flatnonzero(self.writing.given < 0)
        first, last = int(free[0]) if len(free) else 0, int(free[-1]) + 1 if len(free) else 0
        decode, ids, text = self.model.tokenizer.decode, written.ids, written.text
        between = decode(ids[first:last])
        if isinstance(self.body, Completion):
            backbone = self.model.config.backbone
            starts = backbone is not None and backbone.start is not None  # with a token that is no part of the text
            before, after = decode(ids[int(starts) : first]), decode(ids[last:])
            text = text.removeprefix(before).removesuffix(after)
            ends = [at for each in self.body.stops if (at := text.find(each)) >= 0]
            ended = bool(ends) or len(text) < len(between)
            text = text[: min(ends, default=len(text))]
            return (before + text + after if self.body.echo else text), "stop" if ended else "length"
        ends = [at for each in self.body.stops if (at := text.find(each)) >= 0]
        ended = bool(ends) or (isinstance(self.body, Chat) and len(text) < len(between))
        return text[: min(ends, default=len(text))], "stop" if ended else "length"


class Differences:
    """Changes of a request's texts from each state that was sent to the next."""

    def __init__(self, asked: Asked) -> None:
        self._decode = asked.model.tokenizer.decode
        self._mask = asked.model.config.mask_id
        given = asked.writing.given
        self._given = np.where(given < 0, NO_TOKEN, asked.writing.to_ids(np.maximum(given, 0))).astype(np.int32)
        self._before: dict[int, NDArray[np.int32]] = {}
        self._texts: dict[tuple[int, bool], str] = {}

    def to(self, item: State | Written) -> Iterator[Diffusion]:
        """Changes from the last state of a text to this one; before the first one, the given tokens as step 0."""
        index, steps, ids = item.index, item.steps, item.ids
        step = item.step if isinstance(item, State) else steps
        ids = ids if self._mask is None else np.where(ids == self._mask, NO_TOKEN, ids).astype(np.int32)
        if index not in self._before:
            self._before[index] = np.full(len(ids), NO_TOKEN, np.int32)
            none = None if item.confidence is None else np.full(len(ids), np.nan, np.float32)
            yield self._change(index, (0, steps), self._given, none)
        yield self._change(index, (step, steps), ids, item.confidence)

    def _change(
        self, index: int, at: tuple[int, int], ids: NDArray[np.int32], confidence: NDArray[np.float32] | None
    ) -> Diffusion:
        """at : step and steps"""
        positions = np.flatnonzero(ids != self._before[index])
        self._before[index] = ids
        changed = [(int(each), self._text(int(ids[each]), each == 0)) for each in positions]
        state = Diffusion(index, *at, int((ids == NO_TOKEN).sum()), len(ids), changed)
        if confidence is not None:
            known = np.isfinite(confidence) & (ids != NO_TOKEN)
            state.confidence = [round(float(confidence[each]), 4) if known[each] else None for each in positions]
        return state

    def _text(self, token: int, first: bool) -> str:
        """A token's text where it stands: behind another one, some tokenizers put a space before it."""
        if token == NO_TOKEN:
            return ""
        if (token, first) not in self._texts:
            alone = self._decode(np.array([token], np.int32))
            two = self._decode(np.array([token, token], np.int32))
            self._texts[token, first] = alone if first else two[len(alone) :]
        return self._texts[token, first]


async def whole(asked: Asked, answer: Answer) -> Reply:
    """The reply, once all texts are there."""
    texts: list[Written] = []
    while len(texts) < asked.request.num_samples:
        item = await answer.next()
        if isinstance(item, Written):
            texts.append(item)
    return asked.reply(texts, asked.usage)


async def pieces(asked: Asked, answer: Answer) -> AsyncIterator[Reply]:
    """The pieces of a stream: states, then each text, then the number of tokens if it is wanted."""
    differences = Differences(asked)
    left = asked.request.num_samples
    while left:
        item = await answer.next()
        if isinstance(item, State | Written):
            for change in differences.to(item):
                yield asked.state(change)
        if isinstance(item, Written):
            left -= 1
            yield asked.chunk(item)
    options = asked.body.stream_options
    if options is not None and options.include_usage:
        yield asked.count()


async def returned(answer: Answer) -> Any:
    """The value of a call."""
    while not isinstance(item := await answer.next(), Returned):
        pass
    return item.value
