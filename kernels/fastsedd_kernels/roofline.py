"""The limits of this machine, measured: multiply-adds in registers, bytes read from an array or copied to another.

The roof over every kernel (Williams, Waterman and Patterson 2009). A clock that rises and falls with the load, and
neighbours on a shared machine, move it: measure it beside what it is compared with, not once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import float32, float64, types
from numba.extending import intrinsic

from fastsedd_kernels.runtime import scalar
from fastsedd_kernels.runtime.arrays import aligned_empty
from fastsedd_kernels.runtime.cpu import isa
from fastsedd_kernels.runtime.kernel import Kernel, kernel
from fastsedd_kernels.runtime.scalar import offset, pointer
from fastsedd_kernels.runtime.threads import get_num_threads
from fastsedd_kernels.runtime.timing import median_seconds
from fastsedd_kernels.simd import emit
from fastsedd_kernels.simd.emit import lanes_of
from fastsedd_kernels.simd.vector import LANES, load_vector, store_vector, sum_lanes

# As many independent chains as the register tile of the GEMM has: enough to hide the latency of FMA.
_CHAINS = isa().tile.rows * isa().tile.vectors
_BURST = 0.02  # seconds
_WARM_UP = 0.03  # seconds, until a core that slept is at its full clock
_STREAMS = 4  # places that a thread reads side by side, so that the prefetchers keep more lines under way


@intrinsic  # type: ignore[untyped-decorator]
def _run_chains(typing_context: Any, start: Any, count: Any) -> Any:
    """Run _CHAINS chains x = x * x + x of vectors for `count` steps; their sum, so that none is left out."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        vector = emit.vector_type(start, lanes_of(start))
        first = emit.broadcast(builder, arguments[0], vector)
        before, loop = builder.block, builder.append_basic_block("steps")
        builder.branch(loop)
        builder.position_at_end(loop)
        step = builder.phi(scalar.INDEX)
        chains = [builder.phi(vector) for _ in range(_CHAINS)]
        results = [emit.multiply_add(builder, chain, first, first, vector) for chain in chains]
        following = builder.add(step, scalar.index(1))
        for phi, result in zip([step, *chains], [following, *results], strict=True):
            phi.add_incoming(scalar.index(0) if phi is step else first, before)
            phi.add_incoming(result, loop)
        done = builder.append_basic_block("done")
        builder.cbranch(builder.icmp_signed("<", following, arguments[1]), loop, done)
        builder.position_at_end(done)
        return builder.extract_element(functools.reduce(builder.fadd, results), ir.Constant(ir.IntType(32), 0))

    return start(start, types.intp), codegen


def multiply_add(task: int, steps: int, results: Any) -> None:
    """Keep the FMA units of a core busy for `steps` steps of _CHAINS vectors."""
    results[task, 0] = _run_chains(results.dtype.type(0.5), steps)


_MULTIPLY_ADD: dict[np.dtype[Any], Kernel] = {
    np.dtype(np.float32): kernel(types.intp, float32[:, ::1])(multiply_add),
    np.dtype(np.float64): kernel(types.intp, float64[:, ::1])(multiply_add),
}


@kernel(types.Array(float32, 1, "C", readonly=True), float32[:, ::1])
def read(task: int, array: Any, results: Any) -> None:
    """Add up the task's part of an array, _STREAMS places at a time."""
    line = 2 * LANES
    stream = array.size // results.shape[0] // _STREAMS // line * line
    source = pointer(array, task * _STREAMS * stream)
    total = other = load_vector(source)
    for i in range(0, stream, line):
        for s in range(_STREAMS):
            total = total + load_vector(offset(source, s * stream + i))
            other = other + load_vector(offset(source, s * stream + i + LANES))
    results[task, 0] = sum_lanes(total + other)


@kernel(types.Array(float32, 2, "C", readonly=True), float32[:, ::1])
def copy(task: int, array: Any, out: Any) -> None:
    """Copy the task's row of an array, a whole number of registers."""
    source, target = pointer(array, task * array.shape[1]), pointer(out, task * array.shape[1])
    for i in range(0, array.shape[1], LANES):
        store_vector(offset(target, i), load_vector(offset(source, i)))


def peak_flops(dtype: str = "float32", seconds: float = _BURST) -> float:
    """Operations per second of fused multiply-adds in registers, on as many threads as kernels may use.

    dtype : "float32" or "float64"; seconds : how long to measure, in short bursts, of which the median counts
    Raises ValueError for another dtype.
    """
    if dtype not in ("float32", "float64"):
        raise ValueError(f"dtype is {dtype!r}, allowed: 'float32', 'float64'")
    threads = get_num_threads()
    results = np.empty((threads, 16), dtype)
    operations = 2 * _CHAINS * lanes_of(float32 if results.itemsize == 4 else float64) * threads
    steps = 200_000  # a burst of about a millisecond
    run = functools.partial(_MULTIPLY_ADD[results.dtype], threads, steps, results)
    return steps * operations / _median_seconds(run, seconds)


def read_bandwidth(nbytes: int = 64 << 20, seconds: float = _BURST) -> float:
    """Bytes a second read from one array, over and over, by as many threads as kernels may use.

    nbytes : the array's size: what fits a cache is read from there
    """
    threads = get_num_threads()
    array = np.ones(max(nbytes // 4, threads * _STREAMS * 2 * LANES), np.float32)
    results = np.empty((threads, 16), np.float32)
    return array.nbytes / _median_seconds(functools.partial(read, threads, array, results), seconds)


def copy_bandwidth(nbytes: int = 64 << 20, seconds: float = _BURST) -> float:
    """Bytes a second that are read from one array and written to another of its size, both counted; threads as above.

    nbytes : the size of each: two that fit a cache are copied there
    """
    threads = get_num_threads()
    width = max(1, nbytes // 4 // threads // LANES) * LANES
    array, out = aligned_empty((threads, width)), aligned_empty((threads, width))
    array[...] = 1.0
    return 2 * array.nbytes / _median_seconds(functools.partial(copy, threads, array, out), seconds)


def _median_seconds(run: Callable[[], object], seconds: float) -> float:
    run()  # loads or compiles
    return median_seconds(run, seconds, warm_up=_WARM_UP, least=3)
