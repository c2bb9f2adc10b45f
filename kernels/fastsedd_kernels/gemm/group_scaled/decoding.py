"""A slab of a panel as the micro-kernel reads it: scales and minima in float32, codes of four bits widened to bytes.

It is done once per slab and block of rows, into scratch memory in L1.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import float32, int32, types
from numba.core import cgutils
from numba.extending import intrinsic

from fastsedd_kernels.gemm.group_scaled.microkernel import BUNDLE, NR, SLAB, WORDS, Codes, widened
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
def halves_of(weight: Any, place: Any, first: int) -> Any:
    """Pointer to the float16 scales of a panel, and minima, from a group on. weight, place : as for `decode_scales`"""
    halves = weight.halves
    block = place.before * halves.shape[1] + first // weight.span * place.panels + place.panel
    return pointer(halves, block * halves.shape[2] * NR)


@jit
def decode_scales(weight: Any, place: Any, panels: int, first: int, groups: int, target: Any) -> None:
    """Write the scales of so many groups from the first on, and, where there are any, their minima.

    weight : `storage.Weight`; place : Place of the first panel
    target : pointer to float32, [2, SLAB, BUNDLE * NR], of which rows of panels * NR are used
    """
    small, used = weight.small, first % weight.span
    whole, extra = weight.halves.shape[2] * NR, small.shape[2] * NR
    half = halves_of(weight, place, first)
    byte = pointer(small, (place.before * small.shape[1] + first * place.panels + place.panel) * extra)
    for g in range(groups):
        for i in range(panels):
            scales = offset(target, (g * panels + i) * NR)
            for j in range(0, NR, LANES):
                scale, minimum = _decode(weight.form, offset(half, i * whole + j), offset(byte, i * extra + j))
                store_vector(offset(scales, j), scale)
                store_vector(offset(scales, SLAB * BUNDLE * NR + j), minimum)
        byte = offset(byte, place.panels * extra)
        used += 1
        if used == weight.span:
            half, used = offset(half, place.panels * whole), 0


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
    """Widen the codes of so many groups of a panel from nibbles to bytes; source : Codes; target : pointer to int32."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        register = words()
        step = WORDS // 2 * NR

        def group(_: Any, values: list[Any]) -> list[Any]:
            nibbles, codes = values
            for place in range(0, step, register.count):
                word, column = divmod(place, NR)
                row = builder.gep(nibbles, [builder.mul(across, scalar.index(word))])
                loaded = emit.load(builder, builder.gep(row, [scalar.index(column)]), register)
                for half in range(2):
                    where = builder.gep(codes, [scalar.index(place + half * step)])
                    emit.store(builder, widened(builder, loaded, half), where, register)
            return [builder.gep(nibbles, [below]), builder.gep(codes, [scalar.index(2 * step)])]

        first, across, below = cgutils.unpack_tuple(builder, arguments[0])
        scalar.repeat(builder, arguments[1], [first, arguments[2]], group)
        return context.get_dummy_value()

    words_at = types.CPointer(int32)
    codes = types.NamedTuple((words_at, types.intp, types.intp), Codes)
    return types.void(codes, types.intp, words_at), codegen
