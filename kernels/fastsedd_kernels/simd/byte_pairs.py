"""x86's products of bytes and of shorts, which add up two neighbours, in registers of 128, 256 or 512 bits."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils

_OF_BYTES = {16: "ssse3.pmadd.ub.sw.128", 32: "avx2.pmadd.ub.sw", 64: "avx512.pmaddubs.w.512"}
_OF_SHORTS = {8: "sse2.pmadd.wd", 16: "avx2.pmadd.wd", 32: "avx512.pmaddw.d.512"}


def call(builder: ir.IRBuilder, instruction: str, result: ir.VectorType, *operands: Any) -> Any:
    """The result of an instruction of x86, by its name in LLVM after `llvm.x86.`."""
    signature = ir.FunctionType(result, [operand.type for operand in operands])
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, f"llvm.x86.{instruction}"), operands)


def integers(bits: int, words: int) -> ir.VectorType:
    """A register of that many words of 32 bits, as integers of so many bits."""
    return ir.VectorType(ir.IntType(bits), words * 32 // bits)


def pairs_of_bytes(builder: ir.IRBuilder, unsigned: Any, signed: Any) -> Any:
    """Sums of two products in 16 bits, saturated: the caller's numbers must fit."""
    count = unsigned.type.count
    return call(builder, _OF_BYTES[count], integers(16, count // 4), unsigned, signed)


def pairs_of_shorts(builder: ir.IRBuilder, x: Any, y: Any) -> Any:
    """Sums of two products in 32 bits."""
    return call(builder, _OF_SHORTS[x.type.count], integers(32, x.type.count // 2), x, y)


def sums_of_pairs(builder: ir.IRBuilder, shorts: Any) -> Any:
    """Sums of two neighbours in 32 bits."""
    return pairs_of_shorts(builder, shorts, ir.Constant(shorts.type, [1] * shorts.type.count))


def add_products_of_bytes(builder: ir.IRBuilder, unsigned: Any, signed: Any, total: Any) -> Any:
    """total + products of bytes, four to a word; sums of two must fit 16 bits.

    In this order: LLVM, left to choose, would keep more unfinished sums than there are registers for.
    """
    pairs = in_order(builder, pairs_of_bytes(builder, unsigned, signed))
    return in_order(builder, builder.add(total, sums_of_pairs(builder, pairs)))


def in_order(builder: ir.IRBuilder, value: Any) -> Any:
    """The same value, made before those after it that are passed through here."""
    return builder.asm(ir.FunctionType(value.type, [value.type]), "", "=v,0", [value], True)


def widened_bytes(builder: ir.IRBuilder, words: Any) -> tuple[Any, Any]:
    """The even ones and the odd ones of bytes with signs, in 16 bits."""
    shorts = builder.bitcast(words, integers(16, words.type.count))
    byte = ir.Constant(shorts.type, [8] * shorts.type.count)
    return builder.ashr(builder.shl(shorts, byte), byte), builder.ashr(shorts, byte)
