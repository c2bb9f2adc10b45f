"""A comparison of contenders: checked first, then timed in turns, in one run.

Each round takes every contender once, in random order, and the machine's own limit with them. Before a turn there is a
pause, so that the threads of the one before have stopped spinning, and calls that are not timed, until a core that
slept is at its full clock again. A ratio is taken within its round, where the clock and the neighbours were the same;
the median of the rounds is reported.
"""

from __future__ import annotations

import os
import random
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import fastsedd_kernels as fk
from fastsedd_kernels.runtime.timing import median_seconds

ROUNDS = int(os.environ.get("FASTSEDD_BENCH_ROUNDS", "7"))
PAUSE = 0.06  # seconds
WARM_UP = 0.03  # seconds of calls that do not count
TURN = 0.05  # seconds of calls that do

OURS = "fastsedd"


def turn(run: Any) -> float:
    """Median seconds of a call; run : a function, or what has a `turn` that does all this in another process."""
    if hasattr(run, "turn"):
        return float(run.turn())
    return median_seconds(run, TURN, warm_up=WARM_UP, pause=PAUSE)


def hold(contenders: Mapping[str, Any], limit: Callable[[], float], work: int, rounds: int = ROUNDS) -> dict[str, Any]:
    """Compare calls that do the same `work` (operations or bytes); `limit()` measures the attainable work per second.

    Returns `seconds` (a contender's median), `ratios` (of a peer's time to ours), `fraction` (of the limit that ours
    reached) and `limit`.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    limits: list[float] = []
    for _ in range(rounds):
        for name in random.sample([*contenders, ""], len(contenders) + 1):
            if name:
                seconds[name].append(turn(contenders[name]))
            else:
                time.sleep(PAUSE)
                limits.append(limit())
    return summary(seconds, limits, work)


def summary(seconds: Mapping[str, list[float]], limits: list[float], work: int) -> dict[str, Any]:
    """Medians of times, and of ratios taken round by round."""
    ours = seconds[OURS]
    return {
        "seconds": {name: statistics.median(taken) for name, taken in seconds.items()},
        "ratios": {
            name: statistics.median(theirs / mine for theirs, mine in zip(taken, ours, strict=True))
            for name, taken in seconds.items()
            if name != OURS
        },
        "fraction": statistics.median(work / mine / limit for mine, limit in zip(ours, limits, strict=True)),
        "limit": statistics.median(limits),
    }


def peak(dtype: str) -> Callable[[], float]:
    return lambda: fk.peak_flops(dtype, TURN)


def bandwidth(nbytes: int) -> Callable[[], float]:
    return lambda: fk.read_bandwidth(nbytes, TURN)
