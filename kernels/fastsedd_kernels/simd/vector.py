"""The vocabulary of LLVM vector IR that the kernels are written in: pointers, load, store, broadcast, FMA, bit casts.

Scalar loops left to the vectoriser keep no tile of accumulators in registers; explicit vectors do. Everything here is
generic LLVM, legal on every target: a width that the CPU lacks is split by the code generator, never refused.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import AbstractTemplate, infer_global
from numba.extending import intrinsic, lower_builtin, models, register_model

from fastsedd_kernels.runtime.cpu import isa, rounds_to_bfloat16
from fastsedd_kernels.runtime.jit import jit

INDEX = ir.IntType(64)
CACHE_LINE = 64  # bytes; a vector that lies across two lines costs two accesses
CROWDED = 4096  # bytes; rows a multiple of it apart share few sets of L1, where they evict each other
_ELEMENTS = {types.float32: ir.FloatType(), types.float64: ir.DoubleType()}


def lanes_of(element: Any) -> int:
    """How many of Numba's `element` fill a register."""
    return isa().lanes * 32 // int(element.bitwidth)


def vector_type(element: Any, lanes: int) -> ir.VectorType:
    """The LLVM vector of `lanes` Numba `element`s."""
    return ir.VectorType(_ELEMENTS[element], lanes)


def index(value: int) -> ir.Constant:
    return ir.Constant(INDEX, value)


def zeros(vector: ir.VectorType) -> ir.Constant:
    return ir.Constant(vector, [0 if isinstance(vector.element, ir.IntType) else 0.0] * vector.count)


def load(builder: ir.IRBuilder, pointer: Any, vector: ir.VectorType) -> Any:
    """Load a vector from an element pointer that is aligned to an element only: NumPy promises no more."""
    value = builder.load(builder.bitcast(pointer, vector.as_pointer()))
    value.align = _element_bytes(vector)
    return value


def store(builder: ir.IRBuilder, value: Any, pointer: Any, vector: ir.VectorType) -> None:
    builder.store(value, builder.bitcast(pointer, vector.as_pointer())).align = _element_bytes(vector)


def broadcast(builder: ir.IRBuilder, scalar: Any, vector: ir.VectorType) -> Any:
    """All lanes equal to `scalar`; folds into the FMA's memory operand where the CPU has one."""
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(ir.IntType(32), vector.count), None))


def multiply_add(builder: ir.IRBuilder, x: Any, y: Any, z: Any, vector: ir.VectorType) -> Any:
    """x * y + z, fused where the CPU can (`llvm.fma` would call a slow library function where it cannot)."""
    name = f"llvm.fmuladd.{_suffix(vector)}"
    signature = ir.FunctionType(vector, [vector, vector, vector])
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, name), [x, y, z])


def prefetch(builder: ir.IRBuilder, pointer: Any, *, write: bool = False) -> None:
    """Ask for the cache line at `pointer` to be in L2 when it is read, or owned by L1 when it is written.

    Harmless beyond an array's end.
    """
    bits = ir.IntType(32)
    signature = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer(), bits, bits, bits])
    hint = cgutils.get_or_insert_function(builder.module, signature, "llvm.prefetch.p0")
    access, level, data = (ir.Constant(bits, value) for value in ((1, 3, 1) if write else (0, 2, 1)))
    builder.call(hint, [builder.bitcast(pointer, ir.IntType(8).as_pointer()), access, level, data])


def opaque(builder: ir.IRBuilder, value: Any) -> Any:
    """The same value, which LLVM does not reason about: it leaves alone the addresses that are made of it."""
    return builder.asm(ir.FunctionType(value.type, [value.type]), "", "=r,0", [value], False)


def repeat(
    builder: ir.IRBuilder, times: Any, values: list[Any], body: Callable[[Any, list[Any]], list[Any]]
) -> list[Any]:
    """Emit a loop: the values after `times` (or no) rounds of values = body(rounds left, values)."""
    before = builder.block
    loop, done = builder.append_basic_block("repeat"), builder.append_basic_block("repeated")
    builder.cbranch(builder.icmp_signed(">", times, index(0)), loop, done)

    builder.position_at_end(loop)
    left, *begun = (builder.phi(value.type) for value in (times, *values))
    ended = body(left, begun)
    fewer = builder.sub(left, index(1))
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


