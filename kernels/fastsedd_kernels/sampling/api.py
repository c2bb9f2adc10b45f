"""`sample_categorical`: arguments checked, rows flattened, one call down."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastsedd_kernels._arrays import as_array, contiguous, output_like
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

    probabilities : float32 [..., V], not negative; a row need not sum to one
    seed : 0 to 2**64 - 1
    offset : the first row's random stream (row r of the flattened rows uses offset + r), or an integer array [...]
        with a stream a row. Equal seed, stream and row give an equal draw, whatever the batch and the threads.
    method : "exact" (32-bit exponentials in float64) or "official" (SEDD's published arithmetic, float32 and 24 bits,
        which acts as a temperature a little below one)
    out : int32 [...]
    Raises ValueError for a bad argument and for a row without a positive weight.
    Source: Philox4x32-10, Salmon et al. 2011; Lou et al. 2024, `sample_categorical` of the published code.
    """
    p = as_array("probabilities", probabilities)
    if p.ndim == 0 or p.shape[-1] == 0:
        raise ValueError(f"probabilities has shape {p.shape}, must be [..., V] with V at least 1")
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed is {seed}, allowed are 0 to 2**64 - 1")
    if method not in METHODS:
        raise ValueError(f"method is {method!r}, allowed: {', '.join(map(repr, METHODS))}")
    out = output_like("out", out, p.shape[:-1], np.int32)
    if out.size == 0:
        return out
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
    if isinstance(offset, np.ndarray):
        if offset.shape != shape or offset.dtype.kind not in "iu":
            raise ValueError(f"offset is {offset.dtype} {offset.shape}, must be an integer or integers {shape}")
        return contiguous(offset, np.uint64).reshape(-1)
    if not 0 <= offset < 2**63:
        raise ValueError(f"offset is {offset}, allowed are 0 to 2**63 - 1")
    return np.arange(offset, offset + int(np.prod(shape)), dtype=np.uint64)
