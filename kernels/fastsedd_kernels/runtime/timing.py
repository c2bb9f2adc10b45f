"""Duration of a call: the median of many, after some that do not count."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


def median_seconds(
    call: Callable[[], object], seconds: float, *, warm_up: float, pause: float = 0.0, least: int = 1
) -> float:
    """Median time of a call, in seconds.

    seconds : how long to measure; warm_up : how long to call before, until a core that slept is at its full clock
    pause : before all of it, until the threads of whatever ran before have stopped spinning
    least : number of calls that are made even if they take longer
    """
    time.sleep(pause)
    call_seconds(call, warm_up, least)
    return statistics.median(call_seconds(call, seconds, least))


def call_seconds(call: Callable[[], object], seconds: float, least: int = 1) -> list[float]:
    """Seconds of each call: of as many calls as fill `seconds`, and of `least` or more."""
    taken: list[float] = []
    total = 0.0
    while total < seconds or len(taken) < least:
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
        total += taken[-1]
    return taken
