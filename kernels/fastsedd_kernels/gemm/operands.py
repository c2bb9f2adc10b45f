"""Operands of the micro-kernel and its callers, by name."""

from __future__ import annotations

from typing import Any, NamedTuple

from fastsedd_kernels.gemm.dot_products import UNROLL
from fastsedd_kernels.runtime.jit import jit
from fastsedd_kernels.runtime.scalar import elements_per_line, offset


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


class Ahead(NamedTuple):
    """The block of B that comes next, which the tiles of a panel prefetch in equal shares.

    block : pointer to it; lines : cache lines that it takes; at_once : of them, with every UNROLL of k, until a tile
    has prefetched its share
    """

    block: Any
    lines: Any
    at_once: Any
    share: Any


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


@jit
def ahead_of(block: Any, elements: int, depth: int, tiles: int) -> Any:
    """The shares of so many tiles, each of that depth, in a block of so many elements; none for 0 tiles."""
    lines, groups = -(-elements // elements_per_line(block)), max(1, depth // UNROLL)
    at_once = -(-lines // (tiles * groups)) if tiles > 0 else 0
    return Ahead(block, lines if tiles > 0 else 0, at_once, at_once * groups)


@jit
def share_of(ahead: Any, tile: int) -> Any:
    """(pointer, lines with every UNROLL of k) of a tile's share: the last ends with the block, others have none."""
    first = tile * ahead.share
    lines = ahead.at_once if first < ahead.lines else 0
    first = max(0, min(first, ahead.lines - ahead.share))
    return offset(ahead.block, first * elements_per_line(ahead.block)), lines
