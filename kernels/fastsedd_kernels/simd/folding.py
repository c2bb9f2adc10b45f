"""Sums of several registers at a time, folded onto each other."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from fastsedd_kernels.runtime.scalar import index
from fastsedd_kernels.simd.emit import element_bytes, load
from fastsedd_kernels.simd.vector import POINTER, VECTOR, shuffle, vector_function


@vector_function(VECTOR, (POINTER,))
def sums_of_registers(builder: Any, register: Any, source: Any) -> Any:
    """The sum of all lanes, as by `sum_lanes`, of each of as many registers from a pointer on as one has lanes.

    Two registers are folded at a time, each to half of its lanes: a third of the instructions of one after the other.
    """
    lanes = register.count
    folded = [load(builder, builder.gep(source, [index(i * lanes)]), register) for i in range(lanes)]
    parts = [[i] * lanes for i in range(lanes)]  # which register each lane of the folded ones is a part of
    half = lanes
    while half > 1:
        half //= 2
        lower, upper = (_every_other(register, half, first) for first in (0, half))
        pairs = list(zip(folded[::2], folded[1::2], strict=True))
        folded = [builder.fadd(shuffle(builder, x, y, lower), shuffle(builder, x, y, upper)) for x, y in pairs]
        parts = [[(x + y)[lane] for lane in lower] for x, y in zip(parts[::2], parts[1::2], strict=True)]
    return shuffle(builder, folded[0], folded[0], [parts[0].index(i) for i in range(lanes)])


def _every_other(register: ir.VectorType, half: int, first: int) -> list[int]:
    """Lanes of two registers: of each, every other run of `half` lanes from `first` on.

    Those of the second come last; or, of runs within 16 bytes, last of each 16 bytes: one instruction moves them.
    """
    lanes, small = register.count, 16 // element_bytes(register)
    chosen = [first + lane for lane in range(lanes) if not lane & half]
    together = small // 2 if half < small else lanes // 2
    return [
        other + lane
        for begin in range(0, len(chosen), together)
        for other in (0, lanes)
        for lane in chosen[begin : begin + together]
    ]
