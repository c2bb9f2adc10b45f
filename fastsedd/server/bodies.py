"""Bodies of requests, typed: OpenAI's field names and this engine's; fields that are unknown are refused by name."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from fastsedd.choices import Draw, Grid, Order, Predictor
from fastsedd.engine import Model
from fastsedd.request import Request
from fastsedd.server import errors
from fastsedd.server.limits import Limits

Count = Annotated[int, Meta(ge=1, le=1 << 20)]
Seed = Annotated[int, Meta(ge=0, extra_json_schema={"maximum": (1 << 64) - 1})]
Share = Annotated[float, Meta(gt=0, le=1)]
Amount = Annotated[float, Meta(ge=0, le=1e6)]
Text = Annotated[str, Meta(max_length=1 << 20)]

# Fields of a body that are arguments of `Request` under the same name.
_SAME = (
    "seed", "steps", "temperature", "top_p", "top_k", "draw", "grid", "predictor", "length", "block_length", "order",
    "order_temperature", "threshold", "factor", "entropy_bound", "cfg_scale", "cache",
)  # fmt: skip


class StreamOptions(msgspec.Struct, forbid_unknown_fields=True):
    """include_usage : a last chunk counts the tokens; include_confidence : states say how likely new tokens were"""

    include_usage: bool = False
    include_confidence: bool = False
    include_obfuscation: bool | None = None  # OpenAI's, which has nothing to act on here


class Sampling(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """How texts are written; null stands for the model's own default.

    n : how many texts; steps : of the denoising; the rest is told in docs/serving.md
    """

    model: str | None = None
    n: Count | None = None
    seed: Seed | None = None
    steps: Count | None = None
    temperature: Amount | None = None
    top_p: Share | None = None
    top_k: Annotated[int, Meta(ge=0, le=1 << 20)] | None = None
    draw: Draw | None = None
    grid: Grid | None = None
    predictor: Predictor | None = None
    length: Count | None = None
    block_length: Count | None = None
    order: Order | None = None
    order_temperature: Amount | None = None
    threshold: Amount | None = None
    factor: Amount | None = None
    entropy_bound: Amount | None = None
    cfg_scale: Amount | None = None
    cache: Literal["exact", "off"] | None = None  # by an approximate one a text would depend on those beside it
    stop: Text | Annotated[list[Text], Meta(max_length=4)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts that end an answer."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(each for each in given if each)

    def options(self, limits: Limits) -> dict[str, Any]:
        """The arguments of `Request` that every kind of body has. Raises Refusal beyond the limits."""
        for name, most in (("n", limits.max_samples), ("steps", limits.max_steps)):
            value = getattr(self, name)
            if value is not None and value > most:
                raise errors.invalid(f"{name} is {value}, allowed: 1 to {most}")
        return {"num_samples": self.n, **{name: getattr(self, name) for name in _SAME}}

    def request(self, model: Model, limits: Limits) -> Request:
        """The engine's request. Raises ValueError or Refusal, naming the field."""
        raise NotImplementedError


class Completion(Sampling):
    """A text that begins with the prompt, and ends with the suffix.

    max_tokens : how many are written between them; those that are left of the model's length if null
    echo : the answer has the prompt and the suffix, too
    """

    prompt: Text = ""
    suffix: Text | None = None
    max_tokens: Count | None = None
    echo: bool | None = None
    best_of: Count | None = None
    frequency_penalty: Annotated[float, Meta(ge=0, le=0)] | None = None
    presence_penalty: Annotated[float, Meta(ge=0, le=0)] | None = None

    def request(self, model: Model, limits: Limits) -> Request:
        if self.best_of not in (None, self.n or 1):
            raise errors.invalid(f"best_of is {self.best_of}, allowed: n")
        own: dict[str, Any] = {"prefix": self.prompt, "suffix": self.suffix}
        if model.config.backbone is not None:
            own |= {"max_new_tokens": self.max_tokens, "stop": self.stops}
        elif self.max_tokens is not None:
            if self.length is not None:
                raise errors.invalid("max_tokens is given with a length, allowed: one of them")
            known = _count(model, "prompt", self.prompt) + _count(model, "suffix", self.suffix or "")
            if known + self.max_tokens > model.config.length:
                raise errors.invalid(
                    f"max_tokens is {self.max_tokens}, beside {known} tokens of the prompt and the suffix, allowed: "
                    f"{model.config.length} together"
                )
            own["length"] = known + self.max_tokens
        return Request.of(**{**self.options(limits), **own})


def _count(model: Model, name: str, text: str) -> int:
    """Tokens of a field's text."""
    try:
        return len(model.tokenizer.encode(text))
    except ValueError as error:
        raise errors.invalid(f"{name}: {error}") from None


class Fill(Sampling):
    """Text with gaps: {{40}} is one of 40 tokens, {{}} one of all that are left; fixed : {position: token}."""

    template: Text | None = None
    fixed: dict[int, int] | None = None

    def request(self, model: Model, limits: Limits) -> Request:
        stops = self.stops if model.config.backbone is not None else None
        own = {"template": self.template, "fixed": self.fixed, "stop": stops}
        return Request.of(**{**self.options(limits), **own})


class TextPart(msgspec.Struct, forbid_unknown_fields=True):
    """A piece of a message's content."""

    text: Text
    type: Literal["text"] = "text"


class Message(msgspec.Struct, forbid_unknown_fields=True):
    """A message of a conversation."""

    role: Annotated[str, Meta(max_length=64)]
    content: Text | list[TextPart]
    name: str | None = None

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class Chat(Sampling):
    """A conversation, whose last message is to be answered; max_completion_tokens, or max_tokens : of the answer."""

    messages: Annotated[list[Message], Meta(min_length=1, max_length=1024)]
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    frequency_penalty: Annotated[float, Meta(ge=0, le=0)] | None = None
    presence_penalty: Annotated[float, Meta(ge=0, le=0)] | None = None

    def request(self, model: Model, limits: Limits) -> Request:
        if model.config.backbone is None:
            raise errors.invalid(
                "messages: this model has no conversations, it writes texts: allowed: /v1/completions, /v1/fill"
            )
        messages = [{"role": each.role, "content": each.text} for each in self.messages]
        most = self.max_completion_tokens or self.max_tokens
        own = {"messages": messages, "max_new_tokens": most, "stop": self.stops}
        return Request.of(**{**self.options(limits), **own})


class Evaluate(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A text whose likelihood is to be bounded; times : noise levels per window."""

    text: Annotated[str, Meta(min_length=1, max_length=1 << 20)]
    model: str | None = None
    times: Annotated[int, Meta(ge=1, le=256)] = 8
    seed: Seed = 0
