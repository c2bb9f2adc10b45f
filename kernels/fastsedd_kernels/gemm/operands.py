"""Operands of the micro-kernel and its callers, by name."""

from __future__ import annotations

from typing import Any, NamedTuple

from fastsedd_kernels.runtime.jit import jit


class Rows(NamedTuple):
    """Rows of a matrix in memory: a pointer to the first element, and elements from row to row."""

    pointer: Any
    stride: Any


class Start(NamedTuple):
    """Values that a tile's sums start from, where `given`; else zeros. A stride of 0 is one row for all (a bias)."""

    given: Any
    pointer: Any
    stride: Any


class Prefetch(NamedTuple):
    """Memory that a tile's product prefetches meanwhile, spread over k: at once, it would hold up the tile's own loads.

    block : B's elements that come next; `lines` cache lines of them with every UNROLL of k
    result, beside : rows that the tile's epilogue writes and reads, `stride` elements apart; a row of each per CHUNK of
        k, since stores that wait for their cache lines hold up loads too
    """

    block: Any
    lines: Any
    result: Any
    beside: Any
    stride: Any


class Tile(NamedTuple):
    """A tile of finished sums, and which part of C it is.

    sums : Rows, as wide as whole registers; first_row, first_column : where it is in C
    factors : pointer to float32, one per row, of int8 only
    """

    sums: Any
    rows: Any
    columns: Any
    first_row: Any
    first_column: Any
    factors: Any


@jit
def no_prefetch(b: Any, c: Any) -> Any:
    """A Prefetch of nothing but the tile's own first row: for products whose operands are in cache."""
    return Prefetch(b.pointer, 0, c.pointer, c.pointer, 0)
