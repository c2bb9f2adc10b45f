"""Keys, bodies that are bounded, errors as objects, and counting, before every endpoint."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request

from fastsedd.server import errors
from fastsedd.server.errors import Refusal
from fastsedd.server.metrics import Metrics

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN_PATHS = frozenset({"/", "/health"})  # without a key
_BODY_SECONDS = 20.0  # in which a body has to arrive

_DISCARDED = 16 << 20  # bytes of a body beyond its limit that are read, and forgotten

_LOG = logging.getLogger(__name__)
_Body = TypeVar("_Body")


class Guard:
    """An application around another. keys : of which a request must have one, none for no keys at all

    paths : that are counted by their own name; any other is counted as "other"
    """

    def __init__(self, inner: Application, keys: tuple[str, ...], metrics: Metrics, paths: frozenset[str]) -> None:
        self._inner, self._metrics, self._paths = inner, metrics, paths
        self._keys = tuple(key.encode() for key in keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        status, started = 0, time.perf_counter()

        async def counted(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self._metrics.running.inc()
        try:
            if self._keys and scope["path"] not in OPEN_PATHS and not self._allows(scope):
                raise errors.no_key()
            await self._inner(scope, receive, counted)
        except (errors.ClientGone, ClientDisconnect):
            status = status or 499
        except Exception as error:
            refusal = errors.of(error)
            if refusal.status == 500:
                _LOG.error("%s has failed", scope["path"], exc_info=error)
            if status == 0:
                await respond(counted, refusal.status, refusal.body(), refusal.headers)
        finally:
            path = scope["path"] if scope["path"] in self._paths else "other"
            self._metrics.running.dec()
            self._metrics.requests.labels(path, str(status)).inc()
            self._metrics.seconds.labels(path).observe(time.perf_counter() - started)

    def _allows(self, scope: Scope) -> bool:
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        scheme, _, key = given.partition(b" ")
        found = False
        for each in self._keys:  # all of them, and each in constant time
            found |= hmac.compare_digest(key.strip(), each)
        return found and scheme.lower() == b"bearer"


async def respond(
    send: Send, status: int, body: bytes, headers: Any = None, content_type: str = "application/json"
) -> None:
    """Send an answer that is whole."""
    own = {
        "content-type": content_type, "content-length": str(len(body)), "x-content-type-options": "nosniff",
        **(headers or {}),
    }  # fmt: skip
    fields = [(name.lower().encode(), value.encode()) for name, value in own.items()]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})


async def read(request: Request, kind: type[_Body], limit: int) -> _Body:
    """The body of a request. Raises Refusal for one that is too long, too slow, no JSON, or not of that kind."""
    content_type = request.headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise Refusal(415, f"content-type is {content_type!r}, allowed: application/json")
    stated = request.headers.get("content-length", "")
    if stated.isdigit() and int(stated[:20]) > limit + _DISCARDED:
        raise errors.too_large(limit)
    try:
        body = await asyncio.wait_for(_collect(request, limit), _BODY_SECONDS)
    except asyncio.TimeoutError:
        raise Refusal(408, f"the body has not arrived within {_BODY_SECONDS:g} s") from None
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise errors.invalid(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise errors.invalid(f"the body is not JSON in UTF-8: {error}") from None
    except RecursionError:
        raise errors.invalid("the body is nested too deeply") from None


async def _collect(request: Request, limit: int) -> bytes:
    """A body that is not too long. One that is a little too long is read to its end, so that its sender hears of it."""
    parts: list[bytes] = []
    total = 0
    async for part in request.stream():
        total += len(part)
        if total <= limit:
            parts.append(part)
        elif total > limit + _DISCARDED:
            break
    if total > limit:
        raise errors.too_large(limit)
    return b"".join(parts)
