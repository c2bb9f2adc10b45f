"""The elementwise kernel of all activations."""

from __future__ import annotations

from typing import Any

from numba import float32, types

from fastsedd_kernels.activation.table import activate
from fastsedd_kernels.runtime.kernel import kernel
from fastsedd_kernels.runtime.scalar import pointer
from fastsedd_kernels.simd.vector import LANES, load_some, store_some

CHUNK = 4096  # elements per task: long enough to hide a task's start, small enough to balance

_ZERO = float32(0.0)


@kernel(types.Array(float32, 1, "C", readonly=True), types.intp, float32[::1])
def activate_chunks(task: int, x: Any, activation: int, out: Any) -> None:
    """out[i] = activation(x[i]) for the task's CHUNK of i.

    x, out : float32 [N], contiguous; out may be x; activation : a number of `table.ACTIVATIONS`
    """
    for i in range(task * CHUNK, min((task + 1) * CHUNK, x.size), LANES):
        value = activate(load_some(pointer(x, i), x.size - i, _ZERO), activation)
        store_some(pointer(out, i), value, x.size - i)
