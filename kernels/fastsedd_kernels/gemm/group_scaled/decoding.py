"""A slab of a panel as the micro-kernel reads it: scales and minima in float32, codes of four bits widened to bytes.

It is done once per slab and block of rows, into scratch memory in L1.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import float32, int32, types
from numba.extending import intrinsic

from fastsedd_kernels.gemm.group_scaled.microkernel import NR, SLAB, WORDS, widened
from fastsedd_kernels.gemm.group_scaled.products import words
from fastsedd_kernels.gemm.group_scaled.storage import MINIMUM, SCALE, ZERO
from fastsedd_kernels.runtime import scalar
from fastsedd_kernels.runtime.jit import jit
from fastsedd_kernels.runtime.scalar import offset, pointer
from fastsedd_kernels.simd import emit
from fastsedd_kernels.simd.narrow import as_float32, load_halves, load_unsigned_bytes
from fastsedd_kernels.simd.vector import LANES, splat, store_vector

_MINUS_ONE = float32(-1.0)


@jit
def decode_scales(weight: Any, panel: int, first: int, groups: int, target: Any) -> None:
    """Write the scales of so many groups from the first on, and, where there are any, their minima.

    weight : `storage.Weight`; target : pointer to float32, [2, SLAB, NR]
    """
    halves, small = weight.halves, weight.small
    row, used = first // weight.span, first % weight.span
    half = pointer(halves, (panel * halves.shape[1] + row) * halves.shape[2] * NR)
    if weight.form == SCALE and weight.span == 1:
        for j in range(0, groups * NR, LANES):
            store_vector(offset(target, j), load_halves(as_float32(offset(half, j))))
        return
    byte = pointer(small, (panel * small.shape[1] + first) * small.shape[2] * NR)
    for g in range(groups):
        for j in range(0, NR, LANES):
            scale, minimum = _decode(weight.form, offset(half, j), offset(byte, j))
            store_vector(offset(target, g * NR + j), scale)
            store_vector(offset(target, (SLAB + g) * NR + j), minimum)
        byte = offset(byte, small.shape[2] * NR)
        used += 1
        if used == weight.span:
            half, used = offset(half, halves.shape[2] * NR), 0


@jit
def _decode(form: int, half: Any, byte: Any) -> Any:
    """A register of scales and one of minima; the latter anything where the form has none."""
    scale = load_halves(as_float32(half))
    if form == SCALE:
        return scale, scale
    if form == MINIMUM:
        return scale, load_halves(as_float32(offset(half, NR)))
    first = load_unsigned_bytes(as_float32(byte))
    if form == ZERO:
        return scale, scale * first * splat(_MINUS_ONE)
    second = load_unsigned_bytes(as_float32(offset(byte, NR)))
    return scale * first, load_halves(as_float32(offset(half, NR))) * second * splat(_MINUS_ONE)


@intrinsic  # type: ignore[untyped-decorator]
def widen_groups(typing_context: Any, source: Any, groups: Any, target: Any) -> Any:
    """Widen the codes of so many groups of a panel from nibbles to bytes; source, target : pointers to int32."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        register = words()
        step = WORDS // 2 * NR

        def group(_: Any, values: list[Any]) -> list[Any]:
            nibbles, codes = values
            for place in range(0, step, register.count):
                loaded = emit.load(builder, builder.gep(nibbles, [scalar.index(place)]), register)
                for half in range(2):
                    where = builder.gep(codes, [scalar.index(place + half * step)])
                    emit.store(builder, widened(builder, loaded, half), where, register)
            return [builder.gep(nibbles, [scalar.index(step)]), builder.gep(codes, [scalar.index(2 * step)])]

        scalar.repeat(builder, arguments[1], [arguments[0], arguments[2]], group)
        return context.get_dummy_value()

    words_at = types.CPointer(int32)
    return types.void(words_at, types.intp, words_at), codegen
