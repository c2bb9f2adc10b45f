"""`sample_categorical`, `sample_linear` and `uniform`: arguments checked, rows flattened, calls down."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastsedd_kernels.gemm.blocking import plan
from fastsedd_kernels.gemm.dot_products import COLUMNS
from fastsedd_kernels.gemm.macrokernel import SUM_PANELS
from fastsedd_kernels.gemm.packed_weight import PackedWeight
from fastsedd_kernels.runtime.arrays import (
    aligned_empty,
    as_array,
    as_integer,
    as_integers,
    check_apart,
    contiguous,
    output_like,
    with_adjacent_elements,
)
from fastsedd_kernels.runtime.capture import run
from fastsedd_kernels.runtime.threads import get_num_threads
from fastsedd_kernels.sampling.categorical import draw_rows, tasks_for
from fastsedd_kernels.sampling.fused_head import CHOOSE, NONE, SHARPEST, fill_uniform

METHODS = ("exact", "official")

_NO_VECTOR = np.empty(0, np.float32)
_TASKS_PER_THREAD = 4  # of choices, which take some rows longer than others
_ROWS_PER_TASK = 4096  # of random numbers


class Law(NamedTuple):
    """Weights of a draw from a row of logits l, where s_j = e^(l_j + log_scale) for each column but the row's own.

    With A = sum_j s_j and t = floor (1 + A), column j weighs w_j = max(s_j - t, 0) and the row's own, c, weighs
    max(stay - slope A, 0). Where it is not c that is drawn, it is j in proportion to w_j^sharpness: the sharpness
    changes where a row jumps to, not how likely it is to jump. One from 1e30 on, infinite or not, takes the greatest.

    With `relative` 1 instead of 0, s_j = e^(l_j - l_c + log_scale) in a row whose own column is among those drawn from:
    e^l_j over what c would be, had it been drawn like the others, so that a stay of 1 leaves the row's softmax.

    log_scale : finite; floor, stay, slope : 0 or above; sharpness : above 0. Not checked, since a law may be an array
    that changes between replays: outside of these ranges a row may have no positive weight, which is a ValueError.
    """

    log_scale: float = 0.0
    floor: float = 0.0
    stay: float = 0.0
    slope: float = 0.0
    sharpness: float = 1.0
    relative: float = 0.0


_SHARPNESS = Law._fields.index("sharpness")


def sample_categorical(
    probabilities: ArrayLike,
    seed: int | NDArray[np.uint64],
    offset: int | NDArray[Any] = 0,
    *,
    method: str = "exact",
    out: NDArray[np.int32] | None = None,
) -> NDArray[np.int32]:
    """Draw one index per row by Gumbel-max, from counter-based random numbers.

    probabilities : float32 [..., V]; a row need not sum to one, and a weight that is negative or NaN never wins
    seed : 0 to 2**64 - 1, or uint64 [...], a seed per row
    offset : the first row's random stream (row r of the flattened rows uses offset + r), or an integer array [...]
        with a stream per row. Equal seed, stream and row give an equal draw, whatever the batch and the threads.
    method : "exact" (32-bit exponentials in float64) or "official" (SEDD's published arithmetic, float32 and 24 bits,
        which acts as a temperature a little below one)
    out : int32 [...], C-contiguous, not overlapping the probabilities
    Raises ValueError for a bad argument and for a row without a positive weight.
    Source: Philox4x32-10, Salmon et al. 2011; Lou et al. 2024, `sample_categorical` of the published code.
    """
    p = as_array("probabilities", probabilities)
    if p.ndim == 0 or p.shape[-1] == 0:
        raise ValueError(f"probabilities has shape {p.shape}, must be [..., V] with V at least 1")
    keys = _as_seeds(seed, p.shape[:-1])
    if method not in METHODS:
        raise ValueError(f"method is {method!r}, allowed: {', '.join(map(repr, METHODS))}")
    out = output_like("out", out, p.shape[:-1], np.int32)
    if out.size == 0:
        return out
    check_apart(out, probabilities=p)
    rows = contiguous(p).reshape(-1, p.shape[-1])
    flat = out.reshape(-1)
    draw_rows(
        tasks_for(flat.size), rows, keys, _streams("offset", offset, p.shape[:-1]), method == "official", flat
    )  # fmt: skip
    run(_check_drawn, flat, "probabilities", -1)
    return out


def sample_linear(
    x: ArrayLike,
    weight: PackedWeight,
    bias: ArrayLike | None = None,
    *,
    law: Law | NDArray[np.float64],
    seed: int | NDArray[np.uint64],
    streams: NDArray[Any],
    current: NDArray[np.int32] | None = None,
    columns: int | None = None,
    sums: NDArray[np.float32] | None = None,
    out: NDArray[np.int32] | None = None,
) -> NDArray[np.int32]:
    """Draw one of the outputs of x @ weight.T + bias for each row, without an array of them: see `Law`.

    x : float32 [M, inputs]
    weight : from `pack`, float32 or bfloat16; bias : float32 [outputs]
    law : how logits weigh, or a float64 [6] of its fields, read when the kernel runs: a replay may find another one
    seed : 0 to 2**64 - 1, or uint64 [1] or [M], a seed per row, read likewise
    streams : integers [M], a random stream per row. Equal logits, seed and stream give an equal draw, whatever the
        other rows and the threads.
    current : int32 [M], each row's own column, which is drawn where it stays; -1, or one beyond `columns`, is none of
        them (under absorb, the mask). None: -1
    columns : draw among the first so many; None: all
    sums : float32, for at least `sums_needed(weight, M)` values: scratch memory, overwritten; None allocates
    out : int32 [M]
    Weights are float64 of float32 logits, and numbers have 53 random bits. A replay must not find a law that is
    sharpened where the recorded one was not. Raises ValueError for a bad argument, and for a row without a positive
    weight or with a NaN.
    """
    rows = _rows_for(x, weight)
    outputs = weight.shape[0]
    columns = outputs if columns is None else columns
    if not 1 <= columns <= outputs:
        raise ValueError(f"columns is {columns}, allowed: 1 to {outputs}")
    out = output_like("out", out, rows.shape[:1], np.int32)
    if out.size == 0:
        return out
    own = np.full(out.shape, -1, np.int32) if current is None else current
    if own.dtype != np.int32 or own.shape != out.shape:
        raise ValueError(f"current is {own.dtype} {own.shape}, must be int32 {out.shape}")
    added = _NO_VECTOR if bias is None else contiguous(as_array("bias", bias))
    if added.shape not in ((0,), (outputs,)):
        raise ValueError(f"bias has shape {added.shape}, must be ({outputs},)")
    numbers, keys = _as_law(law), _as_seeds(seed, out.shape)
    _check_apart(out, sums, own, (rows, added, numbers))
    own = contiguous(own)
    panels = weight.panels[: -(-columns // COLUMNS[weight.panels.dtype])]
    sharpness = numbers[_SHARPNESS : _SHARPNESS + 1]
    sharpen = bool(sharpness[0] != 1.0 and sharpness[0] < SHARPEST)
    memory = _sums_of((len(rows), (3 if sharpen else 2) * len(panels)), sums)
    threads = get_num_threads()
    arranged = plan(threads, len(rows), panels.shape[1], len(panels), panels.dtype)
    parts = (added, columns, own, sharpness, sharpen)
    SUM_PANELS[panels.dtype](arranged[0] * arranged[1], rows, panels, parts, memory, False, arranged)
    tasks = min(len(rows), _TASKS_PER_THREAD * threads)
    draws = (own, numbers, keys, _streams("streams", streams, out.shape))
    CHOOSE[panels.dtype](tasks, rows, (panels, added, columns), draws, memory, out, tasks)
    run(_check_drawn, out, "x @ weight.T + bias", NONE)
    return out


def _check_apart(
    out: NDArray[np.int32],
    sums: NDArray[np.float32] | None,
    current: NDArray[np.int32],
    inputs: tuple[NDArray[Any], NDArray[Any], NDArray[Any]],
) -> None:
    """ValueError where what is written overlaps what is read, but for out and current; inputs : x, bias and law"""
    x, bias, law = inputs
    check_apart(out, in_place=True, current=current)
    check_apart(out, x=x, bias=bias, law=law)
    if sums is not None:
        check_apart(out, sums=sums)
        check_apart(sums, called="sums", current=current, x=x, bias=bias, law=law)


def _rows_for(x: ArrayLike, weight: PackedWeight) -> NDArray[np.float32]:
    """x as rows that the weight's kernels read; ValueError where they do not fit."""
    given = as_array("x", x)
    if weight.dtype not in ("float32", "bfloat16") or weight.strassen > 0 or weight.paired:
        packed = f"{weight.dtype}, strassen={weight.strassen}{', a pair' if weight.paired else ''}"
        raise ValueError(f"weight is packed as {packed}, allowed: one of float32 or bfloat16, strassen=0")
    if given.ndim != 2 or given.shape[1] != weight.shape[1]:
        raise ValueError(f"x has shape {given.shape}, must be [M, {weight.shape[1]}] for this weight")
    return given if weight.dtype == "float32" else with_adjacent_elements(given)


