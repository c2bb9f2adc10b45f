"""Predictors: from a network's log scores to the probabilities of one reverse step, in place."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fastsedd.diffusion.graph import Graph


def analytic(
    graph: Graph,
    log_score: NDArray[np.float32],
    tokens: NDArray[np.int32],
    dsigma: float,
    temperature: float = 1.0,
) -> NDArray[np.float32]:
    """Tweedie tau-leaping, which takes noise dsigma away at every position at once (Lou et al. 2024, equation 19).

    log_score : float32 [..., V], 0 at each current token. It is overwritten with the result and returned.
    tokens : int32 [...], the current tokens
    Returns unnormalised probabilities of the next token, float32 [..., V].
    """
    probabilities = graph.reverse_transition(log_score, tokens, dsigma)
    apply_temperature(probabilities, tokens, temperature)
    return probabilities


def denoise(
    graph: Graph,
    log_score: NDArray[np.float32],
    tokens: NDArray[np.int32],
    dsigma: float,
    temperature: float = 1.0,
) -> NDArray[np.float32]:
    """The last step, dsigma = sigma, which leaves no mask behind (Lou et al. 2024, theorem 4.1).

    Arguments and result are those of `analytic`.
    """
    probabilities = graph.denoising_transition(log_score, tokens, dsigma)
    apply_temperature(probabilities, tokens, temperature)
    return probabilities


def apply_temperature(probabilities: NDArray[np.float32], tokens: NDArray[np.int32], temperature: float) -> None:
    """Sharpen (T < 1) or flatten (T > 1), in place, where a token jumps to, but not how likely it is to jump.

    p_y becomes proportional to p_y^(1/T) for y other than the current token, with the same sum over these y. A
    temperature on the whole row would also slow or hurry the diffusion itself, because staying is by far the likeliest.

    probabilities : float32 [..., V], non-negative, need not be normalised; untouched, bit for bit, at T = 1
    tokens : int32 [...], the current tokens
    temperature : T, 0 < T < infinity
    """
    if temperature == 1.0:
        return
    current = tokens[..., None]
    stay = np.take_along_axis(probabilities, current, axis=-1)
    np.put_along_axis(probabilities, current, 0.0, axis=-1)
    jump = probabilities.sum(axis=-1, keepdims=True, dtype=np.float64)
    # Relative to the likeliest jump no power overflows, and that jump itself stays 1. Rows that never jump stay 0.
    probabilities /= np.where(jump > 0.0, probabilities.max(axis=-1, keepdims=True), np.float32(1.0))
    np.power(probabilities, 1.0 / temperature, out=probabilities)
    sharpened = probabilities.sum(axis=-1, keepdims=True, dtype=np.float64)
    probabilities *= jump / np.maximum(sharpened, 1.0)
    np.put_along_axis(probabilities, current, stay, axis=-1)
