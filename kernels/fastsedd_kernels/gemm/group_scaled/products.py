"""Exact products of bytes, four to a word, for the sums of a group: one class per way that CPUs have.

    AVX512-VNNI, AVX-VNNI  vpdpbusd: B without a sign, A with one; four products added to a word
    AVX2, AVX512-BW      B of 0 to 15: vpmaddubsw; a group's 16 products in a lane stay below 2^15 and are added there
    AVX2                 B of 8 bits: vpmaddubsw of |B| and A with B's sign; below 2^15 as well, since |A| <= 127
    ARM's dot products   sdot
    x86-64               B of 8 bits: pmaddwd of the even bytes, then of the odd ones, widened to 16 bits
    others               a byte at a time

Sums of a group are below 2^20, so none of these rounds or overflows: results do not depend on the way.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol

from llvmlite import ir

from fastsedd_kernels.runtime.cpu import Unit, isa, vector_unit
from fastsedd_kernels.runtime.machines import AVX2
from fastsedd_kernels.simd import arm_dots, emit
from fastsedd_kernels.simd.byte_pairs import (
    add_products_of_bytes,
    call,
    in_order,
    integers,
    pairs_of_bytes,
    pairs_of_shorts,
    sums_of_pairs,
    widened_bytes,
)

BYTES_PER_WORD = 4

# Added to a signed byte of B when it is stored: vpdpbusd takes bytes without a sign.
ZERO_POINT = 128 if vector_unit("int8") in (Unit.AVX512, Unit.AVX_VNNI) else 0


class Products(Protocol):
    """begin, finish : a group's sums from int32 words, and back to such; start() loads these where they are used: any
        earlier they would take registers from the sums
    prepare_a, prepare_b : an operand, once for all products with it; add : sums + a * b"""

    def begin(self, builder: ir.IRBuilder, start: Callable[[], Any]) -> Any: ...

    def prepare_a(self, builder: ir.IRBuilder, a: Any) -> Any: ...

    def prepare_b(self, builder: ir.IRBuilder, b: Any) -> Any: ...

    def add(self, builder: ir.IRBuilder, a: Any, b: Any, sums: Any) -> Any: ...

    def finish(self, builder: ir.IRBuilder, sums: Any, start: Callable[[], Any]) -> Any: ...


def words() -> ir.VectorType:
    """A register of int32."""
    return ir.VectorType(ir.IntType(32), isa().lanes)


class _Words:
    """Sums in int32 that begin from `start`, of operands that need no preparation."""

    def begin(self, builder: ir.IRBuilder, start: Callable[[], Any]) -> Any:
        return start()

    def prepare_a(self, builder: ir.IRBuilder, a: Any) -> Any:
        return a

    def prepare_b(self, builder: ir.IRBuilder, b: Any) -> Any:
        return b

    def finish(self, builder: ir.IRBuilder, sums: Any, start: Callable[[], Any]) -> Any:
        return sums


class _DotProduct(_Words):
    def add(self, builder: ir.IRBuilder, a: Any, b: Any, sums: Any) -> Any:
        return call(builder, f"avx512.vpdpbusd.{32 * sums.type.count}", sums.type, sums, b, a)


class _ArmDotProduct(_Words):
    def add(self, builder: ir.IRBuilder, a: Any, b: Any, sums: Any) -> Any:
        return arm_dots.add_products_of_bytes(builder, a, b, sums)


class _SmallPairs(_Words):
    """Sums in int16 until the group ends, in order: LLVM, left to choose, keeps more products than there are registers
    for."""

    def begin(self, builder: ir.IRBuilder, start: Callable[[], Any]) -> Any:
        return emit.zeros(integers(16, isa().lanes))

    def prepare_a(self, builder: ir.IRBuilder, a: Any) -> Any:
        return builder.bitcast(a, integers(8, a.type.count))

    def prepare_b(self, builder: ir.IRBuilder, b: Any) -> Any:
        return self.prepare_a(builder, b)

    def add(self, builder: ir.IRBuilder, a: Any, b: Any, sums: Any) -> Any:
        return in_order(builder, builder.add(sums, in_order(builder, pairs_of_bytes(builder, b, a))))

    def finish(self, builder: ir.IRBuilder, sums: Any, start: Callable[[], Any]) -> Any:
        return builder.add(start(), sums_of_pairs(builder, sums))


class _SignedPairs(_Words):
    def prepare_a(self, builder: ir.IRBuilder, a: Any) -> Any:
        return builder.bitcast(a, integers(8, a.type.count))

    def prepare_b(self, builder: ir.IRBuilder, b: Any) -> Any:
        signed = builder.bitcast(b, integers(8, b.type.count))
        negative = builder.sub(emit.zeros(signed.type), signed)
        return builder.select(builder.icmp_signed("<", signed, emit.zeros(signed.type)), negative, signed), signed

    def add(self, builder: ir.IRBuilder, a: Any, b: Any, sums: Any) -> Any:
        magnitude, signed = b
        return add_products_of_bytes(builder, magnitude, call(builder, "avx2.psign.b", a.type, a, signed), sums)


class _Shorts(_Words):
    def prepare_a(self, builder: ir.IRBuilder, a: Any) -> Any:
        return widened_bytes(builder, a)

    def prepare_b(self, builder: ir.IRBuilder, b: Any) -> Any:
        return self.prepare_a(builder, b)

    def add(self, builder: ir.IRBuilder, a: Any, b: Any, sums: Any) -> Any:
        for x, y in zip(a, b, strict=True):
            sums = builder.add(sums, pairs_of_shorts(builder, x, y))
        return sums


class _Single(_Words):
    def prepare_a(self, builder: ir.IRBuilder, a: Any) -> Any:
        shifts = [ir.Constant(a.type, [8 * byte] * a.type.count) for byte in range(BYTES_PER_WORD)]
        return [builder.ashr(builder.shl(a, shift), shifts[-1]) for shift in reversed(shifts)]

    def prepare_b(self, builder: ir.IRBuilder, b: Any) -> Any:
        return self.prepare_a(builder, b)

    def add(self, builder: ir.IRBuilder, a: Any, b: Any, sums: Any) -> Any:
        for x, y in zip(a, b, strict=True):
            sums = builder.add(sums, builder.mul(x, y))
        return sums


@functools.cache
def products_of(bits: int) -> Products:
    """The products of this process's target with B of 4 bits, 0 to 15, or of 8, stored with ZERO_POINT added."""
    if ZERO_POINT:
        return _DotProduct()
    unit = vector_unit("int8")
    if unit is Unit.SDOT:
        return _ArmDotProduct()
    if unit is Unit.BYTE_PAIRS and (bits == 4 or isa() is AVX2):
        return _SmallPairs() if bits == 4 else _SignedPairs()
    return _Shorts() if unit in (Unit.BYTE_PAIRS, Unit.SHORT_PAIRS) else _Single()
