"""Answers between two threads: items in order, a bounded number of states, deadlines, clients that go away."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette", reason="an extra")
pytest.importorskip("prometheus_client", reason="an extra")

from fastsedd.server.answer import _MAX_STATES, Answer
from fastsedd.server.errors import ClientGone, Refusal
from fastsedd.server.scheduler import Failure, State, Written

IDS = np.zeros(3, np.int32)


def test_states_of_a_slow_reader_are_left_out_and_its_text_is_not() -> None:
    async def read() -> list[Any]:
        answer = Answer(60.0)

        def write() -> None:
            for step in range(10 * _MAX_STATES):
                answer.put(State(0, step, 10_000, IDS))
            answer.put(Written(0, 10_000, IDS, "text"))

        thread = threading.Thread(target=write)
        thread.start()
        thread.join()
        found = [await answer.next() for _ in range(_MAX_STATES + 1)]
        answer.put(State(0, 1, 1, IDS))
        found.append(await answer.next())
        return found

    *states, text, more = asyncio.run(read())
    assert [state.step for state in states] == list(range(_MAX_STATES))
    assert text.text == "text" and isinstance(more, State)


def test_items_wake_their_reader() -> None:
    async def read() -> list[int]:
        answer = Answer(60.0)
        turns = threading.Semaphore(0)

        def write() -> None:
            for step in range(200):
                turns.acquire()
                answer.put(State(0, step, 200, IDS))

        threading.Thread(target=write).start()
        found = []
        for _ in range(200):
            turns.release()
            item = await answer.next()
            assert isinstance(item, State)
            found.append(item.step)
        return found

    assert asyncio.run(read()) == list(range(200))


def test_a_reader_hears_of_failures_deadlines_and_clients_that_go_away() -> None:
    async def gone() -> dict[str, str]:
        return {"type": "http.disconnect"}

    async def read() -> None:
        answer = Answer(60.0)
        answer.put(Failure(ZeroDivisionError()))
        with pytest.raises(ZeroDivisionError):
            await answer.next()
        with pytest.raises(Refusal, match=r"not done within 0\.01 s"):
            await Answer(0.01).next()
        answer.put(State(0, 1, 2, IDS))
        await answer.watch(gone)
        assert answer.abandoned
        with pytest.raises(ClientGone):
            await answer.next()

    asyncio.run(read())
