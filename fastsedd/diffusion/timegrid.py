"""Time grids: the (sigma, dsigma) pairs that a sampler walks from t = 1 down to clean text."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fastsedd.diffusion.noise import Noise


@dataclass(frozen=True)
class Step:
    """One reverse step: the score is asked at total noise ``sigma``, and ``dsigma`` of it is removed.

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
    """Predictor steps in order, then the one denoiser step that removes the noise they leave."""

    predictor: tuple[Step, ...]
    denoiser: Step

    def __len__(self) -> int:
        """Number of steps, which is the number of times the network runs."""
        return len(self.predictor) + 1


def uniform_grid(noise: Noise, steps: int, eps: float = 1e-5) -> TimeGrid:
    """Equal steps in time from t = 1 to t = eps, then the denoiser at eps: ``steps + 1`` steps in all.

    The times come from one linspace: a running ``t -= dt`` would carry its rounding into the last, smallest sigmas.
    Lou et al. 2024, section 4 and algorithm 1.
    Raises ValueError for ``steps < 1`` and for ``eps`` outside 0 < eps < 1.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}, allowed: 1 or more")
    if not 0.0 < eps < 1.0:
        raise ValueError(f"eps is {eps}, allowed: 0 < eps < 1")
    times = np.linspace(1.0, eps, steps + 1)
    sigma, rate = noise.total(times), noise.rate(times)
    dsigma, dt = sigma[:-1] - sigma[1:], (1.0 - eps) / steps
    predictor = tuple(Step(*map(float, each)) for each in zip(sigma[:-1], dsigma, rate[:-1] * dt, strict=True))
    return TimeGrid(predictor, Step(float(sigma[-1]), float(sigma[-1]), float(rate[-1] * eps)))
