"""The layout of A that each unit multiplies: the one place that knows how AMX differs from vector registers.

    vector registers   rows as they lie, one element after the other                               block side 1
                       (bfloat16 without dot products: float32 of it, each pair of which is multiplied with a word)
    AMX                blocks of 16 rows by 16 words, one after the other along k, then those of the next 16 rows;
                       whole blocks are read, and as many rows of C written                        block side 16

A row's length in words is a multiple of the side, and of whole registers where numbers are rounded.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import int32, types, uint32
from numba.extending import intrinsic, overload

from fastsedd_kernels.gemm.amx import SIDE
from fastsedd_kernels.gemm.dot_products import of_a, unit_of
from fastsedd_kernels.runtime.cpu import Unit
from fastsedd_kernels.runtime.jit import OVERLOAD, jit
from fastsedd_kernels.runtime.scalar import index
from fastsedd_kernels.simd.vector import LANES

_NUMBERS_PER_WORD = {uint32: 2, int32: 4}


def _side(element: Any) -> int:
    return SIDE if unit_of(element) is Unit.AMX else 1


def whole_words(elements: int, element: Any) -> int:
    """Words (or floats) of that kind that a row of `elements` takes in A, and in B's columns."""
    count, whole = _granularity(element)
    return -(-elements // whole) * whole // count


def _granularity(element: Any) -> tuple[int, int]:
    """(numbers per word, numbers that a row is a multiple of)"""
    count = _NUMBERS_PER_WORD.get(element, 1)
    if count == 1:
        return 1, 1
    return count, LANES if _side(element) == 1 else count * SIDE


def words_of(elements: int, b: Any) -> int:
    """`whole_words` in a kernel, of the kind that `b` points to."""
    raise NotImplementedError("for kernels only")


@overload(words_of, **OVERLOAD)  # type: ignore[untyped-decorator]
def _words_of(elements: Any, b: Any) -> Any:
    count, whole = _granularity(b.dtype)
    return lambda elements, b: -(-elements // whole) * whole // count


def elements_per_word(b: Any) -> int:
    """The number of values in an element that `b` points to: a constant."""
    raise NotImplementedError("for kernels only")


@overload(elements_per_word, **OVERLOAD)  # type: ignore[untyped-decorator]
def _elements_per_word(b: Any) -> Any:
    count, _ = _granularity(b.dtype)
    return lambda b: count


@intrinsic  # type: ignore[untyped-decorator]
def block_side(typing_context: Any, b: Any) -> Any:
    """Rows, and words, of a block of A that is multiplied with what `b` points to: a constant, 1 or 16."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return index(_side(b.dtype))

    return types.intp(b), codegen


@intrinsic  # type: ignore[untyped-decorator]
def elements_of_a(typing_context: Any, b: Any) -> Any:
    """Elements of A for one of what `b` points to: a constant, 2 where A's bfloat16 are kept as float32."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return index(of_a(b.dtype))

    return types.intp(b), codegen


@jit
def rows_written(rows: int, b: Any) -> Any:
    """Rows of C that a product of `rows` rows writes: whole blocks."""
    side = block_side(b)
    return -(-rows // side) * side


@jit
def row_stride(depth: int, padding: int, b: Any) -> Any:
    """Elements from row to row of a copy of A; padding : between rows, so that they do not share sets of L1."""
    return depth * elements_of_a(b) + padding if block_side(b) == 1 else depth


@jit
def column_offset(k: int, b: Any) -> Any:
    """Elements from A's first column to that of B's k-th, a multiple of the side."""
    return k * block_side(b) * elements_of_a(b)


@jit
def place_of_word(row: int, word: int, stride: int, blocked: bool, b: Any) -> Any:
    """The place of a word in a copy of rows. blocked : in this layout, as A; else row by row, as B's columns."""
    side = block_side(b) if blocked else 1
    return row // side * side * stride + word // side * side * side + row % side * side + word % side
