"""From a network's logits to log scores, by what its head predicts.

score           logits are log p(y) / p(x), but for the current token's, which is 0
scaled score    the same less the factor that a mask's score owes to the noise alone (Lou et al. 2024, appendix C)
clean token     under absorb, of a mask, log p(y) - log(e^sigma - 1), p the softmax over tokens (Sahoo et al. 2024,
                appendix; Ou et al. 2024, theorem 1); a token could have been nothing else
                under uniform, log(a V p(y) + 1 - a) - log(a V p(x) + 1 - a), a = e^-sigma (Schiff et al. 2024, from the
                noised p)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from fastsedd_kernels import Law
from numpy.typing import NDArray

_LARGE = 700.0  # sigma, from which on log(e^sigma - 1) is sigma, and e^sigma soon beyond float64


@dataclass(frozen=True)
class Parametrisation:
    """The meaning of a head's logits.

    output : see above; tokens : vocabulary without the mask, which is the state behind them, if there is one
    vocab_size : number of states
    """

    output: Literal["score", "scaled score", "clean token"]
    tokens: int
    vocab_size: int

    @property
    def normalised(self) -> bool:
        """True if logits are those of a distribution over tokens: the scores of a mask add up to 1 / (e^sigma - 1)."""
        return self.output == "clean token"

    @property
    def masks(self) -> bool:
        """True if there is a mask, the last state."""
        return self.vocab_size > self.tokens

    def to_log_scores(self, logits: NDArray[np.float32], tokens: NDArray[Any], sigma: NDArray[np.float64]) -> None:
        """Make logits float32 [..., V] log scores, in place.

        tokens : [...], the current ones; sigma : total noise, broadcasts with them
        """
        if self.normalised and self.masks:
            _normalise(self.tokens, logits, tokens, sigma)
        elif self.normalised:
            _noised(logits, tokens, sigma)
        elif self.output == "scaled score":
            np.subtract(logits, self.sigma_term(sigma).astype(np.float32)[..., None], out=logits)
        # A token's ratio with itself is one.
        np.put_along_axis(logits, tokens[..., None], np.float32(0.0), axis=-1)

    def of_logits(self, law: Law, sigma: float) -> Law:
        """The law of log scores as one of logits: of a clean token's, up to a constant per row."""
        if self.output != "scaled score":
            return law
        return law._replace(log_scale=law.log_scale - float(self.sigma_term(np.array([sigma]))[0]))

    def sigma_term(self, sigma: NDArray[np.float64]) -> NDArray[np.float64]:
        """log(e^sigma - 1) + log(V - 1), which scaled scores leave out."""
        return np.asarray(np.log(np.expm1(sigma)) + math.log(self.vocab_size - 1))


def log_clean(logits: NDArray[np.float32]) -> None:
    """Make logits float32 [..., V] of the clean token its log probabilities, in place."""
    logits -= logits.max(axis=-1, keepdims=True)
    logits -= _log_total(logits).astype(np.float32)[..., None]


def _log_total(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """log of the sum of exponentials of each row, [...], none of them above 1."""
    total = np.zeros(logits.shape[:-1])
    for row in np.ndindex(total.shape):  # one row of exponentials at a time: no second array of scores
        total[row] = np.exp(logits[row], dtype=np.float64).sum()
    return np.log(total)


def _noised(scores: NDArray[np.float32], tokens: NDArray[Any], sigma: NDArray[np.float64]) -> None:
    """Log ratios of the clean token's distribution under uniform noise, from its logits, in place."""
    log_clean(scores)
    clean = np.exp(scores, out=scores)
    clean *= (scores.shape[-1] * np.exp(-sigma)).astype(np.float32)[..., None]
    clean += -np.expm1(-sigma).astype(np.float32)[..., None]
    np.log(clean, out=scores)
    scores -= np.take_along_axis(scores, tokens[..., None], axis=-1)


def _normalise(mask: int, scores: NDArray[np.float32], tokens: NDArray[Any], sigma: NDArray[np.float64]) -> None:
    odds = np.log(np.expm1(np.minimum(sigma, _LARGE)))
    log_odds = np.broadcast_to(np.where(sigma < _LARGE, odds, sigma), tokens.shape)
    text = scores[..., :mask]
    text -= text.max(axis=-1, keepdims=True)
    text -= (_log_total(text) + log_odds).astype(np.float32)[..., None]
    settled = tokens != mask
    scores[settled] = -np.inf
    scores[..., mask] = np.where(settled, log_odds, 0.0)
