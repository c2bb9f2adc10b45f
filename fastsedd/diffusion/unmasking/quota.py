"""Quotas, the number of masks that each step commits to: the schedules of dllm, LLaDA, Dream, SMDM and BD3-LM."""

from __future__ import annotations

import math

from fastsedd.choices import Quota

_LAST_TIMES: dict[Quota, float] = {"dream": 1e-3, "smdm": 1e-5}  # where t ends, of those whose last step takes all


def quotas(name: Quota, masks: int, steps: int) -> list[int]:
    """Positions that each step of a block commits to: whole numbers whose sum is `masks`, without those that are 0.

    masks : of the block; steps : at most so many, 1 or more
    "dllm"  : of those that are left, `share`, rounded half to even (MDLM's reverse process)
    "llada" : as many in each, and one more in the first masks mod steps
    "dream", "smdm" : of those that are left, `share`, rounded down
    "single" : one in each, and so as many steps as masks: the times at which masks fall one by one (Zheng et al. 2025)
    """
    if name == "single":
        return [1] * masks
    if name == "llada":
        least, more = divmod(masks, steps)
        return [count for j in range(steps) if (count := least + (j < more))]
    found, left = [], masks
    for j in range(steps):
        wanted = left * share(name, j, steps)
        count = round(wanted) if name == "dllm" else math.floor(wanted)
        left -= count
        found += [count] if count else []
    return found


def share(name: Quota, j: int, steps: int) -> float:
    """The share 1 - s / t of the masks that step j of so many unmasks, under masks that are there with probability t.

    "dllm", "llada", "single" : t falls evenly from 1 to 0, t = (steps - j) / steps and s = t - 1 / steps
    "dream", "smdm" : from 1 to 1/1000 or 1/100,000; the last step takes all
    """
    if name not in _LAST_TIMES:
        t, s = (steps - j) / steps, (steps - j - 1) / steps
        return 1 - s / t
    if j == steps - 1:
        return 1.0
    t, s = (1 - step * (1 - _LAST_TIMES[name]) / steps for step in (j, j + 1))
    return 1 - s / t
