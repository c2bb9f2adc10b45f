"""Time grids: the (sigma, dsigma) pairs that a sampler walks from t = 1 down to clean text."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fastsedd.diffusion.noise import Noise


@dataclass(frozen=True)
class Step:
    """One reverse step: the score is asked at total noise ``sigma``, and ``dsigma`` of it is removed.

    Raises ValueError unless 0 < dsigma <= sigma < infinity.
    """

    sigma: float
    dsigma: float

    def __post_init__(self) -> None:
        if not 0.0 < self.dsigma <= self.sigma < math.inf:
            raise ValueError(
                f"dsigma is {self.dsigma} and sigma is {self.sigma}, allowed: 0 < dsigma <= sigma < infinity"
            )


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
    sigma = noise.total(np.linspace(1.0, eps, steps + 1))
    dsigma = sigma[:-1] - sigma[1:]
    predictor = tuple(Step(float(total), float(step)) for total, step in zip(sigma[:-1], dsigma, strict=True))
    return TimeGrid(predictor, Step(float(sigma[-1]), float(sigma[-1])))
