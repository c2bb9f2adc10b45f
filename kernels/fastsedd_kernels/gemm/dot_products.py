"""Dot products of the micro-kernel: the vectors it loads, those it sums in, and one multiply-accumulate between them.

A matrix's element type, as Numba sees it, tells which:

    float32, float64   themselves
    uint32             two bfloat16, neighbours in k, the first in the low half; products and sums in float32
    int32              four 8-bit integers, neighbours in k, of A plus ZERO_POINT and of B with a sign; sums in int32

Numba and NumPy have no bfloat16, and a CPU's dot products take such words anyway. Sums of integers are exact: where
two products are added in 16 bits (BYTE_PAIRS), B's steps are such that they fit (`packed_weight`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import float32, float64, int32, uint32

from fastsedd_kernels.runtime import scalar
from fastsedd_kernels.runtime.cpu import Unit, dot_unit, isa
from fastsedd_kernels.runtime.machines import AMX_TILE, AVX2, AVX512, NEON, Shape
from fastsedd_kernels.simd import arm_dots, byte_pairs, emit

UNROLL = isa().unroll
SUMS = {float32: float32, float64: float64, uint32: float32, int32: int32}
NUMPY = {np.dtype(element.name): element for element in SUMS}


class Arithmetic:
    """operand : a vector of B; total : the one that a register of C is summed in; of_a : elements of A per one of B
    parts : of an element of B, which are multiplied one after the other
    by_lanes : products take a factor from a lane of a register, which is then loaded at once"""

    of_a = 1
    parts = 1
    by_lanes = False

    def __init__(self, operand: ir.VectorType, total: ir.VectorType) -> None:
        self.operand, self.total = operand, total

    def load_a(self, builder: ir.IRBuilder, address: Any, part: int) -> Any:
        """An element of A, or that part of one, in every lane, as all products with it need it."""
        return self.prepare(builder, emit.broadcast(builder, builder.load(address), self.operand))

    def load_b(self, builder: ir.IRBuilder, address: Any, part: int) -> Any:
        """A vector of B, or that part of its elements, as all products with it need it."""
        return self.prepare(builder, emit.load(builder, address, self.operand))

    def prepare(self, builder: ir.IRBuilder, operand: Any) -> Any:
        return operand

    def add(self, builder: ir.IRBuilder, a: Any, b: Any, total: Any) -> Any:
        """total + a * b."""
        raise NotImplementedError


class _Fused(Arithmetic):
    def __init__(self, operand: ir.VectorType, total: ir.VectorType) -> None:
        super().__init__(operand, total)
        self.by_lanes = isa() is NEON

    def add(self, builder: ir.IRBuilder, a: Any, b: Any, total: Any) -> Any:
        return emit.multiply_add(builder, a, b, total, self.total)


def _words() -> ir.VectorType:
    """A register of 32-bit words."""
    return ir.VectorType(ir.IntType(32), isa().lanes)


def _floats(element: Any) -> ir.VectorType:
    return emit.vector_type(element, emit.lanes_of(element))


class _DotProduct(Arithmetic):
    """One instruction for all the elements of two words."""

    def __init__(self, instruction: str, total: ir.VectorType) -> None:
        super().__init__(_words(), total)
        self._instruction = instruction

    def add(self, builder: ir.IRBuilder, a: Any, b: Any, total: Any) -> Any:
        return byte_pairs.call(builder, self._instruction, self.total, total, a, b)


class _ArmBytes(Arithmetic):
    """One instruction as well, one of whose factors is a lane of a register."""

    by_lanes = True

    def add(self, builder: ir.IRBuilder, a: Any, b: Any, total: Any) -> Any:
        return arm_dots.add_products_of_bytes(builder, a, b, total)


class _ArmBFloat16(_ArmBytes):
    def add(self, builder: ir.IRBuilder, a: Any, b: Any, total: Any) -> Any:
        return arm_dots.add_products_of_bfloat16(builder, a, b, total)


class _BytePairs(Arithmetic):
    """pmaddubsw adds the products of two neighbours in 16 bits, pmaddwd two such sums."""

    def prepare(self, builder: ir.IRBuilder, operand: Any) -> Any:
        return builder.bitcast(operand, byte_pairs.integers(8, operand.type.count))

    def add(self, builder: ir.IRBuilder, a: Any, b: Any, total: Any) -> Any:
        return byte_pairs.add_products_of_bytes(builder, a, b, total)


class _ShortPairs(Arithmetic):
    """Bytes with signs, the even ones of each word and the odd ones apart, in 16 bits each."""

    def prepare(self, builder: ir.IRBuilder, operand: Any) -> Any:
        return byte_pairs.widened_bytes(builder, operand)

    def add(self, builder: ir.IRBuilder, a: Any, b: Any, total: Any) -> Any:
        for x, y in zip(a, b, strict=True):
            total = builder.add(total, byte_pairs.pairs_of_shorts(builder, x, y))
        return total


class _WidenedPairs(Arithmetic):
    """bfloat16 is the upper half of a float32: half of B's memory, float32 arithmetic. A is rounded to it before."""

    of_a = 2

    def load_a(self, builder: ir.IRBuilder, address: Any, part: int) -> Any:
        first = builder.bitcast(address, ir.FloatType().as_pointer())
        places = (builder.gep(first, [ir.Constant(ir.IntType(64), i)]) for i in range(self.of_a))
        return [emit.broadcast(builder, builder.load(place), self.total) for place in places]

    def prepare(self, builder: ir.IRBuilder, operand: Any) -> Any:
        half, upper = (ir.Constant(self.operand, [bits] * self.operand.count) for bits in (16, 0xFFFF0000))
        pair = builder.shl(operand, half), builder.and_(operand, upper)
        return [builder.bitcast(element, self.total) for element in pair]

    def add(self, builder: ir.IRBuilder, a: Any, b: Any, total: Any) -> Any:
        for x, y in zip(a, b, strict=True):
            total = emit.multiply_add(builder, x, y, total, self.total)
        return total