def _suffix(vector: ir.VectorType) -> str:
    """What LLVM's overloaded intrinsics call the type."""
    return f"v{vector.count}f{8 * _element_bytes(vector)}"


def _element_bytes(vector: ir.VectorType) -> int:
    return 8 if isinstance(vector.element, ir.DoubleType) else 4


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
def aligned(typing_context: Any, array: Any) -> Any:
    """Pointer to an array's first element on a cache line's edge: allocate one line more than is used of it."""
    if not isinstance(array, types.Array):
        return None

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        address = builder.add(builder.ptrtoint(data, INDEX), index(CACHE_LINE - 1))
        return builder.inttoptr(builder.and_(address, index(-CACHE_LINE)), data.type)

    return types.CPointer(array.dtype)(array), codegen


class Vector(types.Type):  # type: ignore[misc]
    """A register of float32 or float64 values inside a kernel, with +, -, *, / among vectors and with such scalars."""

    def __init__(self, element: Any) -> None:
        self.element = element
        self.register = vector_type(element, lanes_of(element))
        super().__init__(name=f"Vector({element})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, frontend_type: Any) -> None:
        super().__init__(manager, frontend_type, frontend_type.register)


LANES = isa().lanes  # of float32
_VECTORS = {element: Vector(element) for element in _ELEMENTS}

# In the signatures below: a vector, a pointer to its elements, one element.
_V, _POINTER, _SCALAR = "vector", "pointer", "scalar"


def _typed(kind: Any, element: Any) -> Any:
    return {_V: _VECTORS[element], _POINTER: types.CPointer(element), _SCALAR: element}.get(kind, kind)


def _element_of(given: Any) -> Any:
    """The element type that an argument's type implies, or None."""
    if isinstance(given, Vector):
        return given.element
    element = given.dtype if isinstance(given, types.CPointer) else given
    return element if element in _ELEMENTS else None


def _vector_function(result: Any, arguments: tuple[Any, ...]) -> Callable[[Callable[..., Any]], Any]:
    """Make `emit(builder, register, *values)` a function of kernels; the first argument tells the element type."""

    def decorate(emit: Callable[..., Any]) -> Any:
        parameters = ", ".join("abcd"[: len(arguments)])

        def typed(typing_context: Any, *given: Any) -> Any:
            element = _element_of(given[0])
            if element is None:
                return None
            register = _VECTORS[element].register

            def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
                made = emit(builder, register, *values)
                return context.get_dummy_value() if made is None else made

            return _typed(result, element)(*(_typed(kind, element) for kind in arguments)), codegen

        namespace: dict[str, Any] = {"typed": typed}
        exec(
            f"def {emit.__name__}(typing_context, {parameters}): return typed(typing_context, {parameters})", namespace
        )
        named = namespace[emit.__name__]
        named.__doc__ = emit.__doc__
        return intrinsic(named)

    return decorate


@intrinsic  # type: ignore[untyped-decorator]
def lanes_at(typing_context: Any, pointer: Any) -> Any:
    """How many of the pointer's elements fill a register: a constant."""
    if not isinstance(pointer, types.CPointer):
        return None

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return index(lanes_of(pointer.dtype))

    return types.intp(pointer), codegen


@_vector_function(_V, (_POINTER,))
def load_vector(builder: Any, register: Any, source: Any) -> Any:
    """The values from a pointer on that fill a register."""
    return load(builder, source, register)


@_vector_function(types.void, (_POINTER, _V))
def store_vector(builder: Any, register: Any, target: Any, value: Any) -> None:
    """Write a register's values from a pointer on."""
    store(builder, value, target, register)


@_vector_function(types.void, (_POINTER, _V))
def stream_vector(builder: Any, register: Any, target: Any, value: Any) -> None:
    """Write a register's values past the caches: memory that is not read soon need not be read to be written.

    target : a multiple of the register's bytes. What another thread reads of it must be behind an atomic operation.
    """
    written = builder.store(value, builder.bitcast(target, register.as_pointer()))
    written.align = _element_bytes(register) * register.count
    written.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))


@_vector_function(types.void, (_V, types.CPointer(types.uint32)))
def store_bfloat16(builder: Any, register: Any, value: Any, target: Any) -> None:
    """Write a float32 register as bfloat16, two to a word: half a register."""
    halves = _bfloat16(builder, register, value)
    builder.store(halves, builder.bitcast(target, halves.type.as_pointer())).align = 4


