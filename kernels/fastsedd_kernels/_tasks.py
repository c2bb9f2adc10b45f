"""Calling a kernel's body by its address: its entry and the one parallel region know no more of it than that.

A body whose code were part of its entry would be compiled for it a second time; a prange of its own would cost each
kernel more to compile than its body does.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastsedd_kernels._simd import INDEX, index, repeat

_BYTES = ir.IntType(8).as_pointer()
_TASK = types.none, (types.intp, types.voidptr)  # what one task returns and takes: its number, and where the rest is


@intrinsic  # type: ignore[untyped-decorator]
def run_tasks(
    typing_context: Any, body: Any, region: Any, threads: Any, first: Any, last: Any, arguments: Any
) -> Any:  # fmt: skip
    """Call body(task, *arguments) for each task from first to last: how many of the calls failed.

    body : address of a compiled function that returns nothing
    region : address of a C function (threads, last, task function, memory), which calls the tasks 0 to last through
        `call_task` and returns how many failed; or 0, to call them one after the other
    """

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        address, shared_by, count, begin, end, packed = values
        memory = cgutils.alloca_once_value(builder, cgutils.pack_struct(builder, [address, packed]))
        task = _task_function(context, builder, arguments.types, memory.type)
        places = [builder.ptrtoint(task, INDEX), builder.ptrtoint(memory, INDEX)]
        failed = cgutils.alloca_once_value(builder, index(0))
        with builder.if_else(builder.icmp_signed("==", shared_by, index(0))) as (alone, shared):
            with alone:

                def call(left: Any, so_far: list[Any]) -> list[Any]:
                    status = _call(context, builder, places[0], builder.sub(end, left), places[1])
                    return [builder.add(so_far[0], builder.zext(status, INDEX))]

                builder.store(repeat(builder, builder.sub(end, begin), [index(0)], call)[0], failed)
            with shared:
                function = builder.inttoptr(shared_by, ir.FunctionType(INDEX, [INDEX] * 4).as_pointer())
                builder.store(builder.call(function, [count, end, *places]), failed)
        return builder.load(failed)

    return types.intp(types.uintp, types.uintp, types.intp, types.intp, types.intp, arguments), codegen


def _task_function(context: Any, builder: ir.IRBuilder, arguments: Any, memory: Any) -> Any:
    """A function of Numba's calling convention, (task, memory), which calls the body that memory names."""
    convention = context.call_conv
    function = ir.Function(builder.module, convention.get_function_type(*_TASK), f"{builder.function.name}_task")
    function.linkage = "internal"
    result, error, task, place = function.args
    inside = ir.IRBuilder(function.append_basic_block("entry"))
    address, packed = cgutils.unpack_tuple(inside, inside.load(inside.bitcast(place, memory)))
    types_of_call = (types.intp, *arguments)
    called = convention.get_function_type(types.none, types_of_call)
    values = [task, *cgutils.unpack_tuple(inside, packed)]
    flat = context.get_arg_packer(types_of_call).as_arguments(inside, values)
    inside.ret(inside.call(inside.inttoptr(address, called.as_pointer()), [result, error, *flat]))
    return function


@intrinsic  # type: ignore[untyped-decorator]
def call_task(typing_context: Any, function: Any, task: Any, memory: Any) -> Any:
    """Call one task in a region of `run_tasks`; True if it ended with an exception, which is dropped."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        return _call(context, builder, *values)

    return types.boolean(types.uintp, types.intp, types.uintp), codegen


def _call(context: Any, builder: ir.IRBuilder, function: Any, task: Any, memory: Any) -> Any:
    kind = context.call_conv.get_function_type(*_TASK)
    result, error = (cgutils.alloca_once(builder, kind.args[i].pointee) for i in range(2))
    called = [result, error, task, builder.inttoptr(memory, _BYTES)]
    status = builder.call(builder.inttoptr(function, kind.as_pointer()), called)
    return builder.icmp_signed("!=", status, ir.Constant(status.type, 0))
