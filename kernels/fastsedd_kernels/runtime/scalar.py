"""Scalar LLVM IR: index constants, loops, and pointers to the elements of arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastsedd_kernels.runtime.machines import CACHE_LINE

INDEX = ir.IntType(64)


def index(value: int) -> ir.Constant:
    return ir.Constant(INDEX, value)


def opaque(builder: ir.IRBuilder, value: Any) -> Any:
    """The same value, which LLVM does not reason about: it leaves alone the addresses that are made of it."""
    return builder.asm(ir.FunctionType(value.type, [value.type]), "", "=r,0", [value], False)


def repeat(
    builder: ir.IRBuilder,
    times: Any,
    values: list[Any],
    body: Callable[[Any, list[Any]], list[Any]],
    *,
    unrolled: bool = True,
) -> list[Any]:
    """Emit a loop: the values after `times` (or no) rounds of values = body(rounds left, values).

    unrolled : LLVM may unroll it; not worth it for a short one, mostly of one round
    """
    before = builder.block
    loop, done = builder.append_basic_block("repeat"), builder.append_basic_block("repeated")
    builder.cbranch(builder.icmp_signed(">", times, index(0)), loop, done)

    builder.position_at_end(loop)
    left, *begun = (builder.phi(value.type) for value in (times, *values))
    ended = body(left, begun)
    fewer = builder.sub(left if unrolled else opaque(builder, left), index(1))
    last = builder.block
    builder.cbranch(builder.icmp_signed(">", fewer, index(0)), loop, done)

    builder.position_at_end(done)
    results = [builder.phi(value.type) for value in values]
    _come_from(before, [left, *begun, *results], [times, *values, *values])
    _come_from(last, [left, *begun, *results], [fewer, *ended, *ended])
    return results


def _come_from(block: Any, phis: list[Any], values: list[Any]) -> None:
    for phi, value in zip(phis, values, strict=True):
        phi.add_incoming(value, block)


@intrinsic  # type: ignore[untyped-decorator]
def pointer(typing_context: Any, array: Any, offset: Any) -> Any:
    """Pointer to the element `offset` elements after an array's first one; no bound is checked."""
    if not isinstance(array, types.Array):
        return None
    signature = types.CPointer(array.dtype)(array, types.intp)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.gep(data, [arguments[1]])

    return signature, codegen


@intrinsic  # type: ignore[untyped-decorator]
def offset(typing_context: Any, base: Any, elements: Any) -> Any:
    """The pointer `elements` elements after `base`."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.gep(arguments[0], [arguments[1]])

    return base(base, types.intp), codegen


@intrinsic  # type: ignore[untyped-decorator]
def beyond(typing_context: Any, base: Any, count: Any) -> Any:
    """The pointer `count` bytes after `base`: a stride needs no division then."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        start = builder.bitcast(arguments[0], ir.IntType(8).as_pointer())
        return builder.bitcast(builder.gep(start, [arguments[1]]), arguments[0].type)

    return base(base, types.intp), codegen


@intrinsic  # type: ignore[untyped-decorator]
def aligned(typing_context: Any, array: Any) -> Any:
    """Pointer to an array's first element on a cache line's edge: allocate one line more than is used of it."""
    if not isinstance(array, types.Array):
        return None

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        address = builder.add(builder.ptrtoint(data, INDEX), index(CACHE_LINE - 1))
        return builder.inttoptr(builder.and_(address, index(-CACHE_LINE)), data.type)

    return types.CPointer(array.dtype)(array), codegen


@intrinsic  # type: ignore[untyped-decorator]
def elements_per_line(typing_context: Any, base: Any) -> Any:
    """The number of elements of what `base` points to in a cache line: a constant."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return index(CACHE_LINE * 8 // base.dtype.bitwidth)

    return types.intp(base), codegen


@intrinsic  # type: ignore[untyped-decorator]
def element_at(typing_context: Any, base: Any, value: Any) -> Any:
    """The number as an element of what `base` points to: a constant of that type where the number is one."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return context.cast(builder, arguments[1], signature.args[1], base.dtype)

    return base.dtype(base, value), codegen