@_vector_function(types.void, (_V, _V, types.CPointer(types.uint32)))
def store_pairs(builder: Any, register: Any, first: Any, second: Any, target: Any) -> None:
    """Write two float32 registers as one of words: in each, the bfloat16 of the one and of the other, above it."""
    integers = _integers(register)
    low, high = (builder.zext(_bfloat16(builder, register, value), integers) for value in (first, second))
    words = builder.or_(low, builder.shl(high, ir.Constant(integers, [16] * integers.count)))
    store(builder, words, target, integers)


class _BFloat16(ir.Type):  # type: ignore[misc]
    """LLVM's bfloat, which llvmlite has no name for."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat16)

    def __hash__(self) -> int:
        return hash(_BFloat16)


def _bfloat16(builder: Any, register: ir.VectorType, value: Any) -> Any:
    """Each lane as bfloat16, rounded to nearest even, in an integer of 16 bits; a NaN stays one.

    The instruction for it, AVX512-BF16's, takes what is subnormal for 0, as those of the products do.
    """
    narrow = ir.VectorType(ir.IntType(16), register.count)
    if not rounds_to_bfloat16():
        return builder.trunc(_rounded_bits(builder, register, value), narrow)
    signature = ir.FunctionType(ir.VectorType(_BFloat16(), register.count), [register])
    name = f"llvm.x86.avx512bf16.cvtneps2bf16.{32 * register.count}"
    return builder.bitcast(
        builder.call(cgutils.get_or_insert_function(builder.module, signature, name), [value]), narrow
    )


def _rounded_bits(builder: Any, register: ir.VectorType, value: Any) -> Any:
    """`_bfloat16` in integers of 32 bits, by their arithmetic."""
    integers = _integers(register)

    def constant(bits: int) -> ir.Constant:
        return ir.Constant(integers, [bits] * integers.count)

    bits = builder.bitcast(value, integers)
    upper = builder.lshr(bits, constant(16))
    odd = builder.and_(upper, constant(1))
    rounded = builder.lshr(builder.add(bits, builder.add(odd, constant(0x7FFF))), constant(16))
    quiet = builder.or_(upper, constant(0x40))  # a NaN that rounding would make infinite
    return builder.select(builder.fcmp_unordered("uno", value, value), quiet, rounded)


@_vector_function(types.void, (_V, types.CPointer(types.int32)))
def store_bytes(builder: Any, register: Any, value: Any, target: Any) -> None:
    """Write the low byte of each lane's bits, four to a word: a quarter of a register."""
    narrow = ir.VectorType(ir.IntType(8), register.count)
    low = builder.trunc(builder.bitcast(value, _integers(register)), narrow)
    builder.store(low, builder.bitcast(target, narrow.as_pointer())).align = 4


@_vector_function(_V, (_POINTER,))
def load_integers(builder: Any, register: Any, source: Any) -> Any:
    """The int32 values that lie at a float32 pointer, as float32."""
    integers = _integers(register)
    return builder.sitofp(load(builder, source, integers), register)


