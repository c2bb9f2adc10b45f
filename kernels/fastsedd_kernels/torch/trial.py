"""Timing of a layer both ways, so that one which the kernels do not make faster is left to PyTorch."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

TOKENS = 128
LEAST_GAIN = 0.97  # below it, PyTorch is faster by more than the noise of a trial

_ROUNDS = 7
_SECONDS = 0.3  # after which fewer rounds have to do
_MIN_ROUNDS = 3


def gain(
    ours: Callable[[], Any], theirs: Callable[[], Any], clock: Callable[[], float] = time.perf_counter
) -> float:  # fmt: skip
    """The speed-up of ours over theirs: the median over rounds in which both take turns, without gradients."""

    def seconds(call: Callable[[], Any]) -> float:
        started = clock()
        call()
        return clock() - started

    with torch.no_grad():
        ours(), theirs()  # compiled, packed and recorded
        ours(), theirs()
        ratios: list[float] = []
        begun = clock()
        while len(ratios) < _ROUNDS and (len(ratios) < _MIN_ROUNDS or clock() - begun < _SECONDS):
            taken = seconds(ours)
            ratios.append(seconds(theirs) / max(taken, 1e-9))
    return statistics.median(ratios)


def in_words(gain: float) -> str:
    """The reason for which a layer or a function is left."""
    return f"PyTorch takes {gain:.2f} of the kernels' time"
