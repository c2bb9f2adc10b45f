"""Strassen's product: seven products of half the size in place of eight, once or twice over.

    P1 = (A11 + A22)(B11 + B22)    P2 = (A21 + A22) B11    P3 = A11 (B12 - B22)    P4 = A22 (B21 - B11)
    P5 = (A11 + A12) B22           P6 = (A21 - A11)(B11 + B12)                     P7 = (A12 - A22)(B21 + B22)
    C11 = P1 + P4 - P5 + P7        C12 = P3 + P5           C21 = P2 + P4           C22 = P1 - P2 + P3 + P6

Two levels are one level of one level: 49 products of quarter-size blocks. `strassen_kernel` computes them, for one slab
of K and of columns at a time, so that a block's K' and with it the block of A in L2 stay what they are in the classical
product, and the panels of all products stay within 49 / 16 of a slab of B.

Winograd's form needs 15 additions, not these 18, where sums that several products share are stored; fused, its
products would read and write more blocks (14 of A, of B and of C, here 12).

Error, norm-wise (Higham, Accuracy and Stability of Numerical Algorithms, theorem 23.2; |.| is the largest element):

    |C - C'| <= (12^levels (n'^2 + 5 n') - 5 n) eps |A| |B| + O(eps^2)        n' = n / 2^levels

and not element by element: a small element of C may lose all its digits beside large ones. A NaN or an infinity spreads
to elements that the classical product would keep finite.

Strassen, "Gaussian Elimination is not Optimal" (1969); fused as by Huang, Smith, Henry and van de Geijn, "Strassen's
Algorithm Reloaded" (SC16), section 4, variant ABC.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastsedd_kernels.gemm.blocking import MAX_COLUMNS, blocking
from fastsedd_kernels.gemm.dot_products import COLUMNS
from fastsedd_kernels.gemm.strassen.kernel import MULTIPLY_BLOCKS, PACK_SUMS, PANELS_PER_TASK, PRODUCTS, STORE
from fastsedd_kernels.gemm.tuned_blocks import limits
from fastsedd_kernels.runtime.arrays import aligned_empty
from fastsedd_kernels.runtime.machines import CACHE_LINE
from fastsedd_kernels.runtime.scratch import scratch
from fastsedd_kernels.runtime.threads import get_num_threads

MAX_LEVELS = 2
_MIN_ROWS = 32  # of a task, below which its reading of panels shows

# Blocks are numbered 0 to 3: 11, 12, 21, 22. A's, by product: the first, the second and its sign, 0 where there is one.
_SUMS_OF_A = ((0, 3, 1), (2, 3, 1), (0, 0, 0), (3, 0, 0), (0, 1, 1), (2, 0, -1), (1, 3, -1))
# C's, by product: block and sign. The first product of each block comes with a plus.
_PARTS_OF_C = (
    ((0, 1), (3, 1)), ((2, 1), (3, -1)), ((1, 1), (3, 1)), ((0, 1), (2, 1)), ((0, -1), (1, 1)), ((3, 1),), ((0, 1),),
)  # fmt: skip
_SUMS = np.array(_SUMS_OF_A, np.intp)


class Blocks(NamedTuple):
    """Blocks of B [K, N]: `slabs` of K, `slab` deep, each of blocks [depth, columns], in `panels` panels."""

    levels: int
    slabs: int
    slab: int
    depth: int
    columns: int
    panels: int
    nr: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of the panels of all products of a slab."""
        return PRODUCTS**self.levels, self.panels, self.depth, self.nr


