"""Noise schedules: how much total noise sigma a text has received at time t, and how fast more of it comes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastsedd.config import LOGLINEAR_REST

Time = TypeVar("Time", float, NDArray[np.float64])

_QUARTER_TURN = (1.0 - LOGLINEAR_REST) * math.pi / 2.0


class Noise(Protocol):
    """A schedule on 0 <= t <= 1; ``t`` is a float or a float64 array, and the result has its shape."""

    def total(self, t: Time) -> Time:
        """Total noise sigma(t), increasing in t."""

    def rate(self, t: Time) -> Time:
        """Rate of noise, the derivative of ``total`` at t."""

    def time(self, sigma: Time) -> Time:
        """The t at which ``total`` is sigma."""


@dataclass(frozen=True)
class Geometric:
    """Geometric interpolation from ``sigma_min`` at t = 0 to ``sigma_max`` at t = 1 (Lou et al. 2024, section 5.1).

    Raises ValueError unless 0 < sigma_min < sigma_max < infinity.
    """

    sigma_min: float
    sigma_max: float

    def __post_init__(self) -> None:
        if not 0.0 < self.sigma_min < self.sigma_max < math.inf:
            raise ValueError(
                f"sigma_min is {self.sigma_min} and sigma_max is {self.sigma_max}, "
                "allowed: 0 < sigma_min < sigma_max < infinity"
            )

    def total(self, t: Time) -> Time:
        """sigma(t) = sigma_min^(1-t) sigma_max^t."""
        sigma: Time = self.sigma_min ** (1.0 - t) * self.sigma_max**t
        return sigma

    def rate(self, t: Time) -> Time:
        """sigma(t) log(sigma_max / sigma_min)."""
        return self.total(t) * math.log(self.sigma_max / self.sigma_min)

    def time(self, sigma: Time) -> Time:
        """log(sigma / sigma_min) / log(sigma_max / sigma_min)."""
        t: Time = np.log(sigma / self.sigma_min) / math.log(self.sigma_max / self.sigma_min)
        return t


@dataclass(frozen=True)
class LogLinear:
    """Schedule under which a share (1 - 1e-3) t of the tokens has jumped at time t (Lou et al. 2024, section 5.1)."""

    def total(self, t: Time) -> Time:
        """sigma(t) = -log(1 - (1 - 1e-3) t)."""
        sigma: Time = -np.log1p(-(1.0 - LOGLINEAR_REST) * t)
        return sigma

    def rate(self, t: Time) -> Time:
        """(1 - 1e-3) / (1 - (1 - 1e-3) t)."""
        return (1.0 - LOGLINEAR_REST) / (1.0 - (1.0 - LOGLINEAR_REST) * t)

    def time(self, sigma: Time) -> Time:
        """(1 - e^-sigma) / (1 - 1e-3)."""
        t: Time = -np.expm1(-sigma) / (1.0 - LOGLINEAR_REST)
        return t


@dataclass(frozen=True)
class Cosine:
    """Schedule under which a share (1 - 1e-3) cos(pi t / 2) + 1e-3 has not jumped at time t (Sahoo et al. 2024)."""

    def total(self, t: Time) -> Time:
        """sigma(t) = -log(1e-3 + (1 - 1e-3) cos(pi t / 2)), by the sine of half the angle, exact near 0."""
        moved = 2.0 * (1.0 - LOGLINEAR_REST) * np.sin(math.pi / 4.0 * t) ** 2
        sigma: Time = -np.log1p(-moved)
        return sigma

    def rate(self, t: Time) -> Time:
        """(1 - 1e-3) (pi / 2) sin(pi t / 2) / (1e-3 + (1 - 1e-3) cos(pi t / 2))."""
        kept = LOGLINEAR_REST + (1.0 - LOGLINEAR_REST) * np.cos(math.pi / 2.0 * t)
        rate: Time = (1.0 - LOGLINEAR_REST) * math.pi / 2.0 * np.sin(math.pi / 2.0 * t) / kept
        return rate

    def time(self, sigma: Time) -> Time:
        """(4 / pi) arcsin(sqrt((1 - e^-sigma) / (2 (1 - 1e-3))))."""
        half = np.sqrt(-np.expm1(-sigma) / (2.0 * (1.0 - LOGLINEAR_REST)))
        t: Time = 4.0 / math.pi * np.arcsin(half)
        return t


@dataclass(frozen=True)
class Sine:
    """Schedule under which a share 1 - sin((1 - 1e-3) pi t / 2) has not jumped at time t; Duo's trainer calls it cosine
    (Sahoo et al. 2025, published code)."""

    def total(self, t: Time) -> Time:
        """sigma(t) = -log(1 - sin((1 - 1e-3) pi t / 2))."""
        sigma: Time = -np.log1p(-np.sin(_QUARTER_TURN * t))
        return sigma

    def rate(self, t: Time) -> Time:
        """(1 - 1e-3) (pi / 2) cos(angle) / (1 - sin(angle)), at the same angle."""
        rate: Time = _QUARTER_TURN * np.cos(_QUARTER_TURN * t) / (1.0 - np.sin(_QUARTER_TURN * t))
        return rate

    def time(self, sigma: Time) -> Time:
        """(2 / pi) arcsin(1 - e^-sigma) / (1 - 1e-3)."""
        t: Time = np.arcsin(-np.expm1(-sigma)) / _QUARTER_TURN
        return t


@dataclass(frozen=True)
class Linear:
    """Noise that grows evenly from ``sigma_min`` at t = 0 to ``sigma_max`` at t = 1.

    Raises ValueError unless 0 <= sigma_min < sigma_max < infinity.
    """

    sigma_min: float
    sigma_max: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.sigma_min < self.sigma_max < math.inf:
            raise ValueError(
                f"sigma_min is {self.sigma_min} and sigma_max is {self.sigma_max}, "
                "allowed: 0 <= sigma_min < sigma_max < infinity"
            )

    def total(self, t: Time) -> Time:
        """sigma(t) = sigma_min + t (sigma_max - sigma_min)."""
        return self.sigma_min + t * (self.sigma_max - self.sigma_min)

    def rate(self, t: Time) -> Time:
        """sigma_max - sigma_min."""
        return 0.0 * t + (self.sigma_max - self.sigma_min)

    def time(self, sigma: Time) -> Time:
        """(sigma - sigma_min) / (sigma_max - sigma_min)."""
        return (sigma - self.sigma_min) / (self.sigma_max - self.sigma_min)
