"""The reverse step under the uniform graph of a network that predicts the clean token: the posterior of its prediction.

With p the network's distribution of a position's clean token, x the state at total noise sigma, V states, and
a = e^-(sigma - dsigma), the share of a text that the noise has spared once dsigma of it is taken away,

    q(y | x)  ~  (a p_y + (1 - a) / V) (1 + [y = x] V / (e^dsigma - 1))

which is the probability of y with the noise that is left, times that of the noise dsigma from y to x. It is the
posterior of Schiff et al. 2024 (arXiv:2412.10193) and Sahoo et al. 2025 (arXiv:2506.10892) in a form in which nothing
cancels, and `Uniform.reverse_transition` of the scores that p implies.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from fastsedd.diffusion.timegrid import Step


def transition(logits: NDArray[np.float32], tokens: NDArray[np.int32], step: Step) -> NDArray[np.float32]:
    """q above, unnormalised: float32 [..., V], in the memory of the logits. tokens : int32 [...], current"""
    states, left = logits.shape[-1], step.sigma - step.dsigma
    clean = _exponentials(logits)
    spared = math.exp(-left) / clean.sum(axis=-1, keepdims=True, dtype=np.float64)
    clean *= spared.astype(np.float32)
    clean += np.float32(-math.expm1(-left) / states)
    current = tokens[..., None]
    stay_over_jump = 1.0 + states * math.exp(-step.dsigma) / -math.expm1(-step.dsigma)
    stay = np.take_along_axis(clean, current, axis=-1) * np.float32(stay_over_jump)
    np.put_along_axis(clean, current, stay, axis=-1)
    return clean


def likeliest(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """1 at each row's likeliest clean token, whatever the state, and 0 elsewhere, in the memory of the logits."""
    best = logits.argmax(axis=-1)[..., None]
    logits[...] = 0.0
    np.put_along_axis(logits, best, np.float32(1.0), axis=-1)
    return logits


def _exponentials(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    logits -= logits.max(axis=-1, keepdims=True)
    return np.exp(logits, out=logits)
