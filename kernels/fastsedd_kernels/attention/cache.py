"""`KVCache`: keys and values of positions that are final, in the panels that attention reads."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastsedd_kernels.attention.api import PANELS, division, factor_of, output_for, with_contiguous_rows
from fastsedd_kernels.attention.append import APPEND
from fastsedd_kernels.attention.kernel import ATTEND_PANELS
from fastsedd_kernels.attention.panels import key_block
from fastsedd_kernels.attention.rules import Rule, lengths_of, mask_of, span
from fastsedd_kernels.gemm.dot_products import NUMPY, SHAPES, WIDEST
from fastsedd_kernels.gemm.layout import whole_words
from fastsedd_kernels.runtime.arrays import aligned_empty, as_array, as_integer, check_apart
from fastsedd_kernels.runtime.capture import run
from fastsedd_kernels.runtime.cpu import isa
from fastsedd_kernels.runtime.threads import get_num_threads

_LENGTH, _PLACE = 0, 1  # in `_held`
_MAX = 1 << 40


class KVCache:
    """Keys and values of one layer, of the first `len(cache)` positions of each text.

    They are kept as the products of `attend` read them: rounded once to bfloat16 where that is the dtype and the CPU
    multiplies it, and nothing is packed again for the next block of queries. Any number of threads may call `attend` at
    once, while none appends or truncates. Calls may be recorded: a replay appends where the cache then ends, and
    attends to what it then holds; with a mask, to the keys that the mask has.
    batch, heads : texts, and heads of keys in each
    dim : of a head
    capacity : positions that it holds at most; their memory is taken at once
    dtype : "float32" or "bfloat16", of keys, values and the products with them
    Raises ValueError for a dtype or a number that is not allowed.
    """

    def __init__(self, batch: int, heads: int, dim: int, capacity: int, dtype: str = "float32") -> None:
        if dtype not in PANELS:
            raise ValueError(f"dtype is {dtype!r}, allowed: {', '.join(map(repr, PANELS))}")
        sizes = (("batch", batch), ("heads", heads), ("dim", dim), ("capacity", capacity))
        self.batch, self.heads, self.dim, self.capacity = (
            as_integer(name, size, 1, _MAX, "1 or more") for name, size in sizes
        )
        self.dtype = dtype
        words = PANELS[dtype].dtype
        element = NUMPY[words]
        nr = _panel_columns(self.dim, element)
        together = key_block(nr)
        keys = -(-self.capacity // together) * together
        lead = self.batch, self.heads
        self._keys = aligned_empty((*lead, -(-self.capacity // nr), whole_words(self.dim, element), nr), words)
        self._values = aligned_empty((*lead, -(-self.dim // nr), whole_words(keys, element), nr), words)
        self._keys.fill(0)
        self._values.fill(0)
        self._held = np.zeros(2, np.intp)

    def __len__(self) -> int:
        """Positions that it holds."""
        return int(self._held[_LENGTH])

    @property
    def nbytes(self) -> int:
        return self._keys.nbytes + self._values.nbytes

    def append(self, k: ArrayLike, v: ArrayLike) -> None:
        """Add positions at the end. k, v : float32 [batch, heads, N, dim], N of 1 or more; any layout.

        Raises ValueError for another shape, and for more positions than the cache has room for.
        """
        k, v = (with_contiguous_rows(as_array(name, part)) for name, part in (("k", k), ("v", v)))
        for name, part in (("k", k), ("v", v)):
            if part.ndim != 4 or part.shape != (self.batch, self.heads, k.shape[-2], self.dim) or part.size == 0:
                allowed = f"[{self.batch}, {self.heads}, N, {self.dim}], N equal and 1 or more"
                raise ValueError(f"{name} has shape {part.shape}, must be {allowed}")
        run(self._grow, k.shape[2])
        self._put(k, v)

    def truncate(self, length: int) -> None:
        """Keep the first `length` positions only. Raises ValueError if it holds fewer."""
        run(self._shrink, length)
        nothing = np.empty((self.batch, self.heads, 0, self.dim), np.float32)
        self._put(nothing, nothing)

    def attend(
        self,
        q: ArrayLike,
        scale: float | None = None,
        causal: bool = False,
        out: NDArray[np.float32] | None = None,
        *,
        mask: ArrayLike | None = None,
        block: int | None = None,
        window: int | None = None,
        lengths: ArrayLike | None = None,
        start: int | None = None,
    ) -> NDArray[np.float32]:
        """`fk.attention` of q to the keys and values held, to the same bits.

        q : float32 [batch, heads of queries, L, dim], a multiple of the cache's heads; the rest is as `fk.attention`
        has it, but that `start` is None by default: the last query stands at the last position held. Append a block's
        keys and values, then let its queries attend, with `causal` or `block` or without.
        mask : must broadcast to [batch, heads of queries, L, len(cache)]
        Raises ValueError as `fk.attention` does, and where the cache is empty.
        """
        q = with_contiguous_rows(as_array("q", q))
        fits = q.ndim == 4 and q.shape[0] == self.batch and q.shape[3] == self.dim and q.size > 0
        if not fits or q.shape[1] % self.heads:
            allowed = f"[{self.batch}, a multiple of {self.heads}, L, {self.dim}] with elements"
            raise ValueError(f"q has shape {q.shape}, must be {allowed}")
        if len(self) == 0:
            raise ValueError("the cache is empty, must hold keys and values")
        out = output_for(q, out)
        rule = Rule(
            span(causal, block, window, start),
            lengths_of(lengths, (self.batch,), len(self)),
            mask_of(mask, (*q.shape[:3], len(self))),
        )
        if rule.mask is not None:
            check_apart(out, mask=rule.mask)
        rows = q.shape[1] // self.heads * q.shape[2]
        shares, tasks, size = division(self.batch * self.heads, rows, self._keys.dtype)
        arguments = rule.arguments(factor_of(scale, self.dim), rule.mask), (shares, tasks, size)
        ATTEND_PANELS[self._keys.dtype](tasks, q, self._keys, self._values, self._held, out, *arguments)
        return out

    def _put(self, k: NDArray[np.float32], v: NDArray[np.float32]) -> None:
        tasks = min(get_num_threads(), self.batch * self.heads)
        APPEND[self._keys.dtype](tasks, k, v, self._keys, self._values, self._held, tasks)

    def _grow(self, count: int) -> None:
        length = len(self)
        if length + count > self.capacity:
            raise ValueError(
                f"{count} positions beside {length} are more than the cache's capacity, which is {self.capacity}"
            )
        self._held[:] = length + count, length

    def _shrink(self, length: int) -> None:
        kept = as_integer("length", length, 0, len(self), f"0 to {len(self)}, the number of positions held")
        self._held[:] = kept, kept


def _panel_columns(dim: int, element: Any) -> int:
    """`panels.panel_columns` of that element."""
    lanes = isa().lanes
    widest = WIDEST[element].vectors * lanes
    return widest if widest - lanes < dim <= widest else SHAPES[element].vectors * lanes
