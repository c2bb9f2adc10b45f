"""Log scores from logits in float64 NumPy, and the staggered score: the truth for tests."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastsedd.diffusion.graph import Absorb, Graph
from fastsedd.diffusion.parametrisation import Parametrisation

Array = NDArray[np.float64]


def log_scores(how: Parametrisation, logits: Array, tokens: NDArray[Any], sigma: NDArray[Any]) -> Array:
    """Log scores [B, L, V] from logits [B, L, V] at tokens [B, L] and total noise [B]."""
    log_odds = np.log(np.expm1(np.asarray(sigma, np.float64)))
    if how.output == "clean token" and not how.masks:
        clean: Array = np.exp(logits - logits.max(axis=-1, keepdims=True))
        clean /= clean.sum(axis=-1, keepdims=True)
        alpha = np.exp(-np.asarray(sigma, np.float64))[:, None, None]
        noised: Array = np.log(alpha * how.vocab_size * clean + 1.0 - alpha)
        score: Array = noised - np.take_along_axis(noised, tokens[..., None], axis=-1)
    elif how.output == "clean token":
        score = np.full_like(logits, -np.inf)
        text = logits[..., : how.tokens]
        highest = text.max(axis=-1, keepdims=True)
        log_total = highest + np.log(np.exp(text - highest).sum(axis=-1, keepdims=True))
        score[..., : how.tokens] = text - log_total - log_odds[:, None, None]
        score[tokens != how.tokens] = -np.inf
        score[..., how.tokens] = log_odds[:, None]
    elif how.output == "scaled score":
        score = logits - (log_odds + math.log(how.vocab_size - 1))[:, None, None]
    else:
        score = logits.copy()
    np.put_along_axis(score, tokens[..., None], 0.0, axis=-1)
    return score


def posterior(clean: Array, tokens: NDArray[Any], sigma: float, dsigma: float) -> Array:
    """q(y | x) of a predicted clean token under the uniform graph, [..., V]: the terms of Schiff et al. 2024.

    clean : its probabilities, [..., V]; tokens : x, [...]; dsigma : at most sigma, the noise that is taken away
    """
    alpha_t, alpha_s, states = math.exp(-sigma), math.exp(dsigma - sigma), clean.shape[-1]
    ratio = alpha_t / alpha_s
    at_x = np.zeros_like(clean)
    np.put_along_axis(at_x, tokens[..., None], 1.0, axis=-1)
    terms = alpha_t * states * clean * at_x + (ratio - alpha_t) * at_x + (alpha_s - alpha_t) * clean
    terms += (1.0 - ratio) * (1.0 - alpha_s) / states
    found: Array = terms / (alpha_t * states * (clean * at_x).sum(axis=-1, keepdims=True) + 1.0 - alpha_t)
    return found


def staggered_score(graph: Graph, score: Array, dsigma: float) -> Array:
    """exp(-dsigma Q) score, in which p(y) is taken at sigma - dsigma: [..., V] (Lou et al. 2024, equation 19)."""
    if isinstance(graph, Absorb):
        staggered: Array = math.exp(dsigma) * score
        staggered[..., graph.mask] -= math.expm1(dsigma) * score.sum(axis=-1)
        return staggered
    mean: Array = score.mean(axis=-1, keepdims=True)
    return math.exp(dsigma) * score - math.expm1(dsigma) * mean
