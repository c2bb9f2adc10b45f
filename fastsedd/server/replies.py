"""Bodies of answers, as OpenAI's clients read them, with a key `diffusion` beside the choices of a stream."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

FinishReason = Literal["stop", "length"]


class Usage(msgspec.Struct):
    """Tokens: given and written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Choice(msgspec.Struct):
    """A text, or, in a stream, a piece of it."""

    index: int
    text: str
    finish_reason: FinishReason | None = None
    logprobs: None = None


class Delta(msgspec.Struct):
    """A piece of an answer in a conversation."""

    content: str
    role: Literal["assistant"] = "assistant"


class ChatChoice(msgspec.Struct):
    """An answer in a conversation; in a stream `delta`, else `message`."""

    index: int
    message: Delta | UnsetType = UNSET
    delta: Delta | UnsetType = UNSET
    finish_reason: FinishReason | None = None
    logprobs: None = None


class Diffusion(msgspec.Struct):
    """The state of one text after a step.

    index : of its choice; step : 0 to steps, 0 for the given tokens alone
    masked : positions without a token; length : of the text, in positions
    changed : [position, text] of each position that is another one than in the last state that was sent
    confidence : of each of these the model's probability of its token, when it was drawn, among all that it might have
        been; null for given tokens and masks. Only where the stream's options ask for it.
    """

    index: int
    step: int
    steps: int
    masked: int
    length: int
    changed: list[tuple[int, str]]
    confidence: list[float | None] | UnsetType = UNSET


class CompletionReply(msgspec.Struct):
    """Texts; a stream's chunks have the same form. seed : with which the request gives the same texts again"""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[Choice]
    seed: int
    usage: Usage | UnsetType | None = UNSET
    diffusion: Diffusion | UnsetType = UNSET


class ChatReply(msgspec.Struct):
    """Answers in a conversation; a stream's chunks have the same form."""

    id: str
    object: Literal["chat.completion", "chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChatChoice]
    seed: int
    usage: Usage | UnsetType | None = UNSET
    diffusion: Diffusion | UnsetType = UNSET


class EvaluationReply(msgspec.Struct):
    """An upper bound on -log p, per token, with standard errors over windows: null where there is only one window."""

    object: Literal["evaluation"]
    model: str
    nats: float
    nats_error: float | None
    nats_per_character: float
    bits: float
    bits_error: float | None
    perplexity: float | None
    tokens: int
    characters: int
    left_out: int
    windows: int
    times: int
    seed: int


class ModelReply(msgspec.Struct):
    """The model. chat : /v1/chat/completions answers; unmasks : the options of masked language models are its own"""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    architecture: str
    length: int
    parameters: int
    steps: int
    temperature: float
    chat: bool
    unmasks: bool


class ModelsReply(msgspec.Struct):
    """All models, of which there is one."""

    object: Literal["list"]
    data: list[ModelReply]


class HealthReply(msgspec.Struct):
    """The server answers."""

    status: Literal["ok"]
