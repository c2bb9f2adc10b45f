"""Predictors: a reverse step from a network's log scores, as a law of draws or as rows of probabilities."""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import numpy as np
from fastsedd_kernels import Law
from numpy.typing import NDArray

from fastsedd import choices
from fastsedd.diffusion.graph import Graph
from fastsedd.diffusion.timegrid import Step


class Predictor(Protocol):
    """A reverse step in two forms that give the same distribution; see `Graph`. It has no state."""

    def law(self, graph: Graph, step: Step) -> Law:
        """The weights of log scores in a draw that is made while the network computes them."""

    def transition(
        self, graph: Graph, log_score: NDArray[np.float32], tokens: NDArray[np.int32], step: Step
    ) -> NDArray[np.float32]:
        """Rows of probabilities [..., V], unnormalised, in the memory of log_score; tokens : int32 [...], current."""


class Analytic:
    """Tweedie tau-leaping, which removes noise dsigma at every position at once (Lou et al. 2024, equation 19)."""

    def law(self, graph: Graph, step: Step) -> Law:
        return graph.reverse_law(step.dsigma)

    def transition(
        self, graph: Graph, log_score: NDArray[np.float32], tokens: NDArray[np.int32], step: Step
    ) -> NDArray[np.float32]:
        return graph.reverse_transition(log_score, tokens, step.dsigma)


class Euler:
    """Tau-leaping with the rates at the step's beginning (Lou et al. 2024, equation 17)."""

    def law(self, graph: Graph, step: Step) -> Law:
        return graph.euler_law(step.rate_dt)

    def transition(
        self, graph: Graph, log_score: NDArray[np.float32], tokens: NDArray[np.int32], step: Step
    ) -> NDArray[np.float32]:
        return graph.euler_transition(log_score, tokens, step.rate_dt)


class Denoiser:
    """The last step, dsigma = sigma, which leaves no mask behind (Lou et al. 2024, theorem 4.1)."""

    def law(self, graph: Graph, step: Step) -> Law:
        return graph.denoising_law(step.dsigma)

    def transition(
        self, graph: Graph, log_score: NDArray[np.float32], tokens: NDArray[np.int32], step: Step
    ) -> NDArray[np.float32]:
        return graph.denoising_transition(log_score, tokens, step.dsigma)


class Likeliest:
    """The last step of MDLM, which takes the likeliest token (Sahoo et al. 2024, published code)."""

    def law(self, graph: Graph, step: Step) -> Law:
        return graph.denoising_law(step.dsigma)._replace(sharpness=math.inf)

    def transition(
        self, graph: Graph, log_score: NDArray[np.float32], tokens: NDArray[np.int32], step: Step
    ) -> NDArray[np.float32]:
        probabilities = graph.denoising_transition(log_score, tokens, step.dsigma)
        best = probabilities.argmax(axis=-1)[..., None]
        probabilities[...] = 0.0
        np.put_along_axis(probabilities, best, 1.0, axis=-1)
        return probabilities


ANALYTIC, EULER, DENOISER, LIKELIEST = Analytic(), Euler(), Denoiser(), Likeliest()


class Scheme(NamedTuple):
    """The predictor of all steps but the last, and that of the last."""

    between: Predictor
    last: Predictor


# For a network that predicts the clean token, MDLM's ancestral step (ddpm) is the analytic one: the probability of
# being unmasked is (e^dsigma - 1) / (e^sigma - 1) in both.
PREDICTORS: dict[choices.Predictor, Scheme] = {
    "analytic": Scheme(ANALYTIC, DENOISER),
    "euler": Scheme(EULER, DENOISER),
    "ddpm": Scheme(ANALYTIC, LIKELIEST),
}


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


def truncate(
    probabilities: NDArray[np.float32], tokens: NDArray[np.int32], top_k: int, top_p: float, within: bool = False
) -> None:
    """Leave, in place, only the likeliest jumps of each row, without changing how likely it is to jump.

    First the top_k likeliest of the tokens y other than the current one; then, of these, the smallest set of likeliest
    ones that holds at least the share top_p of their sum. What is as likely as the last of a set belongs to it. The
    jumps that are left are scaled to the sum of all.

    probabilities : float32 [rows, V], non-negative, need not be normalised; untouched at top_k = 0 and top_p = 1
    tokens : int32 [rows], the current tokens
    top_k : 1 or more, or 0 for all; top_p : 0 < top_p <= 1
    within : whether the set is the largest one that holds at most the share top_p instead, the likeliest one at least
    """
    if top_k == 0 and top_p == 1.0:
        return
    width = probabilities.shape[-1]
    current = tokens[..., None]
    stay = np.take_along_axis(probabilities, current, axis=-1)
    np.put_along_axis(probabilities, current, 0.0, axis=-1)
    jump = probabilities.sum(axis=-1, keepdims=True, dtype=np.float64)
    if 0 < top_k < width:
        least = np.partition(probabilities, width - top_k, axis=-1)[..., width - top_k, None]
        probabilities[probabilities < least] = 0.0
    if top_p < 1.0:
        ordered = np.sort(probabilities, axis=-1)[..., ::-1]
        for row, likeliest in zip(probabilities, ordered, strict=True):
            sums = np.cumsum(likeliest, dtype=np.float64)
            last = int(np.searchsorted(sums, top_p * sums[-1], "right" if within else "left"))
            last = max(0, last - 1) if within else last  # the sum up to it reaches the share, or is within it
            row[row < likeliest[min(last, width - 1)]] = 0.0
    left = probabilities.sum(axis=-1, keepdims=True, dtype=np.float64)
    probabilities *= np.divide(jump, left, out=np.zeros_like(jump), where=left > 0.0)
    np.put_along_axis(probabilities, current, stay, axis=-1)