def blocks_of(levels: int, depth: int, columns: int, dtype: np.dtype[Any]) -> Blocks:
    """The blocks of a B of that many rows and columns."""
    side, line, nr = 2**levels, CACHE_LINE // dtype.itemsize, COLUMNS[dtype]
    kc = blocking(limits(), -(-depth // side), dtype)[1]
    slabs = max(1, round(depth / (side * kc)))
    deep, wide = -(-depth // (slabs * side)), -(-columns // (side * line)) * line
    return Blocks(levels, slabs, deep * side, deep, wide, -(-wide // nr), nr)


def multiply(a: NDArray[Any], b: NDArray[Any], out: NDArray[Any], levels: int) -> None:
    """out [M, N] = a [M, K] . b [K, N], a slab of B at a time, of MAX_COLUMNS at most."""
    (depth, width), columns = b.shape, min(b.shape[1], MAX_COLUMNS)
    largest = blocks_of(levels, depth, columns, b.dtype)
    with scratch(math.prod(largest.shape), b.dtype) as memory:
        for first in range(0, width, columns):
            part = slice(first, min(width, first + columns))
            blocks = blocks_of(levels, depth, part.stop - part.start, b.dtype)
            panels = memory[: math.prod(blocks.shape)].reshape(blocks.shape)
            for k in range(0, depth, blocks.slab):
                slab = slice(k, k + blocks.slab)
                _pack_slab(b[slab, part].T, blocks, panels)
                _add_slab(a[:, slab], panels, out[:, part], blocks, accumulate=k > 0)


def pack_sums(weight: NDArray[Any], levels: int) -> NDArray[Any]:
    """The panels of all products for B = weight.T: [slabs, 7**levels, panels, depth, NR]; weight : [N, K]."""
    blocks = blocks_of(levels, weight.shape[1], weight.shape[0], weight.dtype)
    panels = aligned_empty((blocks.slabs, *blocks.shape), weight.dtype)
    for i, of_slab in enumerate(panels):
        _pack_slab(weight[:, i * blocks.slab : (i + 1) * blocks.slab], blocks, of_slab)
    return panels


def multiply_packed(a: NDArray[Any], panels: NDArray[Any], out: NDArray[Any], levels: int) -> None:
    """out [M, N] = a [M, K] . B, whose panels `pack_sums` has made; adjacent elements in a row of out."""
    blocks = blocks_of(levels, a.shape[1], out.shape[1], a.dtype)
    for i, of_slab in enumerate(panels):
        _add_slab(a[:, i * blocks.slab : (i + 1) * blocks.slab], of_slab, out, blocks, accumulate=i > 0)


def _pack_slab(weight: NDArray[Any], blocks: Blocks, panels: NDArray[Any]) -> None:
    """weight : [N, K of the slab, or fewer], any strides"""
    PACK_SUMS[weight.dtype](-(-blocks.panels // PANELS_PER_TASK), weight, blocks.columns, panels)


def _add_slab(a: NDArray[Any], panels: NDArray[Any], out: NDArray[Any], blocks: Blocks, *, accumulate: bool) -> None:
    """out (+)= a . B of one slab"""
    rows = -(-len(a) // 2**blocks.levels)
    grid = _grid(get_num_threads(), rows, blocks, a.dtype)
    parts = _parts_of_c(blocks.levels, accumulate)
    MULTIPLY_BLOCKS[a.dtype](grid[0] * grid[1], a, panels, _SUMS, parts, out, (rows, blocks.columns), grid)


def _grid(threads: int, rows: int, blocks: Blocks, dtype: np.dtype[Any]) -> tuple[int, int]:
    """Parts of a block's rows and of its panels, as numbers: a task is one of each."""
    mc = blocking(limits(), blocks.depth, dtype)[0]
    parts = -(-rows // mc)
    parts = -(-parts // threads) * threads  # none waits for the last
    parts = max(1, min(parts, rows // _MIN_ROWS))
    return parts, min(blocks.panels, -(-threads // parts))


@functools.cache
def _parts_of_c(levels: int, accumulate: bool) -> NDArray[np.intp]:
    """[7**levels, 2**levels, 3] : row and column of a block of C, and the sign there; 0 where a product has no more.

    accumulate : add to what C holds; otherwise the first product that is part of a block is what it begins with (STORE)
    """
    products: list[list[tuple[int, int, int]]] = [[(0, 0, 1)]]
    for _ in range(levels):
        products = [
            [
                (2 * row + block // 2, 2 * column + block % 2, outer_sign * sign)
                for row, column, outer_sign in outer
                for block, sign in inner
            ]
            for outer in products
            for inner in _PARTS_OF_C
        ]
    table = np.zeros((len(products), 2**levels, 3), np.intp)
    begun: set[tuple[int, int]] = set()
    for product, parts in enumerate(products):
        for i, (row, column, sign) in enumerate(parts):
            begins = not accumulate and (row, column) not in begun
            begun.add((row, column))
            table[product, i] = row, column, STORE if begins else sign
    return table
