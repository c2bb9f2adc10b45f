"""`attention`: arguments checked and viewed as [B, H, L, D], then one call down."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastsedd_kernels.attention.kernel import ATTEND, query_block
from fastsedd_kernels.attention.rules import Rule, lengths_of, mask_of, span
from fastsedd_kernels.runtime.arrays import as_array, as_number, check_apart, contiguous, strided_output_like
from fastsedd_kernels.runtime.threads import get_num_threads

# dtypes of the products, and an empty array of each one's panels.
PANELS = {
    "float32": np.empty(0, np.float32),
    "bfloat16": np.empty(0, np.uint32 if np.dtype(np.uint32) in ATTEND else np.float32),
}


def attention(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    scale: float | None = None,
    causal: bool = False,
    out: NDArray[np.float32] | None = None,
    dtype: str = "float32",
    *,
    mask: ArrayLike | None = None,
    block: int | None = None,
    window: int | None = None,
    lengths: ArrayLike | None = None,
    start: int | None = 0,
) -> NDArray[np.float32]:
    """softmax(scale * q @ k^T + mask) @ v for each head, as torch's scaled_dot_product_attention.

    q : float32 [..., heads, L, D]; rows contiguous, else copied, as those of k and v
    k, v : float32 [..., heads of keys, S, D]; query head h reads head h // (heads / heads of keys); other leading
        dimensions broadcast to those of q
    scale : above 0; 1 / sqrt(D) if None
    causal : the query at position p sees keys 0 to p only
    out : float32 of q's shape, rows contiguous, overlapping none of the others
    dtype : "float32" or "bfloat16", to which queries, keys, values and weights are then rounded for their products, on
        CPUs that have instructions for those
    mask : broadcasts to [..., heads, L, S]; bool, True for a key that is seen, or float32, added to scale * q @ k^T
    block : keys in a block; the query at position p sees the keys of its own block and of earlier ones
    window : the query at position p sees keys after p - window, and without causal and block those before p + window
    lengths : integers [...], one for each text: its keys from that one on are padding, which is not read
    start : position of query 0 among the keys: 0 as torch's is_causal has it; None puts the last query at the last key,
        as decoding with a cache does (torch's causal_lower_right)
    No [L, S] array is made, and no score where no query of a tile sees a key. A query that sees no key becomes 0, as
    torch's does. Accumulates in float32; results do not depend on the thread count. A NaN or an infinity in v may reach
    queries that do not see its key, too: those that are computed beside one that does, as in torch.
    Raises ValueError for a wrong dtype, shape or number. Source: Vaswani et al. 2017; in blocks with a running maximum,
    Milakov and Gimelshein 2018, Dao et al. 2022; grouped queries, Ainslie et al. 2023; blocks, Arriola et al. 2025.
    """
    if dtype not in PANELS:
        raise ValueError(f"dtype is {dtype!r}, allowed: {', '.join(map(repr, PANELS))}")
    q, k, v = _operands(q, k, v)
    out = output_for(q, out)
    check_apart(out, k=k, v=v)
    keys = k.shape[-2]
    rule = Rule(
        span(causal, block, window, start),
        lengths_of(lengths, q.shape[:-3], keys),
        mask_of(mask, (*q.shape[:-1], keys)),
    )
    if rule.mask is not None:
        check_apart(out, mask=rule.mask)
    panels, factor = PANELS[dtype], factor_of(scale, q.shape[-1])
    for each, (queries, held, values, result, shown) in _calls(rule, q, k, v, out, rule.mask):
        heads, rows = held.shape[0] * held.shape[1], queries.shape[1] // held.shape[1] * queries.shape[2]
        shares, tasks, size = division(heads, rows, panels.dtype)
        arguments = each.arguments(factor, shown), (shares, tasks, size), panels
        ATTEND[panels.dtype](tasks, queries, held, values, result, *arguments)
    return out


def _operands(*given: ArrayLike) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """q, k and v with contiguous rows, and q's leading dimensions. Raises ValueError if they do not fit together."""
    q, k, v = (with_contiguous_rows(as_array(name, part)) for name, part in zip("qkv", given, strict=True))
    shapes = f"{q.shape}, {k.shape} and {v.shape}"
    for name, part in (("q", q), ("k", k)):
        if part.ndim < 3 or part.size == 0:
            raise ValueError(f"{name} has shape {part.shape}, must be [..., heads, length, dim] with elements")
    k, v = _as_batches(k, q.shape[:-3]), _as_batches(v, q.shape[:-3])
    if k.shape != v.shape or k.shape[:-3] != q.shape[:-3] or k.shape[-1] != q.shape[-1] or q.shape[-3] % k.shape[-3]:
        raise ValueError(f"q, k and v have shapes {shapes}, which do not fit together")
    return q, k, v


def factor_of(scale: float | None, dim: int) -> np.float32:
    """The scale, or what stands for it where it is None."""
    return np.float32(1 / math.sqrt(dim) if scale is None else as_number("scale", scale))


def output_for(q: NDArray[np.float32], out: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """`out`, or a new array of q's shape. Raises ValueError if it does not fit, or overlaps q."""
    out = strided_output_like("out", out, q.shape)
    if out.strides[-1] != out.itemsize:
        raise ValueError("out must have contiguous rows")
    check_apart(out, q=q)
    return out


def division(heads: int, rows: int, dtype: np.dtype[Any]) -> tuple[int, int, int]:
    """Runs of queries per head of keys, tasks, queries per block, for heads with so many rows of queries each.

    A head's rows are one run, unless the heads alone leave threads idle.
    """
    threads, block = get_num_threads(), query_block(dtype)
    shares = 1
    if heads % threads != 0 and heads < 4 * threads:
        shares = min(threads // math.gcd(heads, threads), -(-rows // block))
    return shares, min(threads, heads * shares), block


def _calls(rule: Rule, q: NDArray[Any], *others: NDArray[Any] | None) -> Iterator[tuple[Rule, Any]]:
    """q, k, v, out and mask as [B, H, ., .], all at once if views of them are that, else one text after the other."""
    arrays, lead = (q, *others), q.shape[:-3]
    if len(lead) <= 1:
        axes = (None,) * (1 - len(lead))
        yield rule, arrays if axes == () else [None if each is None else each[axes] for each in arrays]
        return
    merged = [None if each is None else _as_four(each) for each in arrays]
    if all(each is None or four is not None for each, four in zip(arrays, merged, strict=True)):
        yield rule, merged
        return
    for position in np.ndindex(*lead):
        lengths = None if rule.lengths is None else rule.lengths[(*position, None)]  # a view, for replays
        parts = [None if each is None else each[position][None] for each in arrays]
        yield rule._replace(lengths=lengths), parts


def _as_four(x: NDArray[Any]) -> NDArray[Any] | None:
    """[..., H, L, D] as [B, H, L, D] in the same memory, or None."""
    merged = x.reshape(-1, *x.shape[-3:])
    return merged if np.may_share_memory(merged, x) else None


def _as_batches(x: NDArray[np.float32], batches: tuple[int, ...]) -> NDArray[np.float32]:
    """x [..., H, S, D] with those leading dimensions, without a copy; itself if it does not broadcast to them."""
    if x.shape[:-3] == batches:
        return x
    try:
        return np.broadcast_to(x, (*batches, *x.shape[-3:]))
    except ValueError:
        return x


def with_contiguous_rows(x: NDArray[np.float32]) -> NDArray[np.float32]:
    aligned = all(stride % x.itemsize == 0 for stride in x.strides)
    return x if x.ndim == 0 or x.size == 0 or (x.strides[-1] == x.itemsize and aligned) else contiguous(x)
