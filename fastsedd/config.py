"""Parts of a model's config that no architecture changes, frozen and checked where they are built."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

# Bounds that no real model is near, so that a hostile file is refused before it takes memory.
MAX_TOKENS = 1 << 20
MAX_WIDTH = 1 << 15
MAX_TOKEN_CHARACTERS = 256
MAX_BLOCKS = 512
MAX_LENGTH = 1 << 17
MAX_PARAMETERS = 1 << 34
MAX_STEPS = (1 << 16) - 2
MAX_TIMES = 1 << 12

LOGLINEAR_REST = 1e-3  # the share of a text that is left without noise at t = 1, so that sigma(1) is finite
FREQUENCIES = 256  # sinusoids of sigma that condition a model


@dataclass(frozen=True)
class NoiseConfig:
    """The noise schedule; loglinear, cosine and sine have no parameters and ignore both sigmas."""

    type: Literal["geometric", "loglinear", "cosine", "sine", "linear"]
    sigma_min: float = 1e-4
    sigma_max: float = 20.0

    def __post_init__(self) -> None:
        check_one_of("noise.type", self.type, ("geometric", "loglinear", "cosine", "sine", "linear"))
        check_number("noise.sigma_min", self.sigma_min)
        check_number("noise.sigma_max", self.sigma_max)
        least_allowed = self.sigma_min > 0 or (self.type == "linear" and self.sigma_min == 0)
        if self.type in ("geometric", "linear") and not (least_allowed and self.sigma_min < self.sigma_max < math.inf):
            raise ValueError(
                f"noise.sigma_min is {self.sigma_min} and noise.sigma_max is {self.sigma_max}, "
                "allowed: 0 < sigma_min < sigma_max, finite"
            )


@dataclass(frozen=True)
class GenerationConfig:
    """The steps and temperature that a checkpoint recommends: the defaults of a request.

    A temperature of 0, the likeliest token each time, is for masked language models.
    """

    steps: int = 128
    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_range("generation.steps", self.steps, 1, MAX_STEPS)
        check_number("generation.temperature", self.temperature)
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"generation.temperature is {self.temperature}, allowed: 0 or above, finite")


@dataclass(frozen=True)
class FittedTimes:
    """Times of a grid that was fitted to a model: falling from 1 to 0, with as many steps between each two of them."""

    times: tuple[float, ...]

    def __post_init__(self) -> None:
        check_range("times: their number", len(self.times), 2, MAX_TIMES)
        if (self.times[0], self.times[-1]) != (1.0, 0.0):
            raise ValueError(f"times run from {self.times[0]} to {self.times[-1]}, allowed: from 1 to 0")
        for before, after in pairwise(self.times):
            if not before > after:
                raise ValueError(f"times has {after} after {before}, allowed: falling values")


def check_range(name: str, value: int, least: int, most: int) -> None:
    """Raise ValueError, naming it, for anything but an integer in that range."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{name} is {value!r}, allowed: {least} to {most}")


def check_number(name: str, value: float) -> None:
    """Raise ValueError, naming it, for anything but a number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{name} is {value!r}, allowed: a number")


def check_one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise ValueError, naming it, for anything but one of these."""
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}, allowed: {', '.join(map(repr, allowed))}")
