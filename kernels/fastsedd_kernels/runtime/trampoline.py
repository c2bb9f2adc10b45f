"""Calling a kernel's body by its address: its entry and the one parallel region know no more of it than that.

A body whose code were part of its entry would be compiled for it a second time; a prange of its own would cost each
kernel more to compile than its body does. And a call that is kept as two addresses can be made again without Python.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.errors import LoweringError
from numba.extending import intrinsic

from fastsedd_kernels.runtime.scalar import INDEX, index, repeat

_BYTES = ir.IntType(8).as_pointer()
_TASK = types.none, (types.intp, types.voidptr)  # what one task returns and takes: its number, and where the rest is

KEPT_BYTES = 2048  # of a kept call's body and arguments, at most


@intrinsic  # type: ignore[untyped-decorator]
def run_tasks(typing_context: Any, body: Any, first: Any, last: Any, arguments: Any) -> Any:
    """Call body(task, *arguments) for each task from first to last, one after the other: how many calls failed.

    body : address of a compiled function that returns nothing
    """

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        address, begin, end, packed = values
        memory = cgutils.alloca_once_value(builder, _contents(builder, arguments, address, packed))
        place = builder.ptrtoint(memory, INDEX)
        task = builder.ptrtoint(_task_function(context, builder, arguments, memory.type), INDEX)

        def call(left: Any, so_far: list[Any]) -> list[Any]:
            status = _call(context, builder, task, builder.sub(end, left), place)
            return [builder.add(so_far[0], builder.zext(status, INDEX))]

        return repeat(builder, builder.sub(end, begin), [index(0)], call)[0]

    return types.intp(types.uintp, types.intp, types.intp, arguments), codegen


@intrinsic  # type: ignore[untyped-decorator]
def keep_call(typing_context: Any, body: Any, place: Any, arguments: Any) -> Any:
    """Write the body and its arguments to KEPT_BYTES at `place`; address of the function that `call_task` calls on it.

    The arrays must outlive what is kept: it owns none.
    """

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        address, target, packed = values
        contents = _contents(builder, arguments, address, packed)
        if context.get_abi_sizeof(contents.type) > KEPT_BYTES:
            raise LoweringError(f"a kernel's arguments take more than {KEPT_BYTES} bytes")
        memory = builder.inttoptr(target, contents.type.as_pointer())
        builder.store(contents, memory)
        return builder.ptrtoint(_task_function(context, builder, arguments, memory.type), INDEX)

    return types.intp(types.uintp, types.uintp, arguments), codegen


def _contents(builder: ir.IRBuilder, arguments: Any, address: Any, packed: Any) -> Any:
    return cgutils.pack_struct(builder, [address, _without_owners(builder, arguments, packed)])


def _without_owners(builder: ir.IRBuilder, given: Any, value: Any) -> Any:
    """Arrays in a value lose their reference counts: the caller holds them, and what is kept must not."""
    if isinstance(given, types.BaseTuple):
        for i, each in enumerate(given):
            kept = _without_owners(builder, each, builder.extract_value(value, i))
            value = builder.insert_value(value, kept, i)
    elif isinstance(given, types.Array):
        for owner in (0, 1):  # of the data, and the Python object: Numba's first two fields
            nothing = ir.Constant(value.type.elements[owner], None)
            value = builder.insert_value(value, nothing, owner)
    return value


def _task_function(context: Any, builder: ir.IRBuilder, arguments: Any, memory: Any) -> Any:
    """A function of Numba's calling convention, (task, memory), which calls the body that memory names."""
    name = f"{builder.function.name}_task"
    if name in builder.module.globals:
        return builder.module.globals[name]
    convention = context.call_conv
    function = ir.Function(builder.module, convention.get_function_type(*_TASK), name)
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
    """Call one task of a kept call; True if it ended with an exception, which is dropped."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        return _call(context, builder, *values)

    return types.boolean(types.uintp, types.intp, types.uintp), codegen


def _call(context: Any, builder: ir.IRBuilder, function: Any, task: Any, memory: Any) -> Any:
    kind = context.call_conv.get_function_type(*_TASK)
    result, error = (cgutils.alloca_once(builder, kind.args[i].pointee) for i in range(2))
    called = [result, error, task, builder.inttoptr(memory, _BYTES)]
    status = builder.call(builder.inttoptr(function, kind.as_pointer()), called)
    return builder.icmp_signed("!=", status, ir.Constant(status.type, 0))
