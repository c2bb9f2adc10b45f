"""The choice among tokens in a reverse step: its predictor, its draw, and which tokens it leaves out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real

from fastsedd.choices import DRAWS, PREDICTORS, Draw, Predictor, check_one_of, is_integer


@dataclass(frozen=True)
class Choice:
    """The settings of a reverse step.

    predictor : "analytic", "euler", or, for networks that predict the clean token, "ddpm", whose last step takes the
        likeliest one
    draw : "exact", or "official": the published code's noise, whose truncation acts as a lower temperature
    temperature : see `apply_temperature`; top_k, top_p : see `truncate`
    Raises ValueError, naming the argument, its value and what is allowed.
    """

    predictor: Predictor = "analytic"
    draw: Draw = "exact"
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        check_one_of("predictor", self.predictor, PREDICTORS)
        check_one_of("draw", self.draw, DRAWS)
        if not (_is_number(self.temperature) and 0.0 < self.temperature < math.inf):
            raise ValueError(f"temperature is {self.temperature!r}, allowed: 0 < temperature < infinity")
        if not is_integer(self.top_k) or self.top_k < 0:
            raise ValueError(f"top_k is {self.top_k!r}, allowed: 1 or more, or 0 for all")
        if not (_is_number(self.top_p) and 0.0 < self.top_p <= 1.0):
            raise ValueError(f"top_p is {self.top_p!r}, allowed: 0 < top_p <= 1")

    @property
    def needs_rows(self) -> bool:
        """True if a draw has to see all of a position's probabilities at once."""
        return self.draw != "exact" or self.top_k > 0 or self.top_p < 1.0


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
