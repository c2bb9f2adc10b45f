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
    if how.output == "clean token":
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


def staggered_score(graph: Graph, score: Array, dsigma: float) -> Array:
    """exp(-dsigma Q) score, in which p(y) is taken at sigma - dsigma: [..., V] (Lou et al. 2024, equation 19)."""
    if isinstance(graph, Absorb):
        staggered: Array = math.exp(dsigma) * score
        staggered[..., graph.mask] -= math.expm1(dsigma) * score.sum(axis=-1)
        return staggered
    mean: Array = score.mean(axis=-1, keepdims=True)
    return math.exp(dsigma) * score - math.expm1(dsigma) * mean
