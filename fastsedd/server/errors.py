"""Refusals, each with its HTTP status and OpenAI's error object; never a traceback."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

# Where a message names the field at fault: msgspec's two ways, then the engine's.
_FIELDS = (r"`\$\.(\w+)", r"field `(\w+)`", r"^([a-z_]+)(?= (?:is|has|have|holds|and)\b|:)")

INVALID = "invalid_request_error"


class ErrorFields(msgspec.Struct, frozen=True):
    """An error as OpenAI's clients read it."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorObject(msgspec.Struct, frozen=True):
    """The body of every answer that is not a success."""

    error: ErrorFields


@dataclass(frozen=True)
class Refusal(Exception):
    """An answer that is an error.

    param : the field at fault; code : OpenAI's word for it
    """

    status: int
    message: str
    type: str = INVALID
    param: str | None = None
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self) -> bytes:
        """The error object, as JSON."""
        return msgspec.json.encode(ErrorObject(ErrorFields(self.message, self.type, self.param, self.code)))


class ClientGone(Exception):
    """Nobody waits for the answer any longer."""


def invalid(message: str, names: Mapping[str, str] | None = None) -> Refusal:
    """A refusal of a request that says what is allowed. names : the API's names of the engine's arguments"""
    line = " ".join(message.split())
    for engine_name, name in (names or {}).items():
        line = re.sub(rf"\b{engine_name}\b", name, line)
    found = next((found for pattern in _FIELDS if (found := re.search(pattern, line))), None)
    return Refusal(400, line, param=found[1] if found else None)


def of(error: Exception) -> Refusal:
    """The refusal that an error of the engine, or of the server itself, means to a client."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, ValueError):
        return invalid(str(error))
    if isinstance(error, MemoryError):
        return Refusal(503, "there is not enough memory for this request", "server_error", code="out_of_memory")
    return Refusal(500, "the server has failed; its log says how", "server_error", code="internal_error")


def too_busy(seconds: int) -> Refusal:
    """The queue is full."""
    words = f"too many requests wait, allowed: again in {seconds} s"
    return Refusal(429, words, "rate_limit_error", code="rate_limit_exceeded", headers={"Retry-After": str(seconds)})


def timed_out(seconds: float) -> Refusal:
    """The deadline has passed."""
    return Refusal(504, f"the text was not done within {seconds:g} s", "timeout_error", code="timeout")


def no_key() -> Refusal:
    """The key is missing, or is none of the server's."""
    words = "the API key is missing or wrong, allowed: Authorization: Bearer KEY"
    return Refusal(401, words, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})


def too_large(limit: int) -> Refusal:
    """The body is longer than the server reads."""
    return Refusal(413, f"the body is too long, allowed: {limit} bytes", code="request_too_large")


def no_such_model(name: str, served: str) -> Refusal:
    """The server has another model."""
    return Refusal(404, f"model is {name!r}, allowed: {served!r}", param="model", code="model_not_found")
