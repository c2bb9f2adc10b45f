"""The sampler: from noise to texts, one network run and one draw a step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from fastsedd_kernels import sample_categorical
from numpy.typing import NDArray

from fastsedd.diffusion.graph import Graph
from fastsedd.diffusion.predictor import analytic, denoise
from fastsedd.diffusion.timegrid import TimeGrid

LogScore = Callable[[NDArray[np.int32], float], NDArray[np.float32]]
OnStep = Callable[[int, int, NDArray[np.int32]], None]
Draw = Literal["exact", "official"]

FREE = -1

# A stream number is 64 bits: sample index, step and position, from the top.
INDEX_BITS = 28
STEP_BITS = 16
POSITION_BITS = 20


def draw_streams(indices: NDArray[np.uint64], step: int, length: int) -> NDArray[np.uint64]:
    """Number of the random stream behind each draw: uint64 [B, length] from sample indices uint64 [B].

    (index * 2^16 + step) * 2^20 + position, in which no two draws meet while index < 2^28, step < 2^16 and
    length <= 2^20. Step 0 is the draw of the limit, and step k the k-th step of the grid.
    """
    first = ((indices << np.uint64(STEP_BITS)) | np.uint64(step)) << np.uint64(POSITION_BITS)
    return first[:, None] | np.arange(length, dtype=np.uint64)


def sample(
    log_score: LogScore,
    graph: Graph,
    grid: TimeGrid,
    *,
    indices: Sequence[int],
    length: int,
    seed: int,
    fixed: NDArray[np.int32] | None = None,
    draw: Draw = "exact",
    temperature: float = 1.0,
    on_step: OnStep | None = None,
) -> NDArray[np.int32]:
    """Draw one text a sample index, int32 [B, L], along a time grid (Lou et al. 2024, algorithms 2 and 3).

    log_score : called as ``log_score(tokens, sigma)`` with int32 [B, L] and a float, once a step; returns float32
        [B, L, V], 0 at each current token, which is overwritten here
    indices : B sample indices, 0 <= index < 2^28. A text depends on the seed and on its own index, whatever the batch.
    length : L, 1 <= L <= 2^20
    seed : 0 <= seed < 2^64
    fixed : int32 [L], a token where the text is given and -1 where it is free; imposed on the limit and on every state
    draw : "exact", or "official": the published code's noise, whose truncation acts as a lower temperature
    temperature : see `apply_temperature`
    on_step : called as ``on_step(step, steps, tokens)`` after each step, 1 <= step <= steps = len(grid), the denoiser
        being the last; tokens is a read-only copy, int32 [B, L]
    Raises ValueError for an argument outside these bounds, and for a log_score of another shape or dtype.
    """
    index = _checked_indices(indices)
    check_request(grid, length, seed, draw, temperature)
    given = _checked_fixed(fixed, graph, length)

    tokens = graph.sample_limit(seed, draw_streams(index, 0, length))
    np.copyto(tokens, given, where=given != FREE)
    steps = len(grid)
    for step, at in enumerate((*grid.predictor, grid.denoiser), start=1):
        predict = analytic if step < steps else denoise
        scores = _checked_scores(log_score(tokens, at.sigma), (*tokens.shape, graph.vocab_size))
        probabilities = predict(graph, scores, tokens, at.dsigma, temperature)
        streams = draw_streams(index, step, length)
        tokens = sample_categorical(probabilities, seed, streams, method=draw)
        np.copyto(tokens, given, where=given != FREE)
        if on_step is not None:
            on_step(step, steps, _read_only_copy(tokens))
    return tokens


def _checked_indices(indices: Sequence[int]) -> NDArray[np.uint64]:
    limit = 1 << INDEX_BITS
    wrong = [index for index in indices if not 0 <= index < limit]
    if wrong:
        raise ValueError(f"indices holds {wrong[0]}, allowed: 0 <= index < {limit}")
    return np.array(indices, dtype=np.uint64)


def check_request(grid: TimeGrid, length: int, seed: int, draw: str, temperature: float) -> None:
    """Raise ValueError, naming the argument, for what `sample` would refuse once it runs."""
    if len(grid) >= 1 << STEP_BITS:
        raise ValueError(f"grid has {len(grid)} steps, allowed: fewer than {1 << STEP_BITS}")
    if not 1 <= length <= 1 << POSITION_BITS:
        raise ValueError(f"length is {length}, allowed: 1 <= length <= {1 << POSITION_BITS}")
    if not 0 <= seed < 1 << 64:
        raise ValueError(f"seed is {seed}, allowed: 0 <= seed < 2^64")
    if draw not in ("exact", "official"):
        raise ValueError(f"draw is {draw!r}, allowed: 'exact', 'official'")
    if not 0.0 < temperature < math.inf:
        raise ValueError(f"temperature is {temperature}, allowed: 0 < temperature < infinity")


def _checked_fixed(fixed: NDArray[np.int32] | None, graph: Graph, length: int) -> NDArray[np.int32]:
    if fixed is None:
        return np.full(length, FREE, dtype=np.int32)
    if fixed.shape != (length,):
        raise ValueError(f"fixed has shape {fixed.shape}, allowed: ({length},)")
    outside = fixed[(fixed < FREE) | (fixed >= graph.tokens)]
    if outside.size:
        raise ValueError(f"fixed holds {outside[0]}, allowed: {FREE} (free) and 0 <= token < {graph.tokens}")
    return fixed


def _checked_scores(scores: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    if scores.shape != shape or scores.dtype != np.float32:
        raise ValueError(f"log_score gave {scores.dtype} {scores.shape}, allowed: float32 {shape}")
    return scores


def _read_only_copy(tokens: NDArray[np.int32]) -> NDArray[np.int32]:
    copy = tokens.copy()
    copy.flags.writeable = False
    return copy
