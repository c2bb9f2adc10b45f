"""Exact products of bytes, four to a word, for the sums of a group: one class per way that CPUs have.

    AVX512-VNNI          vpdpbusd: B without a sign, A with one; four products added to a word
    AVX2, AVX512-BW      B of 0 to 15: vpmaddubsw; a group's 16 products in a lane stay below 2^15 and are added there
    AVX2                 B of 8 bits: vpmaddubsw of |B| and A with B's sign; below 2^15 as well, since |A| <= 127
    x86-64               B of 8 bits: pmaddwd of the even bytes, then of the odd ones, widened to 16 bits
    others               a byte at a time

Sums of a group are below 2^20, so none of these rounds or overflows: results do not depend on the way.
"""

from __future__ import annotations

import functools
from typing import Any, Protocol

import llvmlite.binding as llvm
from llvmlite import ir
from numba.core import cgutils

from fastsedd_kernels.runtime.cpu import byte_lanes, has_vnni, isa
from fastsedd_kernels.simd import emit

BYTES_PER_WORD = 4

# Added to a signed byte of B when it is stored: vpdpbusd takes bytes without a sign.
ZERO_POINT = 128 if has_vnni() else 0


class Products(Protocol):
    """begin, finish : a group's sums from int32 words, and back to such
    prepare_a, prepare_b : an operand, once for all products with it; add : sums + a * b"""

    def begin(self, builder: ir.IRBuilder, start: Any) -> Any: ...

    def prepare_a(self, builder: ir.IRBuilder, a: Any) -> Any: ...

    def prepare_b(self, builder: ir.IRBuilder, b: Any) -> Any: ...

    def add(self, builder: ir.IRBuilder, a: Any, b: Any, sums: Any) -> Any: ...

    def finish(self, builder: ir.IRBuilder, sums: Any, start: Any) -> Any: ...


def words() -> ir.VectorType:
    """A register of int32."""
    return ir.VectorType(ir.IntType(32), isa().lanes)


def _narrow(bits: int) -> ir.VectorType:
    return ir.VectorType(ir.IntType(bits), isa().lanes * 32 // bits)


def _call(builder: ir.IRBuilder, name: str, result: ir.VectorType, *arguments: Any) -> Any:
    signature = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, f"llvm.x86.{name}"), arguments)


def _splat(vector: ir.VectorType, value: int) -> ir.Constant:
    return ir.Constant(vector, [value] * vector.count)


class _Words:
    """Sums in int32 that begin from `start`, of operands that need no preparation."""

    def begin(self, builder: ir.IRBuilder, start: Any) -> Any:
        return start

    def prepare_a(self, builder: ir.IRBuilder, a: Any) -> Any:
        return a

    def prepare_b(self, builder: ir.IRBuilder, b: Any) -> Any:
        return b

    def finish(self, builder: ir.IRBuilder, sums: Any, start: Any) -> Any:
        return sums


class _DotProduct(_Words):
    def add(self, builder: ir.IRBuilder, a: Any, b: Any, sums: Any) -> Any:
        return _call(builder, "avx512.vpdpbusd.512", words(), sums, b, a)


class _SmallPairs(_Words):
    """Sums in int16 until the group ends."""

    def begin(self, builder: ir.IRBuilder, start: Any) -> Any:
        return emit.zeros(_narrow(16))

    def prepare_a(self, builder: ir.IRBuilder, a: Any) -> Any:
        return builder.bitcast(a, _narrow(8))

    def prepare_b(self, builder: ir.IRBuilder, b: Any) -> Any:
        return self.prepare_a(builder, b)

    def add(self, builder: ir.IRBuilder, a: Any, b: Any, sums: Any) -> Any:
        return builder.add(sums, _pairs_of_bytes(builder, b, a))

    def finish(self, builder: ir.IRBuilder, sums: Any, start: Any) -> Any:
        return builder.add(start, _pairs_of_shorts(builder, sums, _splat(_narrow(16), 1)))


class _SignedPairs(_Words):
    def prepare_a(self, builder: ir.IRBuilder, a: Any) -> Any:
        return builder.bitcast(a, _narrow(8))

    def prepare_b(self, builder: ir.IRBuilder, b: Any) -> Any:
        signed = builder.bitcast(b, _narrow(8))
        negative = builder.sub(emit.zeros(signed.type), signed)
        return builder.select(builder.icmp_signed("<", signed, emit.zeros(signed.type)), negative, signed), signed

    def add(self, builder: ir.IRBuilder, a: Any, b: Any, sums: Any) -> Any:
        magnitude, signed = b
        pairs = _pairs_of_bytes(builder, magnitude, _call(builder, "avx2.psign.b", a.type, a, signed))
        return builder.add(sums, _pairs_of_shorts(builder, pairs, _splat(_narrow(16), 1)))


class _Shorts(_Words):
    def prepare_a(self, builder: ir.IRBuilder, a: Any) -> Any:
        shorts, byte = builder.bitcast(a, _narrow(16)), _splat(_narrow(16), 8)
        return builder.ashr(builder.shl(shorts, byte), byte), builder.ashr(shorts, byte)

    def prepare_b(self, builder: ir.IRBuilder, b: Any) -> Any:
        return self.prepare_a(builder, b)

    def add(self, builder: ir.IRBuilder, a: Any, b: Any, sums: Any) -> Any:
        for x, y in zip(a, b, strict=True):
            sums = builder.add(sums, _pairs_of_shorts(builder, x, y))
        return sums


class _Single(_Words):
    def prepare_a(self, builder: ir.IRBuilder, a: Any) -> Any:
        top = _splat(words(), 24)
        ups = (builder.shl(a, _splat(words(), 24 - 8 * byte)) for byte in range(BYTES_PER_WORD))
        return [builder.ashr(up, top) for up in ups]

    def prepare_b(self, builder: ir.IRBuilder, b: Any) -> Any:
        return self.prepare_a(builder, b)

    def add(self, builder: ir.IRBuilder, a: Any, b: Any, sums: Any) -> Any:
        for x, y in zip(a, b, strict=True):
            sums = builder.add(sums, builder.mul(x, y))
        return sums


def _pairs_of_bytes(builder: ir.IRBuilder, unsigned: Any, signed: Any) -> Any:
    name = {32: "avx2.pmadd.ub.sw", 64: "avx512.pmaddubs.w.512"}[unsigned.type.count]
    return _call(builder, name, _narrow(16), unsigned, signed)


def _pairs_of_shorts(builder: ir.IRBuilder, x: Any, y: Any) -> Any:
    name = {8: "sse2.pmadd.wd", 16: "avx2.pmadd.wd", 32: "avx512.pmaddw.d.512"}[x.type.count]
    return _call(builder, name, words(), x, y)


@functools.cache
def products_of(bits: int) -> Products:
    """The products of this process's target with B of 4 bits, 0 to 15, or of 8, stored with ZERO_POINT added."""
    if has_vnni():
        return _DotProduct()
    lanes = isa().lanes * BYTES_PER_WORD
    if not llvm.get_process_triple().startswith("x86_64") or lanes > byte_lanes():
        return _Single()
    if bits == 4 and lanes > 16:
        return _SmallPairs()
    return _SignedPairs() if lanes == 32 else _Shorts()
