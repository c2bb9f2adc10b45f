"""The sampler of uniform-state models, whose network predicts the clean token: UDLM and Duo."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fastsedd.diffusion import posterior
from fastsedd.diffusion.grid_sampler import Draws, GridSampler, Network
from fastsedd.diffusion.predictor import LIKELIEST, Predictor
from fastsedd.diffusion.timegrid import Step


class PosteriorSampler(GridSampler):
    """Draws from the posterior of the predicted clean token at every position, along a time grid: ancestral sampling.

    The predictor "analytic" ends with a draw from that of no noise; "ddpm" with each position's likeliest clean token,
    Duo's greedy tail (Sahoo et al. 2025, section 4.2).
    """

    def _take(
        self, network: Network, predictor: Predictor, at: Step, tokens: NDArray[np.int32], draws: Draws,
        confidence: NDArray[np.float32] | None,
    ) -> None:  # fmt: skip
        self._take_in_rows(network, predictor, at, tokens, draws, confidence)

    def _rows(
        self, network: Network, tokens: NDArray[np.int32], sigma: float, rows: NDArray[np.intp]
    ) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        return network.logits(tokens, sigma, rows)

    def _transition(
        self, predictor: Predictor, scores: NDArray[np.float32], tokens: NDArray[np.int32], at: Step
    ) -> NDArray[np.float32]:
        return posterior.likeliest(scores) if predictor is LIKELIEST else posterior.transition(scores, tokens, at)