@intrinsic  # type: ignore[untyped-decorator]
def as_float32(typing_context: Any, pointer: Any) -> Any:
    """The same address as a pointer to float32."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.bitcast(values[0], ir.FloatType().as_pointer())

    return types.CPointer(types.float32)(pointer), codegen


@_vector_function(types.void, (_POINTER,))
def ask_for(builder: Any, register: Any, source: Any) -> None:
    """Ask for a cache line to be in L2 when it is read."""
    prefetch(builder, source)


def _integers(register: ir.VectorType) -> ir.VectorType:
    """As many integers of the same width."""
    return ir.VectorType(ir.IntType(8 * _element_bytes(register)), register.count)


def _mask(register: ir.VectorType) -> ir.VectorType:
    return ir.VectorType(ir.IntType(1), register.count)


def _alignment(register: ir.VectorType) -> ir.Constant:
    return ir.Constant(ir.IntType(32), _element_bytes(register))


def _first_lanes(builder: Any, register: Any, count: Any) -> Any:
    integers = ir.VectorType(ir.IntType(32), register.count)
    numbers = ir.Constant(integers, list(range(register.count)))
    limit = broadcast(builder, builder.trunc(count, ir.IntType(32)), integers)
    return builder.icmp_signed("<", numbers, limit)


@_vector_function(_V, (_POINTER, types.intp, _SCALAR))
def load_first(builder: Any, register: Any, source: Any, count: Any, otherwise: Any) -> Any:
    """The first `count` values from a pointer on; the lanes after them hold `otherwise`, and nothing is read there."""
    where = register.as_pointer()
    signature = ir.FunctionType(register, [where, ir.IntType(32), _mask(register), register])
    name = f"llvm.masked.load.{_suffix(register)}.p0"
    function = cgutils.get_or_insert_function(builder.module, signature, name)
    mask, rest = _first_lanes(builder, register, count), broadcast(builder, otherwise, register)
    return builder.call(function, [builder.bitcast(source, where), _alignment(register), mask, rest])


@_vector_function(types.void, (_POINTER, _V, types.intp))
def store_first(builder: Any, register: Any, target: Any, value: Any, count: Any) -> None:
    """Write the first `count` lanes from a pointer on, and nothing after them."""
    where = register.as_pointer()
    signature = ir.FunctionType(ir.VoidType(), [register, where, ir.IntType(32), _mask(register)])
    name = f"llvm.masked.store.{_suffix(register)}.p0"
    function = cgutils.get_or_insert_function(builder.module, signature, name)
    builder.call(
        function, [value, builder.bitcast(target, where), _alignment(register), _first_lanes(builder, register, count)]
    )


@jit
def load_some(source: Any, count: int, otherwise: Any) -> Any:
    """A register from `source`, of which only the first `count` values exist."""
    return load_vector(source) if count >= LANES else load_first(source, count, otherwise)


@jit
def store_some(target: Any, value: Any, count: int) -> None:
    if count >= LANES:
        store_vector(target, value)
    else:
        store_first(target, value, count)


@jit
def copy_padded(source: Any, step: int, rows: int, columns: int, target: Any, width: int) -> None:
    """target[0:rows, 0:width] = the first `columns` of rows that are `step` elements apart, and zeros beside them."""
    for r in range(rows):
        for j in range(width):
            target[r * width + j] = source[r * step + j] if j < columns else 0


@_vector_function(types.void, (_POINTER, types.intp, _POINTER, types.intp))
def transpose_square(builder: Any, register: Any, source: Any, source_step: Any, target: Any, target_step: Any) -> None:
    """target[j * target_step + i] = source[i * source_step + j] for i and j below a register's lanes."""
    lanes = register.count
    rows = [load(builder, builder.gep(source, [builder.mul(source_step, index(i))]), register) for i in range(lanes)]
    half = 1
    while half < lanes:  # exchange off-diagonal blocks of half x half among rows that are half apart
        for i in (i for i in range(lanes) if not i & half):
            upper, lower = rows[i], rows[i + half]
            first = [lane if not lane & half else lanes + lane - half for lane in range(lanes)]
            second = [lane + half if not lane & half else lanes + lane for lane in range(lanes)]
            rows[i] = _shuffle(builder, upper, lower, first)
            rows[i + half] = _shuffle(builder, upper, lower, second)
        half *= 2
    for j, row in enumerate(rows):
        store(builder, row, builder.gep(target, [builder.mul(target_step, index(j))]), register)


def _shuffle(builder: Any, x: Any, y: Any, lanes: list[int]) -> Any:
    """The chosen lanes of x and y, numbered one after the other."""
    return builder.shuffle_vector(x, y, ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes))


@_vector_function(_V, (_SCALAR,))
def splat(builder: Any, register: Any, scalar: Any) -> Any:
    """All lanes equal to a scalar."""
    return broadcast(builder, scalar, register)


@_vector_function(_V, (_V, _V, _V))
def fma(builder: Any, register: Any, x: Any, y: Any, z: Any) -> Any:
    """x * y + z in one rounding where the CPU can."""
    return multiply_add(builder, x, y, z, register)


def polynomial(*coefficients: float) -> Any:
    """A function of kernels: the polynomial of a vector by Horner's rule, coefficients from the constant one up."""

    def horner(builder: Any, register: Any, x: Any) -> Any:
        constants = [ir.Constant(register, [coefficient] * register.count) for coefficient in coefficients]
        return functools.reduce(lambda p, c: multiply_add(builder, p, x, c, register), reversed(constants))

    return _vector_function(_V, (_V,))(horner)


