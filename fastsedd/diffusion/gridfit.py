"""Fits a time grid to a model: steps lie close where leaving one out would cost most.

In the spirit of Park et al. 2024, Jump Your Steps, and of Watson et al. 2021, who choose times by the bound too.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fastsedd.choices import MAX_NODES, check_integer
from fastsedd.diffusion.graph import Graph
from fastsedd.diffusion.noise import Noise
from fastsedd.diffusion.predictor import apply_temperature

LogScore = Callable[[NDArray[np.int32], float], NDArray[np.float32]]

# A step's probabilities are compared in pieces of about this many numbers.
_PIECE = 1 << 20

# A jump that a prediction rules out, and that happens after all, counts as this likely: no bound is infinite.
_MIN_PROBABILITY = 1e-9

# No stretch of time is skipped: the minimum density of steps, as a share of the mean.
_MIN_DENSITY = 0.02


def fit_times(
    log_score: LogScore,
    graph: Graph,
    noise: Noise,
    clean: NDArray[np.int32],
    *,
    nodes: int,
    seed: int,
    batch_size: int,
    temperature: float = 1.0,
) -> NDArray[np.float64]:
    """Times from 1 down to 0, float64 [nodes + 1], between each two of which a sampler should make as many steps.

    A step from one time to another costs the divergence of what it predicts from where the text truly came from, whose
    sum over all steps is the sampler's own variational bound (Sohl-Dickstein et al. 2015). On a mesh of equal steps in
    time, leaving out a node raises the bound by some excess. It grows with the square of a step, so of all grids with
    as many steps the bound is least where steps are as dense as the root of the excess.

    log_score : called as ``log_score(tokens, sigma)``: at most batch_size texts, int32 [B, L], and a total noise, to
        float32 [B, L, V], 0 at each current token
    clean : int32 [W, L], texts without the mask
    nodes : steps of the mesh, 2 to 1024; as many network runs per text
    seed : decides the noise
    temperature : the sampler's
    Raises ValueError for nodes, batch_size and clean outside their bounds.
    """
    check_nodes(nodes)
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, allowed: 1 or more")
    if clean.ndim != 2 or clean.size == 0:
        raise ValueError(f"clean has shape {clean.shape}, allowed: [W, L], not empty")
    mesh = np.linspace(1.0, 0.0, nodes + 1)
    sigma = np.append(noise.total(mesh[:-1]), 0.0)  # the last step, as the denoiser, leaves no noise
    to_next, past_next = np.zeros(nodes), np.zeros(nodes - 1)
    for first in range(0, len(clean), batch_size):
        texts = clean[first : first + batch_size]
        uniform = np.stack([_uniform(seed, first + row, texts.shape[1]) for row in range(len(texts))])
        for node in range(nodes):
            tokens = graph.sample_transition(texts, np.asarray(sigma[node]), uniform)
            scores = log_score(tokens, float(sigma[node]))
            if node < nodes - 1:
                past_next[node] += step_cost(
                    graph, scores.copy(), tokens, texts, sigma[node], sigma[node + 2], temperature
                )
            to_next[node] += step_cost(graph, scores, tokens, texts, sigma[node], sigma[node + 1], temperature)
    excess = past_next - to_next[:-1] - to_next[1:]
    return equal_shares(mesh, excess)


def check_nodes(nodes: int) -> None:
    """Raise ValueError for a number of nodes that `fit_times` refuses, before the texts are written."""
    check_integer("nodes", nodes, 2, MAX_NODES)


def step_cost(
    graph: Graph,
    log_score: NDArray[np.float32],
    tokens: NDArray[np.int32],
    clean: NDArray[np.int32],
    sigma: float,
    rest: float,
    temperature: float = 1.0,
) -> float:
    """Divergence of a step's prediction from the truth, summed over positions, in nats, at least 0.

    The truth is how the tokens at noise `rest` are distributed, given the clean text and the tokens at noise `sigma`.

    log_score : float32 [B, L, V] at noise sigma, 0 at each current token. It is overwritten.
    tokens, clean : int32 [B, L]; 0 <= rest < sigma, where 0 is the denoiser's step
    """
    transition = graph.reverse_transition if rest > 0.0 else graph.denoising_transition
    rows = transition(log_score, tokens, sigma - rest)
    apply_temperature(rows, tokens, temperature)
    predicted = rows.reshape(-1, graph.vocab_size)
    now, before = tokens.reshape(-1), clean.reshape(-1)
    total, size = 0.0, max(1, _PIECE // graph.vocab_size)
    for first in range(0, len(now), size):
        piece = slice(first, first + size)
        truth = graph.transition(before[piece], rest) * graph.transp_transition(now[piece], sigma - rest)
        truth /= truth.sum(axis=-1, keepdims=True)
        guess = predicted[piece] / predicted[piece].sum(axis=-1, keepdims=True, dtype=np.float64)
        happens = truth > 0.0
        surprise = np.log(truth[happens]) - np.log(np.maximum(guess[happens], _MIN_PROBABILITY))
        total += float(truth[happens] @ surprise)
    return total


def equal_shares(mesh: NDArray[np.float64], excess: NDArray[np.float64]) -> NDArray[np.float64]:
    """Times between each two of which the root of the excess has the same integral: falling, from 1 to 0, [J + 1].

    mesh : float64 [J + 1], falling from 1 to 0; excess : float64 [J - 1], of its nodes but the first and the last
    """
    density = np.sqrt(np.maximum(_smooth(excess), 0.0))
    density = np.pad(density, 1, mode="edge")
    mean = density.mean()
    density = np.maximum(density, _MIN_DENSITY * mean) if mean > 0.0 else np.ones_like(density)
    passed = np.append(0.0, np.cumsum((density[:-1] + density[1:]) * -np.diff(mesh)))
    return np.interp(np.linspace(0.0, passed[-1], len(mesh)), passed, mesh)


def _smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each value averaged with its neighbours, by a triangular window: measurements of texts are noisy."""
    reach = max(1, len(values) // 16)
    weights = np.concatenate((np.arange(1, reach + 2), np.arange(reach, 0, -1)))
    smooth: NDArray[np.float64] = np.convolve(np.pad(values, reach, mode="edge"), weights / weights.sum(), "valid")
    return smooth


def _uniform(seed: int, text: int, length: int) -> NDArray[np.float64]:
    """The random numbers of one text's noise at every node, 0 <= u < 1, independent of the batch."""
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, text])).random(length)