def _sums_of(shape: tuple[int, int], sums: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """Scratch memory of that shape: the caller's, or new."""
    size = math.prod(shape)
    memory = aligned_empty((size,)) if sums is None else sums.reshape(-1)[:size]
    if memory.size < size or memory.dtype != np.float32:
        raise ValueError(f"sums has {memory.size} values of {memory.dtype}, allowed: float32, {size} or more")
    return memory.reshape(shape)


def sums_needed(weight: PackedWeight, rows: int) -> int:
    """The number of float32 values that `sample_linear` needs as scratch memory for that many rows and any law."""
    return 3 * rows * len(weight.panels)


def uniform(seed: int | NDArray[np.uint64], streams: NDArray[Any]) -> NDArray[np.float64]:
    """A number 0 <= u < 1 of 53 random bits for each stream, of a block that no draw uses: float64, as streams.

    seed : 0 to 2**64 - 1, or uint64 of the streams' shape, a seed each; streams : integers, any shape
    Raises ValueError for a seed or stream out of range, and for streams that are not integers.
    """
    keys = _as_seeds(seed, streams.shape)
    out = np.empty(streams.shape)
    if out.size:
        tasks = -(-out.size // _ROWS_PER_TASK)
        fill_uniform(tasks, keys, _streams("streams", streams, streams.shape), out.reshape(-1), tasks)
    return out


def _as_law(law: Law | NDArray[np.float64]) -> NDArray[np.float64]:
    numbers = np.asarray(law, np.float64)
    if numbers.shape != (len(Law._fields),):
        raise ValueError(f"law has shape {numbers.shape}, must be a Law or ({len(Law._fields)},)")
    return contiguous(numbers)


def _as_seeds(seed: int | NDArray[np.uint64], shape: tuple[int, ...]) -> NDArray[np.uint64]:
    """Seeds as kernels read them, uint64 [1] for all rows or [M]; shape : of the rows"""
    if isinstance(seed, np.ndarray):
        if seed.shape not in ((1,), shape) or seed.dtype != np.uint64:
            raise ValueError(f"seed is {seed.dtype} {seed.shape}, must be an integer or uint64 (1,) or {shape}")
        return contiguous(seed).reshape(-1)
    return np.array([as_integer("seed", seed, 0, 2**64 - 1, "0 to 2**64 - 1")], np.uint64)


def _check_drawn(drawn: NDArray[np.int32], name: str, none: int) -> None:
    undrawn = drawn == none
    if undrawn.any():
        raise ValueError(f"{name} has no positive weight in row {int(undrawn.argmax())}")


def _streams(name: str, given: int | NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.uint64]:
    if isinstance(given, (int, np.integer)):
        first = as_integer(name, given, 0, 2**63 - 1, "0 to 2**63 - 1")
        return np.arange(first, first + math.prod(shape), dtype=np.uint64)
    streams = as_integers(name, given)
    if streams.shape != shape:
        raise ValueError(f"{name} is {streams.dtype} {streams.shape}, must be an integer or integers {shape}")
    run(_check_streams, name, streams)
    return contiguous(streams, np.uint64).reshape(-1)


def _check_streams(name: str, streams: NDArray[Any]) -> None:
    if streams.size and streams.min() < 0:
        raise ValueError(f"{name} has {int(streams.min())}, allowed: 0 to 2**64 - 1")
