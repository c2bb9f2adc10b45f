"""Server-sent events: pieces of a reply as they come, to a client that may go away at any time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import msgspec

from fastsedd.server import errors
from fastsedd.server.answer import Answer
from fastsedd.server.guard import Receive, Scope, Send

_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # nginx passes each event on at once
)


async def send_events(
    pieces: AsyncIterator[msgspec.Struct], answer: Answer, release: Callable[[], None],
    scope: Scope, receive: Receive, send: Send,
) -> None:  # fmt: skip
    """Send pieces, then [DONE]; an error as a piece of its own, after which nothing follows.

    release : called at the end, whatever it was
    """
    watching = asyncio.ensure_future(answer.watch(receive))
    try:
        begun = False
        try:
            async for piece in pieces:
                if not begun:
                    await send({"type": "http.response.start", "status": 200, "headers": list(_HEADERS)})
                    begun = True
                await _send(send, msgspec.json.encode(piece))
                await asyncio.sleep(0.0)  # others have their turn, and a client's going away is seen
            await _send(send, b"[DONE]")
        except errors.ClientGone:
            raise
        except Exception as error:
            refusal = errors.of(error)
            if not begun or refusal.status == 500:
                raise
            await _send(send, refusal.body())
        await send({"type": "http.response.body", "body": b""})
    finally:
        watching.cancel()
        release()


async def _send(send: Send, data: bytes) -> None:
    await send({"type": "http.response.body", "body": b"data: " + data + b"\n\n", "more_body": True})
