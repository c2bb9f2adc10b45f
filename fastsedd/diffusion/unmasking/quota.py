"""Quotas, the number of masks that each step commits to: the schedules of dllm, LLaDA and Dream."""

from __future__ import annotations

import math

from fastsedd.choices import Quota


def quotas(name: Quota, masks: int, steps: int) -> list[int]:
    """Positions that each step of a block commits to: whole numbers whose sum is `masks`, without those that are 0.

    masks : of the block; steps : at most so many, 1 or more. With t = (steps - j) / steps and s = t - 1 / steps:
    "dllm"  : of those that are left, the share 1 - s / t, rounded half to even (MDLM's reverse process)
    "llada" : as many in each, and one more in the first masks mod steps
    "dream" : the share 1 - s / t, rounded down, where t falls evenly from 1 to 1/1000; the last takes all
    """
    if name == "llada":
        least, more = divmod(masks, steps)
        return [count for j in range(steps) if (count := least + (j < more))]
    found, left = [], masks
    for j in range(steps):
        count = _dllm(left, j, steps) if name == "dllm" else _dream(left, j, steps)
        left -= count
        found += [count] if count else []
    return found


def _dllm(left: int, j: int, steps: int) -> int:
    t, s = (steps - j) / steps, (steps - j - 1) / steps
    return round(left * (1 - s / t))


def _dream(left: int, j: int, steps: int) -> int:
    if j == steps - 1:
        return left
    t, s = (1 - step * (1 - 1e-3) / steps for step in (j, j + 1))
    return math.floor(left * (1 - s / t))