@_vector_function(_V, (_V, _V))
def maximum(builder: Any, register: Any, x: Any, y: Any) -> Any:
    """The greater of each lane; y where x is NaN."""
    return builder.select(builder.fcmp_ordered(">", x, y), x, y)


@_vector_function(_V, (_V, _V))
def minimum(builder: Any, register: Any, x: Any, y: Any) -> Any:
    """The lesser of each lane; y where x is NaN."""
    return builder.select(builder.fcmp_ordered("<", x, y), x, y)


@_vector_function(_V, (_V, _V, _V, _V))
def where_less(builder: Any, register: Any, x: Any, y: Any, then: Any, otherwise: Any) -> Any:
    """`then` in the lanes where x < y, else `otherwise`, also where either is NaN."""
    return builder.select(builder.fcmp_ordered("<", x, y), then, otherwise)


@_vector_function(_V, (_V,))
def absolute(builder: Any, register: Any, x: Any) -> Any:
    """|x|: the sign bit cleared."""
    integers = _integers(register)
    all_but_sign = 2 ** (integers.element.width - 1) - 1
    cleared = builder.and_(builder.bitcast(x, integers), ir.Constant(integers, [all_but_sign] * integers.count))
    return builder.bitcast(cleared, register)


@_vector_function(_V, (_V,))
def power_of_two(builder: Any, register: Any, n: Any) -> Any:
    """2^n for whole n from -126 to 127 (float64: -1022 to 1023), made from the bits of the exponent."""
    integers = _integers(register)
    bias, shift = (127, 23) if integers.element.width == 32 else (1023, 52)
    exponent = builder.add(builder.fptosi(n, integers), ir.Constant(integers, [bias] * integers.count))
    return builder.bitcast(builder.shl(exponent, ir.Constant(integers, [shift] * integers.count)), register)


@_vector_function(_V, (_V, _V))
def times_power_of_two(builder: Any, register: Any, x: Any, shifted: Any) -> Any:
    """x * 2^n for normal x and product, where shifted is n + 1.5 * 2^23 in float32: n is in its lowest bits."""
    integers = _integers(register)
    exponent = builder.shl(builder.bitcast(shifted, integers), ir.Constant(integers, [23] * integers.count))
    return builder.bitcast(builder.add(builder.bitcast(x, integers), exponent), register)


def _reduce(builder: Any, lanes: int, value: Any, combine: Callable[[Any, Any], Any]) -> Any:
    """Fold halves onto each other until one lane is left: a fixed order, whatever the CPU."""
    while lanes > 1:
        lanes //= 2
        halves = [_shuffle(builder, value, value, list(range(first, first + lanes))) for first in (0, lanes)]
        value = combine(*halves)
    return builder.extract_element(value, ir.Constant(ir.IntType(32), 0))


@_vector_function(_SCALAR, (_V,))
def sum_lanes(builder: Any, register: Any, x: Any) -> Any:
    """The sum of all lanes."""
    return _reduce(builder, register.count, x, builder.fadd)


@_vector_function(_SCALAR, (_V,))
def max_lanes(builder: Any, register: Any, x: Any) -> Any:
    """The greatest of all lanes; NaN lanes may be passed over."""
    return _reduce(builder, register.count, x, lambda a, b: builder.select(builder.fcmp_ordered(">", a, b), a, b))


def _define_operator(symbol: Callable[..., Any], instruction: str) -> None:
    """Give kernels `symbol` among vectors, and between a vector and a scalar of its elements."""

    @infer_global(symbol)
    class _Typing(AbstractTemplate):  # type: ignore[misc]
        def generic(self, given: Any, _keywords: Any) -> Any:
            vector = next((each for each in given if isinstance(each, Vector)), None)
            if vector is None or any(each not in (vector, vector.element) for each in given):
                return None
            return vector(*given)

    def lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        register = signature.return_type.register
        vectors = (
            value if isinstance(given, Vector) else broadcast(builder, value, register)
            for given, value in zip(signature.args, values, strict=True)
        )
        return getattr(builder, instruction)(*vectors)

    for kinds in ((Vector, Vector), (Vector, types.Float), (types.Float, Vector)):
        lower_builtin(symbol, *kinds)(lower)


for _symbol, _instruction in (
    (operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul"), (operator.truediv, "fdiv"),
):  # fmt: skip
    _define_operator(_symbol, _instruction)
