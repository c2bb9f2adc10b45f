"""Vector instructions, emitted at code generation: load, store, broadcast, multiply-add, prefetch.

Everything here is generic LLVM, legal on every target: a width that the CPU lacks is split by the code generator, never
refused.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from fastsedd_kernels.runtime.cpu import isa


class BFloat16(ir.Type):  # type: ignore[misc]
    """LLVM's bfloat, which llvmlite has no name for."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BFloat16)

    def __hash__(self) -> int:
        return hash(BFloat16)


ELEMENTS = {types.float32: ir.FloatType(), types.float64: ir.DoubleType()}


def lanes_of(element: Any) -> int:
    """The number of Numba's `element`s that fill a register."""
    return isa().lanes * 32 // int(element.bitwidth)


def vector_type(element: Any, lanes: int) -> ir.VectorType:
    """The LLVM vector of `lanes` Numba `element`s."""
    return ir.VectorType(ELEMENTS[element], lanes)


def zeros(vector: ir.VectorType) -> ir.Constant:
    return ir.Constant(vector, [0 if isinstance(vector.element, ir.IntType) else 0.0] * vector.count)


def load(builder: ir.IRBuilder, pointer: Any, vector: ir.VectorType) -> Any:
    """Load a vector from an element pointer that is aligned to an element only: NumPy promises no more."""
    value = builder.load(builder.bitcast(pointer, vector.as_pointer()))
    value.align = element_bytes(vector)
    return value


def store(builder: ir.IRBuilder, value: Any, pointer: Any, vector: ir.VectorType) -> None:
    builder.store(value, builder.bitcast(pointer, vector.as_pointer())).align = element_bytes(vector)


def broadcast(builder: ir.IRBuilder, scalar: Any, vector: ir.VectorType) -> Any:
    """All lanes equal to `scalar`; folds into the FMA's memory operand where the CPU has one."""
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(ir.IntType(32), vector.count), None))


def multiply_add(builder: ir.IRBuilder, x: Any, y: Any, z: Any, vector: ir.VectorType) -> Any:
    """x * y + z, fused where the CPU can (`llvm.fma` would call a slow library function where it cannot)."""
    name = f"llvm.fmuladd.{type_suffix(vector)}"
    signature = ir.FunctionType(vector, [vector, vector, vector])
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, name), [x, y, z])


def lane(builder: ir.IRBuilder, register: Any, index: int) -> Any:
    """One lane of a register in all lanes."""
    chosen = ir.Constant(ir.VectorType(ir.IntType(32), register.type.count), [index] * register.type.count)
    return builder.shuffle_vector(register, register, chosen)


def kept_whole(builder: ir.IRBuilder, register: Any) -> Any:
    """The same register of NEON, which LLVM does not reason about: it would load each lane apart."""
    return builder.asm(ir.FunctionType(register.type, [register.type]), "", "=w,0", [register], False)


def prefetch(builder: ir.IRBuilder, pointer: Any, *, write: bool = False) -> None:
    """Prefetch the cache line at `pointer` into L2 to be read, or into L1, owned, to be written.

    Harmless beyond an array's end.
    """
    bits = ir.IntType(32)
    signature = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer(), bits, bits, bits])
    hint = cgutils.get_or_insert_function(builder.module, signature, "llvm.prefetch.p0")
    access, locality, data = (ir.Constant(bits, value) for value in ((1, 3, 1) if write else (0, 2, 1)))
    builder.call(hint, [builder.bitcast(pointer, ir.IntType(8).as_pointer()), access, locality, data])


def type_suffix(vector: ir.VectorType) -> str:
    """The type's name in LLVM's overloaded intrinsics."""
    return f"v{vector.count}f{8 * element_bytes(vector)}"


def element_bytes(vector: ir.VectorType) -> int:
    return 8 if isinstance(vector.element, ir.DoubleType) else 4


def integers_like(register: ir.VectorType) -> ir.VectorType:
    """The vector of as many integers of the same width."""
    return ir.VectorType(ir.IntType(8 * element_bytes(register)), register.count)
