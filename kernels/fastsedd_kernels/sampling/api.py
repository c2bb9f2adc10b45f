"""`sample_categorical`: arguments checked, rows flattened, one call down."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastsedd_kernels._arrays import as_array, as_integer, as_integers, check_apart, contiguous, output_like
from fastsedd_kernels.recording import run
from fastsedd_kernels.sampling.kernel import draw_rows, tasks_for

METHODS = ("exact", "official")


def sample_categorical(
    probabilities: ArrayLike,
    seed: int,
    offset: int | NDArray[Any] = 0,
    *,
    method: str = "exact",
    out: NDArray[np.int32] | None = None,
) -> NDArray[np.int32]:
    """Draw one index a row by Gumbel-max, from counter-based random numbers.

    probabilities : float32 [..., V]; a row need not sum to one, and a weight that is negative or NaN never wins
    seed : 0 to 2**64 - 1
    offset : the first row's random stream (row r of the flattened rows uses offset + r), or an integer array [...]
        with a stream a row. Equal seed, stream and row give an equal draw, whatever the batch and the threads.
    method : "exact" (32-bit exponentials in float64) or "official" (SEDD's published arithmetic, float32 and 24 bits,
        which acts as a temperature a little below one)
    out : int32 [...], C-contiguous, not overlapping the probabilities
    Raises ValueError for a bad argument and for a row without a positive weight.
    Source: Philox4x32-10, Salmon et al. 2011; Lou et al. 2024, `sample_categorical` of the published code.
    """
    p = as_array("probabilities", probabilities)
    if p.ndim == 0 or p.shape[-1] == 0:
        raise ValueError(f"probabilities has shape {p.shape}, must be [..., V] with V at least 1")
    seed = as_integer("seed", seed, 0, 2**64 - 1, "0 to 2**64 - 1")
    if method not in METHODS:
        raise ValueError(f"method is {method!r}, allowed: {', '.join(map(repr, METHODS))}")
    out = output_like("out", out, p.shape[:-1], np.int32)
    if out.size == 0:
        return out
    check_apart(out, probabilities=p)
    rows = contiguous(p).reshape(-1, p.shape[-1])
    flat = out.reshape(-1)
    draw_rows(
        tasks_for(flat.size), rows, np.uint64(seed), _streams(offset, p.shape[:-1]), method == "official", flat
    )  # fmt: skip
    run(_check_drawn, flat)
    return out


def _check_drawn(drawn: NDArray[np.int32]) -> None:
    if drawn.min() < 0:
        raise ValueError(f"probabilities has no positive weight in row {int(drawn.argmin())}")


def _streams(offset: int | NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.uint64]:
    if isinstance(offset, (int, np.integer)):
        first = as_integer("offset", offset, 0, 2**63 - 1, "0 to 2**63 - 1")
        return np.arange(first, first + math.prod(shape), dtype=np.uint64)
    streams = as_integers("offset", offset)
    if streams.shape != shape:
        raise ValueError(f"offset is {streams.dtype} {streams.shape}, must be an integer or integers {shape}")
    run(_check_streams, streams)
    return contiguous(streams, np.uint64).reshape(-1)


def _check_streams(streams: NDArray[Any]) -> None:
    if streams.min() < 0:
        raise ValueError(f"offset has {int(streams.min())}, allowed are 0 to 2**64 - 1")
