"""`attention` inside njit functions; see `runtime/inside_numba`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba.extending import register_jitable

from fastsedd_kernels.attention.api import PANELS, attention
from fastsedd_kernels.attention.kernel import ATTEND, query_block
from fastsedd_kernels.attention.visible import UNLIMITED
from fastsedd_kernels.runtime.inside_numba import (
    as_given,
    caller,
    constant,
    implements,
    is_absent,
    or_new,
    require,
    require_out,
)

_attend = {dtype: caller(kernel) for dtype, kernel in ATTEND.items()}


@implements(attention)
def _attention(
    q: Any, k: Any, v: Any, scale: Any = None, causal: Any = False, out: Any = None, dtype: Any = "float32"
) -> Any:  # fmt: skip
    for name, each in (("q", q), ("k", k), ("v", v)):
        require(name, each, (4,))
    require_out(out, (4,))
    words = PANELS[constant("dtype", dtype, tuple(PANELS))].dtype
    call, block, like = _attend[words], query_block(words), words.type
    target = or_new(out, np.float32)
    factor = register_jitable(
        (lambda scale, dim: 1 / math.sqrt(dim)) if is_absent(scale) else (lambda scale, dim: scale)
    )
    rows_of = {
        each: as_given if each.layout == "C" else register_jitable(lambda x: np.ascontiguousarray(x))
        for each in (q, k, v)
    }
    rows_q, rows_k, rows_v = rows_of[q], rows_of[k], rows_of[v]

    def implementation(
        q: Any, k: Any, v: Any, scale: Any = None, causal: Any = False, out: Any = None, dtype: Any = "float32"
    ) -> Any:  # fmt: skip
        if q.size == 0 or k.size == 0 or k.shape != v.shape or k.shape[0] != q.shape[0] or k.shape[3] != q.shape[3]:
            raise ValueError("q must be [B, heads, L, D] with elements, k and v [B, heads of keys, S, D]")
        if q.shape[1] % k.shape[1] != 0:
            raise ValueError("q must have a multiple of the heads of k and v")
        result = target(out, q.shape)
        one, size, most = np.intp(1), np.intp(block), np.intp(UNLIMITED)
        span = (np.intp(0), np.intp(0), np.intp(causal), most, most)
        rule = (
            np.float32(factor(scale, q.shape[3])),
            span,
            np.empty(0, np.intp),
            np.empty((0, 0, 0, 0), np.float32),
            np.empty((0, 0, 0, 0), np.uint8),
        )
        call(1, (rows_q(q), rows_k(k), rows_v(v), result, rule, (one, one, size), np.empty(0, like)))
        return result

    return implementation
