"""Timing loops: how often they call, and which of the calls count. Nothing here depends on how long a call takes."""

from __future__ import annotations

import pytest
from fastsedd_kernels.runtime import timing


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that calls may move, and that a pause moves."""
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(timing.time, "sleep", sleep)
    return now


def test_calls_fill_the_time(clock: list[float]) -> None:
    def call() -> None:
        clock[0] += 0.25

    assert timing.call_seconds(call, 1.0) == [0.25] * 4
    assert timing.call_seconds(call, 0.0, least=3) == [0.25] * 3


def test_calls_before_the_measurement_do_not_count(clock: list[float]) -> None:
    seconds = iter([8.0, 4.0, 0.25, 0.75, 0.5])
    before = clock[0]

    def call() -> None:
        clock[0] += next(seconds)

    assert timing.median_seconds(call, 1.5, warm_up=12.0, pause=2.0) == 0.5
    assert clock[0] - before == 2.0 + 8.0 + 4.0 + 1.5
