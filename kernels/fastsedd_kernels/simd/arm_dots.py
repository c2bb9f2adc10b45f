"""ARM's dot products, of four bytes or of two bfloat16 to a word, in registers of NEON."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils

from fastsedd_kernels.simd.emit import BFloat16

_BYTES = ir.VectorType(ir.IntType(8), 16)
_BFLOAT16 = ir.VectorType(BFloat16(), 8)


def add_products_of_bytes(builder: ir.IRBuilder, a: Any, b: Any, total: Any) -> Any:
    """total + products of bytes with signs, in int32; `a` may be one lane of a register in all lanes."""
    return _call(builder, "sdot.v4i32.v16i8", _BYTES, a, b, total)


def add_products_of_bfloat16(builder: ir.IRBuilder, a: Any, b: Any, total: Any) -> Any:
    """total + products of bfloat16, in float32; what is subnormal counts as 0. LLVM copies a lane of `a` first."""
    return _call(builder, "bfdot.v4f32.v8bf16", _BFLOAT16, a, b, total)


def _call(builder: ir.IRBuilder, instruction: str, operand: ir.VectorType, a: Any, b: Any, total: Any) -> Any:
    signature = ir.FunctionType(total.type, [total.type, operand, operand])
    function = cgutils.get_or_insert_function(builder.module, signature, f"llvm.aarch64.neon.{instruction}")
    return builder.call(function, [total, builder.bitcast(b, operand), builder.bitcast(a, operand)])