class _MaskedPairs(Arithmetic):
    """The same with AVX2 and AVX-512, one of a pair after the other: what is read, at any address, is masked at once,
    and two bytes before a word its lower half is an upper one. That takes no shift, and no register for what is loaded.
    Two bytes before B are read (`PackedWeight.__post_init__`)."""

    of_a = parts = 2

    def load_a(self, builder: ir.IRBuilder, address: Any, part: int) -> Any:
        first = builder.bitcast(address, ir.FloatType().as_pointer())
        return emit.broadcast(builder, builder.load(builder.gep(first, [scalar.index(part)])), self.total)

    def load_b(self, builder: ir.IRBuilder, address: Any, part: int) -> Any:
        halves = builder.bitcast(address, ir.IntType(16).as_pointer())
        start = builder.gep(halves, [scalar.index(part - 1)])
        loaded = builder.load(builder.bitcast(start, self.operand.as_pointer()))
        loaded.align = 2
        upper = ir.Constant(self.operand, [0xFFFF0000] * self.operand.count)
        return builder.bitcast(builder.and_(loaded, upper), self.total)

    def add(self, builder: ir.IRBuilder, a: Any, b: Any, total: Any) -> Any:
        return emit.multiply_add(builder, a, b, total, self.total)


class _WidenedQuads(Arithmetic):
    """Integers are exact however they are multiplied: one at a time, where the CPU has no instruction for four."""

    def prepare(self, builder: ir.IRBuilder, operand: Any) -> Any:
        return operand

    def add(self, builder: ir.IRBuilder, a: Any, b: Any, total: Any) -> Any:
        top = ir.Constant(self.operand, [24] * self.operand.count)
        for byte in range(4):
            up = ir.Constant(self.operand, [24 - 8 * byte] * self.operand.count)
            x, y = (builder.ashr(builder.shl(operand, up), top) for operand in (a, b))
            total = builder.add(total, builder.mul(x, y))
        return total


def unit_of(element: Any) -> Unit | None:
    """The unit that multiplies words of that kind on this CPU; None for floats, which are not words."""
    dtype = {uint32: "bfloat16", int32: "int8"}.get(element)
    return None if dtype is None else dot_unit(dtype)


def of_a(element: Any) -> int:
    """Elements of A per one of B, of that kind."""
    return 1 if unit_of(element) is Unit.AMX else arithmetic_of(element).of_a


# Of int8: what stands for 0 among A's bytes, which some units take without a sign; whether sums of two products must
# fit 16 bits.
ZERO_POINT = 0 if unit_of(int32) in (Unit.SHORT_PAIRS, Unit.SDOT, Unit.WIDENED) else 128
SUMS_OF_PAIRS_FIT = unit_of(int32) is Unit.BYTE_PAIRS


def arithmetic_of(element: Any) -> Arithmetic:
    """The micro-kernel's arithmetic for matrices of that element on this CPU. Not for AMX, which has its own."""
    if element == uint32:
        if unit_of(element) is Unit.AVX512:
            return _DotProduct("avx512bf16.dpbf16ps.512", _floats(float32))
        if unit_of(element) is Unit.BFDOT:
            return _ArmBFloat16(_words(), _floats(float32))
        masked = isa() in (AVX2, AVX512)
        return (_MaskedPairs if masked else _WidenedPairs)(_words(), _floats(float32))
    if element == int32:
        return _of_bytes(unit_of(element))
    return _Fused(_floats(element), _floats(element))


def _of_bytes(unit: Unit | None) -> Arithmetic:
    if unit in (Unit.AVX512, Unit.AVX_VNNI):
        return _DotProduct(f"avx512.vpdpbusd.{32 * isa().lanes}", _words())  # in either encoding
    if unit is Unit.SDOT:
        return _ArmBytes(_words(), _words())
    if unit is Unit.BYTE_PAIRS:
        return _BytePairs(_words(), _words())
    return _ShortPairs(_words(), _words()) if unit is Unit.SHORT_PAIRS else _WidenedQuads(_words(), _words())


def _shape_of(element: Any) -> Shape:
    """The register tile that panels of that element are packed for."""
    unit, machine = unit_of(element), isa()
    if unit is Unit.AMX:
        return AMX_TILE
    if unit is Unit.WIDENED and element == uint32:
        return machine.pairs_tile
    if unit is Unit.BYTE_PAIRS:
        return machine.narrow_tile
    return machine.widened_tile if unit in (Unit.SHORT_PAIRS, Unit.WIDENED) else machine.tile


def _widest_of(element: Any) -> Shape:
    """The widest tile: `wide_tile` where it has the panel's element and unit."""
    wide = element in (float32, uint32) and unit_of(element) in (None, Unit.AVX512, Unit.BFDOT)
    return isa().wide_tile if wide else _shape_of(element)


SHAPES = {element: _shape_of(element) for element in SUMS}
WIDEST = {element: _widest_of(element) for element in SUMS}

# Columns of a panel, by the NumPy dtype of what it holds.
COLUMNS = {dtype: SHAPES[element].vectors * (isa().lanes * 32 // element.bitwidth) for dtype, element in NUMPY.items()}
