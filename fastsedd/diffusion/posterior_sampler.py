"""The sampler of uniform-state models, whose network predicts the clean token: UDLM and Duo."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from fastsedd_kernels import uniform
from numpy.typing import NDArray

from fastsedd.diffusion import posterior
from fastsedd.diffusion.grid_sampler import Draws, GridSampler, Network, note_jumps
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
        """Without rows, but for the likeliest tokens, and where a temperature weighs jumps by all that a row holds."""
        if predictor is LIKELIEST or self.choice.temperature != 1.0:
            self._take_in_rows(network, predictor, at, tokens, draws, confidence)
            return
        rows, seeds, streams = draws
        if not rows.size:
            return
        states, flat = self.graph.vocab_size, tokens.reshape(-1)
        before = flat[rows]
        clean = network.draw(tokens, at.sigma, rows, posterior.clean_law(states, at), seeds, streams)
        flat[rows] = posterior.given_clean(clean, before, uniform(seeds, streams), states, at)
        if confidence is not None:
            note_jumps(confidence.reshape(-1), network, rows, before, flat)

    def _rows(
        self, network: Network, tokens: NDArray[np.int32], sigma: float, rows: NDArray[np.intp]
    ) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        return network.logits(tokens, sigma, rows)

    def _transition(
        self, predictor: Predictor, scores: NDArray[np.float32], tokens: NDArray[np.int32], at: Step
    ) -> NDArray[np.float32]:
        return posterior.likeliest(scores) if predictor is LIKELIEST else posterior.transition(scores, tokens, at)
