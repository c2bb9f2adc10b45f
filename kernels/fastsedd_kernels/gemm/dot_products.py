"""Dot products of the micro-kernel: the vectors it loads, those it sums in, and one multiply-accumulate between them.

A matrix's element type, as Numba sees it, tells which:

    float32, float64   themselves
    uint32             two bfloat16, neighbours in k, the first in the low half; products and sums in float32
    int32              four 8-bit integers, neighbours in k, of A without a sign and of B with one; sums in int32, exact

Numba and NumPy have no bfloat16, and a CPU's dot products take such words anyway.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from llvmlite import ir
from numba import float32, float64, int32, uint32
from numba.core import cgutils

from fastsedd_kernels.runtime.cpu import Unit, dot_unit, isa
from fastsedd_kernels.runtime.machines import AMX_TILE, Shape
from fastsedd_kernels.simd import emit

UNROLL = isa().unroll
SUMS = {float32: float32, float64: float64, uint32: float32, int32: int32}
NUMPY = {np.dtype(element.name): element for element in SUMS}


class Arithmetic(Protocol):
    """operand : the vector loaded of A (broadcast) and of B; total : the vector that a register of C is summed in"""

    operand: ir.VectorType
    total: ir.VectorType

    def prepare(self, builder: ir.IRBuilder, operand: Any) -> Any:
        """An operand as all products with it need it, made once."""

    def add(self, builder: ir.IRBuilder, a: Any, b: Any, total: Any) -> Any:
        """total + a * b of two prepared operands."""


class _Fused:
    def __init__(self, element: Any) -> None:
        self.operand = self.total = emit.vector_type(element, emit.lanes_of(element))

    def prepare(self, builder: ir.IRBuilder, operand: Any) -> Any:
        return operand

    def add(self, builder: ir.IRBuilder, a: Any, b: Any, total: Any) -> Any:
        return emit.multiply_add(builder, a, b, total, self.total)


def _words() -> ir.VectorType:
    """A register of 32-bit words."""
    return ir.VectorType(ir.IntType(32), isa().lanes)


class _DotProduct:
    """One instruction of AVX-512 for all the elements of two words."""

    def __init__(self, instruction: str, total: ir.VectorType) -> None:
        self.operand, self.total = _words(), total
        self._instruction = instruction

    def prepare(self, builder: ir.IRBuilder, operand: Any) -> Any:
        return operand

    def add(self, builder: ir.IRBuilder, a: Any, b: Any, total: Any) -> Any:
        signature = ir.FunctionType(self.total, [self.total, self.operand, self.operand])
        function = cgutils.get_or_insert_function(builder.module, signature, self._instruction)
        return builder.call(function, [total, a, b])


class _WidenedPairs:
    """bfloat16 is the upper half of a float32: half the memory traffic, with float32 arithmetic."""

    def __init__(self) -> None:
        self.operand, self.total = _words(), emit.vector_type(float32, isa().lanes)

    def prepare(self, builder: ir.IRBuilder, operand: Any) -> Any:
        half, upper = (ir.Constant(self.operand, [bits] * self.operand.count) for bits in (16, 0xFFFF0000))
        pair = builder.shl(operand, half), builder.and_(operand, upper)
        return [builder.bitcast(element, self.total) for element in pair]

    def add(self, builder: ir.IRBuilder, a: Any, b: Any, total: Any) -> Any:
        for x, y in zip(a, b, strict=True):
            total = emit.multiply_add(builder, x, y, total, self.total)
        return total


class _WidenedQuads:
    """Integers are exact however they are multiplied: one at a time, where the CPU has no instruction for four."""

    def __init__(self) -> None:
        self.operand = self.total = _words()

    def prepare(self, builder: ir.IRBuilder, operand: Any) -> Any:
        return operand

    def add(self, builder: ir.IRBuilder, a: Any, b: Any, total: Any) -> Any:
        def shifted(bits: int) -> ir.Constant:
            return ir.Constant(self.operand, [bits] * self.operand.count)

        for byte in range(4):
            up = shifted(24 - 8 * byte)
            unsigned, signed = (
                builder.lshr(builder.shl(a, up), shifted(24)),
                builder.ashr(builder.shl(b, up), shifted(24)),
            )
            total = builder.add(total, builder.mul(unsigned, signed))
        return total


def unit_of(element: Any) -> Unit | None:
    """The unit that multiplies words of that kind on this CPU; None for floats, which are not words."""
    dtype = {uint32: "bfloat16", int32: "int8"}.get(element)
    return None if dtype is None else dot_unit(dtype)


def arithmetic_of(element: Any) -> Arithmetic:
    """The micro-kernel's arithmetic for matrices of that element on this CPU. Not for AMX, which has its own."""
    if element == uint32:
        if unit_of(element) is Unit.AVX512:
            return _DotProduct("llvm.x86.avx512bf16.dpbf16ps.512", emit.vector_type(float32, 16))
        return _WidenedPairs()
    if element == int32:
        if unit_of(element) is Unit.AVX512:
            return _DotProduct("llvm.x86.avx512.vpdpbusd.512", _words())
        return _WidenedQuads()
    return _Fused(element)


def _shape_of(element: Any) -> Shape:
    """The register tile that panels of that element are packed for."""
    unit = unit_of(element)
    if unit is Unit.AMX:
        return AMX_TILE
    return isa().widened_tile if unit is Unit.WIDENED else isa().tile


def _widest_of(element: Any) -> Shape:
    """The widest tile: `wide_tile` where it has the panel's element and unit."""
    wide = element in (float32, uint32) and unit_of(element) in (None, Unit.AVX512)
    return isa().wide_tile if wide else _shape_of(element)


SHAPES = {element: _shape_of(element) for element in SUMS}
WIDEST = {element: _widest_of(element) for element in SUMS}

# Columns of a panel, by the NumPy dtype of what it holds.
COLUMNS = {dtype: SHAPES[element].vectors * (isa().lanes * 32 // element.bitwidth) for dtype, element in NUMPY.items()}
