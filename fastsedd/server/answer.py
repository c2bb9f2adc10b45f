"""`Answer`: items of a request on their way from the scheduler's thread to the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from fastsedd.server import errors
from fastsedd.server.scheduler import Failure, Item, State

# States that a slow reader has not fetched: beyond them steps are left out, and the next one shows all their changes.
_MAX_STATES = 64


class Answer:
    """Takes items in any thread, hands them out in the event loop it was made in; seconds : until the deadline."""

    def __init__(self, seconds: float) -> None:
        self.abandoned = False
        self._loop = asyncio.get_running_loop()
        self._seconds = seconds
        self._deadline = self._loop.time() + seconds
        self._lock = threading.Lock()
        self._items: deque[Item] = deque()
        self._states = 0  # among the items
        self._waking = False  # the event loop has been told, and has not looked yet
        self._woken = asyncio.Event()

    def put(self, item: Item) -> None:
        with self._lock:
            if isinstance(item, State):
                if self._states == _MAX_STATES:
                    return
                self._states += 1
            self._items.append(item)
            told, self._waking = self._waking, True
        if not told:
            with suppress(RuntimeError):  # the loop has been closed, and nobody waits
                self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        with self._lock:
            self._waking = False
        self._woken.set()

    def _pop(self) -> Item | None:
        with self._lock:
            item = self._items.popleft() if self._items else None
            self._states -= isinstance(item, State)
            return item

    async def next(self) -> Item:
        """The next item. Raises Refusal after the deadline, and the error of a failure."""
        while True:
            left = self._deadline - self._loop.time()
            if left <= 0.0:
                raise errors.timed_out(self._seconds)
            self._woken.clear()
            item = self._pop()
            if isinstance(item, Failure):
                raise item.error
            if item is not None:
                return item
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._woken.wait(), left)

    async def watch(self, receive: Callable[[], Awaitable[Any]]) -> None:
        """Wait for the client to go away, which fails the answer."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self.abandoned = True
        with self._lock:
            self._items.clear()
            self._states = 0
        self.put(Failure(errors.ClientGone()))
