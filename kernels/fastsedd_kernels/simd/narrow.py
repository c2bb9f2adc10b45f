"""Float32 registers to and from narrow numbers: bfloat16, two to a word, and bytes, four to a word."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastsedd_kernels.runtime.cpu import isa, rounds_to_bfloat16, widens_float16
from fastsedd_kernels.runtime.machines import NEON
from fastsedd_kernels.simd.emit import BFloat16, integers_like, store
from fastsedd_kernels.simd.vector import POINTER, VECTOR, vector_function


@vector_function(types.void, (VECTOR, types.CPointer(types.uint32)))
def store_bfloat16(builder: Any, register: Any, value: Any, target: Any) -> None:
    """Write a float32 register as bfloat16, two to a word: half a register."""
    halves = _bfloat16(builder, register, value)
    builder.store(halves, builder.bitcast(target, halves.type.as_pointer())).align = 4


@vector_function(VECTOR, (VECTOR,))
def round_to_bfloat16(builder: Any, register: Any, value: Any) -> Any:
    """The bfloat16 nearest to each lane, as float32."""
    integers = integers_like(register)
    upper = builder.zext(_bfloat16(builder, register, value), integers)
    return builder.bitcast(builder.shl(upper, ir.Constant(integers, [16] * integers.count)), register)


@vector_function(types.void, (VECTOR, VECTOR, types.CPointer(types.uint32)))
def store_pairs(builder: Any, register: Any, first: Any, second: Any, target: Any) -> None:
    """Write two float32 registers as one of words: in each, the bfloat16 of the one and of the other, above it."""
    integers = integers_like(register)
    low, high = (builder.zext(_bfloat16(builder, register, value), integers) for value in (first, second))
    words = builder.or_(low, builder.shl(high, ir.Constant(integers, [16] * integers.count)))
    store(builder, words, target, integers)


def _bfloat16(builder: Any, register: ir.VectorType, value: Any) -> Any:
    """Each lane as bfloat16, rounded to nearest even, in an integer of 16 bits; a NaN stays one.

    AVX512-BF16's instruction for it takes what is subnormal for 0; so do the products of that, and of ARM's BF16.
    """
    narrow = ir.VectorType(ir.IntType(16), register.count)
    if not rounds_to_bfloat16():
        return builder.trunc(_rounded_bits(builder, register, value), narrow)
    if isa() is NEON:
        return builder.bitcast(builder.fptrunc(value, ir.VectorType(BFloat16(), register.count)), narrow)
    signature = ir.FunctionType(ir.VectorType(BFloat16(), register.count), [register])
    name = f"llvm.x86.avx512bf16.cvtneps2bf16.{32 * register.count}"
    return builder.bitcast(
        builder.call(cgutils.get_or_insert_function(builder.module, signature, name), [value]), narrow
    )


def _rounded_bits(builder: Any, register: ir.VectorType, value: Any) -> Any:
    """`_bfloat16` in integers of 32 bits, by their arithmetic."""
    integers = integers_like(register)

    def constant(bits: int) -> ir.Constant:
        return ir.Constant(integers, [bits] * integers.count)

    bits = builder.bitcast(value, integers)
    upper = builder.lshr(bits, constant(16))
    odd = builder.and_(upper, constant(1))
    rounded = builder.lshr(builder.add(bits, builder.add(odd, constant(0x7FFF))), constant(16))
    quiet = builder.or_(upper, constant(0x40))  # a NaN that rounding would make infinite
    return builder.select(builder.fcmp_unordered("uno", value, value), quiet, rounded)


@vector_function(types.void, (VECTOR, types.CPointer(types.int32)))
def store_bytes(builder: Any, register: Any, value: Any, target: Any) -> None:
    """Write the low byte of each lane's bits, four to a word: a quarter of a register."""
    narrow = ir.VectorType(ir.IntType(8), register.count)
    low = builder.trunc(builder.bitcast(value, integers_like(register)), narrow)
    builder.store(low, builder.bitcast(target, narrow.as_pointer())).align = 4


@vector_function(VECTOR, (VECTOR,))
def as_integers(builder: Any, register: Any, x: Any) -> Any:
    """The int32 values whose bits are in a float32 register, as float32."""
    return builder.sitofp(builder.bitcast(x, integers_like(register)), register)


@intrinsic  # type: ignore[untyped-decorator]
def as_float32(typing_context: Any, pointer: Any) -> Any:
    """The same address as a pointer to float32."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.bitcast(values[0], ir.FloatType().as_pointer())

    return types.CPointer(types.float32)(pointer), codegen


@vector_function(VECTOR, (POINTER,))
def load_halves(builder: Any, register: Any, source: Any) -> Any:
    """The finite float16 values that lie at a float32 pointer, as float32."""
    return widened_halves(builder, register, source)


def widened_halves(builder: Any, register: ir.VectorType, source: Any) -> Any:
    """The finite float16 values at an address, as a register of float32.

    Where the target has no instruction for it, by arithmetic, since the library function is not everywhere: the bits in
    float32's places are the value times 2^-112, also of what is subnormal.
    """
    narrow = ir.VectorType(ir.IntType(16), register.count)
    loaded = builder.load(builder.bitcast(source, narrow.as_pointer()))
    loaded.align = 2
    if widens_float16():
        return builder.fpext(builder.bitcast(loaded, ir.VectorType(ir.HalfType(), register.count)), register)
    integers = integers_like(register)

    def constant(bits: int) -> ir.Constant:
        return ir.Constant(integers, [bits] * integers.count)

    moved = builder.and_(builder.shl(builder.sext(loaded, integers), constant(13)), constant(0x8FFFFFFF))
    return builder.fmul(builder.bitcast(moved, register), ir.Constant(register, [2.0**112] * register.count))


@vector_function(VECTOR, (POINTER,))
def load_unsigned_bytes(builder: Any, register: Any, source: Any) -> Any:
    """The bytes without a sign that lie at a float32 pointer, as float32."""
    narrow = ir.VectorType(ir.IntType(8), register.count)
    loaded = builder.load(builder.bitcast(source, narrow.as_pointer()))
    loaded.align = 1
    return builder.uitofp(builder.zext(loaded, integers_like(register)), register)
