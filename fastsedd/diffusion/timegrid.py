"""Time grids: the (sigma, dsigma) pairs of a sampler, from t = 1 down to clean text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastsedd.diffusion.noise import Noise


@dataclass(frozen=True)
class Step:
    """One reverse step: the score is evaluated at total noise ``sigma``, and ``dsigma`` of it is removed.

    rate_dt : dt times the rate of noise at the step's beginning: dsigma to first order in dt, which is Euler's step
    Raises ValueError unless 0 < dsigma <= sigma < infinity and 0 < rate_dt < infinity.
    """

    sigma: float
    dsigma: float
    rate_dt: float

    def __post_init__(self) -> None:
        if not 0.0 < self.dsigma <= self.sigma < math.inf:
            raise ValueError(
                f"dsigma is {self.dsigma} and sigma is {self.sigma}, allowed: 0 < dsigma <= sigma < infinity"
            )
        if not 0.0 < self.rate_dt < math.inf:
            raise ValueError(f"rate_dt is {self.rate_dt}, allowed: 0 < rate_dt < infinity")


@dataclass(frozen=True)
class TimeGrid:
    """Predictor steps in order, then the one denoiser step that removes the rest of the noise."""

    predictor: tuple[Step, ...]
    denoiser: Step

    def __len__(self) -> int:
        """Number of steps, the denoiser's included: the network runs at most once per step."""
        return len(self.predictor) + 1


def uniform_grid(noise: Noise, steps: int, eps: float = 1e-5) -> TimeGrid:
    """Equal steps in time from t = 1 to t = eps, then the denoiser at eps: ``steps + 1`` steps in all.

    The times come from one linspace: a running ``t -= dt`` would carry its rounding into the last, smallest sigmas.
    Lou et al. 2024, section 4 and algorithm 1.
    Raises ValueError for ``steps < 1`` and for ``eps`` outside 0 < eps < 1.
    """
    _check(steps, eps)
    return _through(noise, np.linspace(1.0, eps, steps + 1))


def log_sigma_grid(noise: Noise, steps: int, eps: float = 1e-5) -> TimeGrid:
    """Equal steps in the logarithm of the total noise, between the ends of `uniform_grid`, then the denoiser.

    Under geometric noise it is the uniform grid. Raises ValueError as that does.
    """
    _check(steps, eps)
    return _through(noise, noise.time(np.geomspace(noise.total(1.0), noise.total(eps), steps + 1)))


def fitted_grid(noise: Noise, steps: int, times: Sequence[float]) -> TimeGrid:
    """Steps that are equal along fitted times: the same number between each two of `times`.

    times : from 1 down to 0, as `fit_times` finds them. The denoiser, which removes all noise that is left, has a
        stretch like the other steps.
    Raises ValueError for ``steps < 1``.
    """
    _check(steps)
    share = np.arange(steps + 1) / (steps + 1)
    return _through(noise, np.interp(share, np.linspace(0.0, 1.0, len(times)), times))


def _through(noise: Noise, times: NDArray[np.float64]) -> TimeGrid:
    """The grid whose steps begin at these times, in falling order; the last is the denoiser's."""
    sigma, rate = noise.total(times), noise.rate(times)
    dsigma, dt = sigma[:-1] - sigma[1:], times[:-1] - times[1:]
    predictor = tuple(Step(*map(float, each)) for each in zip(sigma[:-1], dsigma, rate[:-1] * dt, strict=True))
    return TimeGrid(predictor, Step(float(sigma[-1]), float(sigma[-1]), float(rate[-1] * times[-1])))


def _check(steps: int, eps: float = 0.5) -> None:
    if steps < 1:
        raise ValueError(f"steps is {steps}, allowed: 1 or more")
    if not 0.0 < eps < 1.0:
        raise ValueError(f"eps is {eps}, allowed: 0 < eps < 1")
