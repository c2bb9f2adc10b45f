"""The likelihood bound of a text: its diffusion weighted denoising score entropy, estimated at random times."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastsedd.choices import MAX_TIMES, check_integer, check_seed
from fastsedd.diffusion.graph import Graph
from fastsedd.diffusion.noise import Noise

LogScore = Callable[[NDArray[np.int32], NDArray[np.float64]], NDArray[Any]]


def bound(
    log_score: LogScore,
    graph: Graph,
    noise: Noise,
    windows: NDArray[np.int32],
    *,
    times: int,
    seed: int,
    batch_size: int,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float64]:
    """Estimate a bound on -log p of each window, nats per token: float64 [W] (Lou et al. 2024, theorem 3.6).

    The mean over times of rate(t) score_entropy(x_t), over positions, plus `ends`. Of its times each window has one in
    every 1/times of 0 < t <= 1. The estimate has no bias, and depends on the seed and on the window's own row number:
    another log_score meets the same times and the same noise.

    log_score : called as ``log_score(tokens, sigma)`` with int32 [B, L] and float64 [B], B at most batch_size; returns
        float32 or float64 [B, L, V], 0 at each current token, which is overwritten here
    windows : int32 [W, L], tokens without the mask
    progress : called as ``progress(done, total)`` after each batch, of W times `times`
    Raises ValueError for times, seed, batch_size and windows outside their bounds.
    """
    check_integer("times", times, 1, MAX_TIMES)
    check_seed(seed)
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, allowed: 1 or more")
    if windows.ndim != 2 or windows.size == 0:
        raise ValueError(f"windows has shape {windows.shape}, allowed: [W, L], not empty")
    least, most = int(windows.min()), int(windows.max())
    if least < 0 or most >= graph.tokens:
        raise ValueError(f"windows has token {least if least < 0 else most}, allowed: 0 to {graph.tokens - 1}")
    values = np.empty(len(windows) * times)
    for first in range(0, len(values), batch_size):
        rows, strata = np.divmod(np.arange(first, min(first + batch_size, len(values))), times)
        numbers = np.stack([_uniform(seed, *at, windows.shape[1] + 1) for at in zip(rows, strata, strict=True)])
        t = (strata + 1.0 - numbers[:, 0]) / times
        done = first + len(rows)
        values[first:done] = weighted_entropy(log_score, graph, noise, windows[rows], t, numbers[:, 1:])
        if progress is not None:
            progress(done, len(values))
    by_window: NDArray[np.float64] = values.reshape(-1, times).mean(axis=1) + ends(graph, noise)
    return by_window


def weighted_entropy(
    log_score: LogScore,
    graph: Graph,
    noise: Noise,
    clean: NDArray[np.int32],
    t: NDArray[np.float64],
    uniform: NDArray[np.float64],
) -> NDArray[np.float64]:
    """rate(t) times the mean score entropy of a position, at one time per text: nats per token, float64 [B].

    clean : int32 [B, L]; t : [B], 0 < t <= 1; uniform : [B, L], 0 <= u < 1, decides the noise
    """
    sigma = noise.total(t)
    tokens = graph.sample_transition(clean, sigma[:, None], uniform)
    entropy = graph.score_entropy(log_score(tokens, sigma), tokens, clean, sigma[:, None])
    weighted: NDArray[np.float64] = noise.rate(t) * entropy.mean(axis=-1)
    return weighted


def ends(graph: Graph, noise: Noise) -> float:
    """The part of the bound outside the schedule, in nats per token: the noise below sigma(0) and above sigma(1).

    Theorem 3.6 starts at no noise, and adds the divergence of the noised text from the limit, which under absorb is
    infinite while a token may be unmasked at t = 1. The theorem holds for any score, so beyond the schedule it is
    that of tokens drawn uniformly, whose integral is known. The published code leaves this out.
    """
    return math.log(graph.tokens) - graph.information(float(noise.total(0.0))) + graph.information(noise.total(1.0))


def _uniform(seed: int, window: int, stratum: int, count: int) -> NDArray[np.float64]:
    """The numbers of one window at one of its times, 0 <= u < 1: a function of seed and place, whatever the batch."""
    # Philox counts up in the first word of its counter, so no two streams meet.
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, stratum, window])).random(count)
