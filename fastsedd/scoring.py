"""A network as the diffusion sees it: log scores and draws, from forward passes that know neither."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from fastsedd_kernels import Law
from numpy.typing import NDArray

from fastsedd.architectures.base import ModelConfig
from fastsedd.diffusion.parametrisation import Parametrisation
from fastsedd.models import Forward, Network


@dataclass(frozen=True)
class Scoring:
    """Forward passes of one shape with the meaning of their logits. Not for two threads at once."""

    forward: Forward
    parametrisation: Parametrisation

    @classmethod
    def of(cls, network: Network, batch: int, length: int, sigmas: int = 1) -> Scoring:
        """batch, length : B and L of the tokens; sigmas : S, 1, which all samples share, or B"""
        return cls(Forward(network, batch, length, sigmas), parametrisation(network.config))

    @property
    def normalised(self) -> bool:
        """True if the network predicts the clean token: the scores of a mask add up to 1 / (e^sigma - 1)."""
        return self.parametrisation.normalised

    @property
    def nbytes(self) -> int:
        return self.forward.nbytes

    def __call__(self, tokens: NDArray[np.int32], sigma: NDArray[np.float64]) -> NDArray[np.float32]:
        """tokens [B, L], total noise [S] to log scores [B, L, V], overwritten by the next call."""
        scores = self.forward(tokens, sigma)
        self.parametrisation.to_log_scores(scores, tokens, np.asarray(sigma, np.float64).reshape(-1)[:, None])
        return scores

    def draw(
        self,
        tokens: NDArray[np.int32],
        sigma: float,
        rows: NDArray[np.intp],
        law: Law,
        seeds: NDArray[np.uint64],
        streams: NDArray[np.uint64],
    ) -> NDArray[np.int32]:
        """Draw the next tokens of some positions by a law of their log scores: see `Forward.draw`."""
        return self.forward.draw(tokens, sigma, rows, self.parametrisation.of_logits(law, sigma), seeds, streams)

    def log_scores(
        self, tokens: NDArray[np.int32], sigma: float, rows: NDArray[np.intp]
    ) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Log scores of some positions, a block of rows at a time: see `Forward.logits`."""
        current, noise = tokens.reshape(-1)[rows], np.array([sigma])
        for part, scores in self.forward.logits(tokens, sigma, rows):
            self.parametrisation.to_log_scores(scores, current[part], noise)
            yield part, scores

    def logits(
        self, tokens: NDArray[np.int32], sigma: float, rows: NDArray[np.intp]
    ) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Logits of some positions, a block of rows at a time: see `Forward.logits`."""
        yield from self.forward.logits(tokens, sigma, rows)

    def last_scores(self, rows: NDArray[np.intp]) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Log scores of some positions of the last draw, up to a number per row: see `Forward.last_logits`."""
        yield from self.forward.last_logits(rows)


def parametrisation(config: ModelConfig) -> Parametrisation:
    """The meaning of a model's logits."""
    return Parametrisation(config.output, config.tokens, config.vocab_size)
