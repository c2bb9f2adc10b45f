"""`attention`: arguments checked and viewed as [B, H, L, D], then one call down."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastsedd_kernels.attention.kernel import ATTEND, query_block
from fastsedd_kernels.runtime.arrays import as_array, as_number, check_apart, contiguous, strided_output_like
from fastsedd_kernels.runtime.threads import get_num_threads

# dtypes of the products, and an empty array of each one's panels.
PANELS = {"float32": np.empty(0, np.float32), "bfloat16": np.empty(0, np.uint32)}


def attention(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    scale: float | None = None,
    causal: bool = False,
    out: NDArray[np.float32] | None = None,
    dtype: str = "float32",
) -> NDArray[np.float32]:
    """softmax(scale * q @ k^T) @ v for each head, as torch's scaled_dot_product_attention.

    q : float32 [..., heads, L, D]; rows contiguous, else copied, as those of k and v
    k, v : float32 [..., heads, S, D]; leading dimensions broadcast to those of q: for grouped queries q is
        [B, groups, G, L, D], and k and v are [B, groups, 1, S, D]
    scale : above 0; 1 / sqrt(D) if None
    causal : query i sees keys 0 to i only
    out : float32 of q's shape, rows contiguous, overlapping neither q, k nor v
    dtype : "float32" or "bfloat16", to which queries, keys, values and weights are then rounded for their products
    No [L, S] array is made. Accumulates in float32; results do not depend on the thread count.
    Raises ValueError for a wrong dtype or shape. Source: Vaswani et al. 2017; in blocks with a running maximum, Milakov
    and Gimelshein 2018, Dao et al. 2022.
    """
    if dtype not in PANELS:
        raise ValueError(f"dtype is {dtype!r}, allowed: {', '.join(map(repr, PANELS))}")
    q, k, v = (_with_contiguous_rows(as_array(name, part)) for name, part in (("q", q), ("k", k), ("v", v)))
    shapes = f"{q.shape}, {k.shape} and {v.shape}"
    for name, part in (("q", q), ("k", k)):
        if part.ndim < 3 or part.size == 0:
            raise ValueError(f"{name} has shape {part.shape}, must be [..., heads, length, dim] with elements")
    k, v = _as_batches(k, q.shape[:-2]), _as_batches(v, q.shape[:-2])
    if k.shape != v.shape or k.shape[:-2] != q.shape[:-2] or k.shape[-1] != q.shape[-1]:
        raise ValueError(f"q, k and v have shapes {shapes}, which do not fit together")
    out = strided_output_like("out", out, q.shape)
    if out.strides[-1] != out.itemsize:
        raise ValueError("out must have contiguous rows")
    check_apart(out, q=q, k=k, v=v)
    factor = np.float32(1 / math.sqrt(q.shape[-1]) if scale is None else as_number("scale", scale))
    if q.ndim > 4:
        for position in np.ndindex(*q.shape[:-3]):
            _attend(q[position][None], k[position][None], v[position][None], factor, causal, out[position][None], dtype)
    else:
        lead = (None,) * (4 - q.ndim)
        _attend(q[lead], k[lead], v[lead], factor, causal, out[lead], dtype)
    return out


def _attend(
    q: NDArray[np.float32], k: NDArray[np.float32], v: NDArray[np.float32], scale: np.float32, causal: bool,
    out: NDArray[np.float32], dtype: str,
) -> None:  # fmt: skip
    panels = PANELS[dtype]
    heads, block = q.shape[0] * q.shape[1], query_block(panels.dtype)
    shares = _shares(heads, q.shape[2], block)
    tasks = min(get_num_threads(), heads * shares)
    ATTEND[panels.dtype](tasks, q, k, v, out, (scale, bool(causal)), (shares, tasks, block), panels)


def _shares(heads: int, queries: int, block: int) -> int:
    """Runs of queries that each head is cut into: one, unless the heads alone leave threads idle."""
    threads = get_num_threads()
    if heads % threads == 0 or heads >= 4 * threads:
        return 1
    return min(threads // math.gcd(heads, threads), -(-queries // block))


def _as_batches(x: NDArray[np.float32], batches: tuple[int, ...]) -> NDArray[np.float32]:
    """x [..., S, D] with those leading dimensions, without a copy; itself if it does not broadcast to them."""
    if x.shape[:-2] == batches:
        return x
    try:
        return np.broadcast_to(x, (*batches, *x.shape[-2:]))
    except ValueError:
        return x


def _with_contiguous_rows(x: NDArray[np.float32]) -> NDArray[np.float32]:
    aligned = all(stride % x.itemsize == 0 for stride in x.strides)
    return x if x.ndim == 0 or x.size == 0 or (x.strides[-1] == x.itemsize and aligned) else contiguous(x)
