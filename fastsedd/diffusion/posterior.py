"""The reverse step under the uniform graph of a network that predicts the clean token: the posterior of its prediction.

With p the network's distribution of a position's clean token, x the state at total noise sigma, V states, and
a = e^-(sigma - dsigma), the share of a text that the noise has spared once dsigma of it is taken away,

    q(y | x)  ~  (a p_y + (1 - a) / V) (1 + [y = x] V / (e^dsigma - 1))

which is the probability of y with the noise that is left, times that of the noise dsigma from y to x. It is the
posterior of Schiff et al. 2024 (arXiv:2412.10193) and Sahoo et al. 2025 (arXiv:2506.10892) in a form in which nothing
cancels, and `Uniform.reverse_transition` of the scores that p implies.

It can be drawn from without rows of p: first a clean token z, in proportion to p_z (1 + [z = x] V / (e^sigma - 1)), as
often as the noise makes x of it, then y from q(y | x) of the p that is 1 at z, in closed form.
"""

from __future__ import annotations

import math

import numpy as np
from fastsedd_kernels import Law
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
    stay = np.take_along_axis(clean, current, axis=-1) * np.float32(1.0 + _odds(states, step.dsigma))
    np.put_along_axis(clean, current, stay, axis=-1)
    return clean


def clean_law(states: int, step: Step) -> Law:
    """The law of logits by which z above is drawn."""
    return Law(stay=1.0 + _odds(states, step.sigma), relative=1.0)


def given_clean(
    clean: NDArray[np.int32], tokens: NDArray[np.int32], numbers: NDArray[np.float64], states: int, step: Step
) -> NDArray[np.int32]:
    """y drawn where z is `clean`: int32 [n]. tokens : x, int32 [n]; numbers : 0 <= u < 1 [n], which decide it

    x weighs V / (e^dsigma - 1) times its probability with the noise that is left; besides, whatever x is, z weighs a,
    and all tokens together, alike, 1 - a.
    """
    left = step.sigma - step.dsigma
    spared, moved = math.exp(-left), -math.expm1(-left)
    stay = _odds(states, step.dsigma) * (np.where(clean == tokens, spared, 0.0) + moved / states)
    rest = numbers * (1.0 + stay) - stay
    anywhere = np.minimum((rest - spared) / moved * states, states - 1) if moved > 0.0 else clean
    drawn = np.where(rest < 0.0, tokens, np.where((rest < spared) | (moved == 0.0), clean, anywhere))
    return drawn.astype(np.int32)


def likeliest(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """1 at each row's likeliest clean token, whatever the state, and 0 elsewhere, in the memory of the logits."""
    best = logits.argmax(axis=-1)[..., None]
    logits[...] = 0.0
    np.put_along_axis(logits, best, np.float32(1.0), axis=-1)
    return logits


def _odds(states: int, sigma: float) -> float:
    """V / (e^sigma - 1): the odds of no jump in noise sigma, against a jump to one given token."""
    return states * math.exp(-sigma) / -math.expm1(-sigma)


def _exponentials(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    logits -= logits.max(axis=-1, keepdims=True)
    return np.exp(logits, out=logits)
