"""The settings of unmasking, checked where they are built."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real

from fastsedd.choices import ORDERS, QUOTAS, Order, Quota, check_integer, check_one_of

MAX_STEPS = (1 << 16) - 2
MAX_CFG_SCALE = 1e6  # times the logits, which are float32
PARALLEL = ("threshold", "factor", "entropy_bound")


@dataclass(frozen=True)
class Settings:
    """How masks are committed to.

    steps : of the whole text, shared out evenly over its blocks; each commits to its quota. Not of parallel decoding.
    order : which masks come first. "confidence", the probability of the token that is proposed; "margin", of the
        likeliest token less that of the next; "entropy", the distribution of least entropy; "random"; "independent",
        each with the probability that is its quota's share of the masks, whatever the others do; "p2", in which a
        step masks again the least confident positions of the block, committed ones too
    quota : how many at each step, see `quota`
    temperature : of proposals: 0 takes the likeliest token
    top_k, top_p : proposals are among the k likeliest tokens, 0 for all, and the smallest set of them with the share p
    top_p_within : and the largest set of them with at most the share p instead, the likeliest one at least (BD3-LM)
    of_draws : confidence, margin and entropy are of the law that proposals are drawn from, with its temperature and
        truncation (Dream, SDAR), not of softmax(logits) (LLaDA, dllm, Fast-dLLM)
    order_temperature : above 0, positions are ordered by score / order_temperature + Gumbel noise
    threshold : commit to all positions whose confidence is at least this, and to the first in order
    factor : to the largest number r of the most confident with (r + 1) (1 - c_r) < factor, c_r the least of them, 1 at
        least
    entropy_bound : to the positions of least entropy whose entropies add up to less than this, 1 at least
    cfg_scale : s of un + (s + 1) (cond - un), where un has the given tokens masked, up to 1e6; 0 for none
    At most one of threshold, factor and entropy_bound is given, and none of them with p2 or independent.
    Raises ValueError, naming the argument, its value and what is allowed.
    """

    steps: int
    order: Order = "confidence"
    quota: Quota = "dllm"
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    top_p_within: bool = False
    of_draws: bool = False
    order_temperature: float = 0.0
    threshold: float | None = None
    factor: float | None = None
    entropy_bound: float | None = None
    cfg_scale: float = 0.0

    def __post_init__(self) -> None:
        check_integer("steps", self.steps, 1, MAX_STEPS)
        check_one_of("order", self.order, ORDERS)
        check_one_of("quota", self.quota, QUOTAS)
        check_integer("top_k", self.top_k, 0, 1 << 31)
        for name in ("temperature", "order_temperature"):
            _check(name, getattr(self, name), 0.0, math.inf, "0 or above, finite")
        _check("cfg_scale", self.cfg_scale, 0.0, MAX_CFG_SCALE, f"0 to {MAX_CFG_SCALE:g}")
        _check("top_p", self.top_p, 0.0, 1.0, "0 < top_p <= 1", above=True)
        given = [name for name in PARALLEL if getattr(self, name) is not None]
        for name in given:
            _check(name, getattr(self, name), 0.0, math.inf, "0 or above, finite")
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are given, allowed: one of them")
        if given and self.order in ("p2", "independent"):
            raise ValueError(f"{given[0]} is given with the order {self.order}, allowed: another order, or neither")

    @property
    def parallel(self) -> bool:
        """True where confidence or entropy decides how many positions a step commits to, not a quota."""
        return any(getattr(self, name) is not None for name in PARALLEL)


def _check(name: str, value: object, least: float, most: float, allowed: str, *, above: bool = False) -> None:
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not number or not least <= float(value) <= most or math.isinf(float(value)) or (above and value == least):  # type: ignore[arg-type]
        raise ValueError(f"{name} is {value!r}, allowed: {allowed}")
