"""The public functions inside the user's own njit functions: the same kernels, on the thread that calls them.

    @numba.njit(parallel=True)
    def network(x, w, out):
        for b in numba.prange(len(x)):
            fk.linear(x[b], w, activation="gelu", out=out[b])

No kernel starts threads here, whoever calls it: threads are the caller's to share out, with prange or without the GIL.
So nothing waits for a lock, and a loop over threads stays one. What is called is the body that this library compiles
once and keeps: it adds little to what the user's function takes to compile. Its address is this process's, so Numba
does not cache functions that hold one (`cache=True` then says so and compiles anew).
Dtypes and numbers of dimensions are checked when the caller is compiled, shapes when it runs: ValueError, as outside.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import float32, types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.extending import (
    NativeValue,
    intrinsic,
    make_attribute_wrapper,
    models,
    overload,
    register_jitable,
    register_model,
    typeof_impl,
    unbox,
)

from fastsedd_kernels.activation.kernel import CHUNK, GELU, GELU_TANH, SILU, activate_chunks, gelu, silu
from fastsedd_kernels.attention.api import attention
from fastsedd_kernels.attention.kernel import ATTEND, query_block
from fastsedd_kernels.embedding.kernel import embedding, gather_rows
from fastsedd_kernels.gemm.api import MOST_COLUMNS, linear, matmul
from fastsedd_kernels.gemm.blocking import block_limits, blocks
from fastsedd_kernels.gemm.dot_products import COLUMNS, NUMPY
from fastsedd_kernels.gemm.epilogue import ACTIVATIONS, IDENTITY
from fastsedd_kernels.gemm.macrokernel import MULTIPLY
from fastsedd_kernels.gemm.pack_b import PACK, PANELS_A_TASK
from fastsedd_kernels.gemm.packed_weight import PackedWeight
from fastsedd_kernels.gemm.tuned_blocks import limits
from fastsedd_kernels.norm.api import layer_norm, softmax
from fastsedd_kernels.norm.kernel import layer_norm_rows, softmax_rows
from fastsedd_kernels.runtime.kernel import Kernel
from fastsedd_kernels.runtime.scalar import INDEX
from fastsedd_kernels.runtime.trampoline import run_tasks
from fastsedd_kernels.sampling.api import METHODS, sample_categorical
from fastsedd_kernels.sampling.categorical import draw_rows, tasks_for

# ---- calling a kernel ----------------------------------------------------------------------------------------------


def _caller(kernel: Kernel) -> Any:
    """An njit function of (tasks, arguments), which runs all tasks of the kernel, one after the other."""

    @intrinsic
    def address(typing_context: Any) -> Any:
        place = kernel.body_address()

        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.ptrtoint(context.add_dynamic_addr(builder, place, kernel.name), INDEX)

        return types.uintp(), codegen

    @register_jitable
    def call(tasks: int, arguments: Any) -> None:
        if run_tasks(address(), 0, tasks, arguments) > 0:
            raise MemoryError("no memory for the scratch space of a kernel")

    return call


# A body has one signature: arrays in it differ in what is known of them, not in what they are, and need no conversion.
_multiply = {dtype: _caller(kernel) for dtype, kernel in MULTIPLY.items()}
_pack = {dtype: _caller(kernel) for dtype, kernel in PACK.items()}
_attend = {dtype: _caller(kernel) for dtype, kernel in ATTEND.items()}
_normalise, _softmax, _activate = _caller(layer_norm_rows), _caller(softmax_rows), _caller(activate_chunks)
_draw, _gather = _caller(draw_rows), _caller(gather_rows)

for _arithmetic in (blocks, tasks_for):
    register_jitable(_arithmetic)

# ---- packed weights ------------------------------------------------------------------------------------------------

_SCALES = types.Array(float32, 1, "C", readonly=True)
_CORRECTIONS = types.Array(types.int32, 1, "C", readonly=True)


class PackedWeightType(types.Type):  # type: ignore[misc]
    """A PackedWeight of one dtype, in njit functions: an argument, which is read only."""

    def __init__(self, stored: str, words: Any) -> None:
        self.stored, self.words = stored, np.dtype(words)
        self.panels = types.Array(NUMPY[self.words], 3, "C", readonly=True)
        super().__init__(f"PackedWeight({stored})")

    @property
    def fields(self) -> list[tuple[str, Any]]:
        quantisation = [("scales", _SCALES), ("corrections", _CORRECTIONS)] if self.stored == "int8" else []
        return [("panels", self.panels), ("shape", types.UniTuple(types.intp, 2)), *quantisation]


@typeof_impl.register(PackedWeight)
def _type_of_packed(value: PackedWeight, context: Any) -> PackedWeightType:
    return PackedWeightType(value.dtype, value.panels.dtype)


@register_model(PackedWeightType)
class _PackedWeightModel(models.StructModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: PackedWeightType) -> None:
        super().__init__(manager, kind, kind.fields)


for _name in ("panels", "shape", "scales", "corrections"):
    make_attribute_wrapper(PackedWeightType, _name, _name)


@unbox(PackedWeightType)
def _unbox_packed(kind: PackedWeightType, value: Any, c: Any) -> NativeValue:
    native = cgutils.create_struct_proxy(kind)(c.context, c.builder)
    parts = c.pyapi.object_getattr_string(value, "quantisation")
    for name, each in kind.fields:
        if name in ("scales", "corrections"):
            part = c.pyapi.tuple_getitem(parts, 0 if name == "scales" else 1)
            c.pyapi.incref(part)
        else:
            part = c.pyapi.object_getattr_string(value, name)
        setattr(native, name, c.unbox(each, part).value)
        c.pyapi.decref(part)
    c.pyapi.decref(parts)
    return NativeValue(native._getvalue(), is_error=cgutils.is_not_null(c.builder, c.pyapi.err_occurred()))


# ---- what arguments are, and which are absent ----------------------------------------------------------------------


def _is_absent(kind: Any) -> bool:
    return kind is None or (isinstance(kind, (types.NoneType, types.Omitted)) and getattr(kind, "value", None) is None)


def _constant(name: str, kind: Any, allowed: tuple[Any, ...]) -> Any:
    """The value of an argument that must be known when the caller is compiled."""
    value = None if _is_absent(kind) else getattr(kind, "literal_value", getattr(kind, "value", kind))
    if value not in allowed:
        raise TypingError(f"{name} is {value!r}, allowed, as constants: {', '.join(map(repr, allowed))}")
    return value


def _require(name: str, kind: Any, dimensions: tuple[int, ...], *dtypes: Any, optional: bool = False) -> None:
    if optional and _is_absent(kind):
        return
    wanted = dtypes or (float32,)
    if not isinstance(kind, types.Array) or kind.dtype not in wanted or kind.ndim not in dimensions:
        counts = " or ".join(str(count) for count in dimensions)
        raise TypingError(f"{name} is {kind}, must be {' or '.join(map(str, wanted))} of {counts} dimensions")


def _overload(function: Callable[..., Any]) -> Any:
    return overload(function, prefer_literal=True)


@register_jitable
def _given(value: Any) -> Any:
    return value


def _or_empty(kind: Any, dimensions: int) -> Any:
    """The argument, C-contiguous, or an empty array of so many dimensions where it is absent, as kernels have it."""
    shape = (0,) * dimensions
    if _is_absent(kind):
        return register_jitable(lambda value: np.empty(shape, np.float32))
    return register_jitable(lambda value: np.ascontiguousarray(value))


def _or_new(kind: Any, dtype: Any) -> Any:
    """An njit function of (out, shape): out, checked, or a new array."""
    if _is_absent(kind):
        return register_jitable(lambda out, shape: np.empty(shape, dtype))

    @register_jitable
    def checked(out: Any, shape: Any) -> Any:
        if out.shape != shape:
            raise ValueError("out has another shape than the result")
        return out

    return checked


def _require_out(kind: Any, dimensions: tuple[int, ...], dtype: Any = float32, *, rows_only: bool = False) -> None:
    _require("out", kind, dimensions, dtype, optional=True)
    if not _is_absent(kind) and (not kind.mutable or (kind.layout != "C" and not rows_only)):
        raise TypingError(f"out is {kind}, must be C-contiguous and writable")


# ---- products ------------------------------------------------------------------------------------------------------


@_overload(linear)
def _linear(
    x: Any, weight: Any, bias: Any = None, activation: Any = None, gate: Any = None, residual: Any = None,
    out: Any = None,
) -> Any:  # fmt: skip
    if not isinstance(weight, PackedWeightType) or weight.stored == "float64":
        raise TypingError(
            f"weight is {weight}, must be what fastsedd_kernels.pack returns, of float32, bfloat16 or int8"
        )
    _require("x", x, (2,))
    _require("bias", bias, (1,), optional=True)
    _require("gate", gate, (1, 2), optional=True)
    _require("residual", residual, (2,), optional=True)
    _require_out(out, (2,))
    number = ACTIVATIONS[_constant("activation", activation, tuple(ACTIVATIONS))]
    multiply, within = _multiply[weight.words], block_limits(limits(), weight.words)
    in_place = weight.stored == "float32"
    as_rows = _given if in_place else register_jitable(lambda x: np.ascontiguousarray(x))
    bias_of, residual_of, target = _or_empty(bias, 1), _or_empty(residual, 2), _or_new(out, np.float32)
    gate_of = _or_empty(gate, 2)
    if isinstance(gate, types.Array) and gate.ndim == 1:
        gate_of = register_jitable(lambda gate: np.ascontiguousarray(gate).reshape(1, -1))
    quantised = register_jitable(
        (lambda weight: (weight.scales, weight.corrections)) if weight.stored == "int8" else (lambda weight: ())
    )

    def implementation(
        x: Any, weight: Any, bias: Any = None, activation: Any = None, gate: Any = None, residual: Any = None,
        out: Any = None,
    ) -> Any:  # fmt: skip
        outputs, inputs = weight.shape
        if x.shape[1] != inputs:
            raise ValueError("x must be [rows, inputs] for this weight")
        result = target(out, (x.shape[0], outputs))
        offsets, gates, added = bias_of(bias), gate_of(gate), residual_of(residual)
        if offsets.size > 0 and offsets.size != outputs:
            raise ValueError("bias must be [outputs]")
        if gates.size > 0 and (gates.shape[1] != outputs or x.shape[0] % gates.shape[0] != 0):
            raise ValueError("gate must be [outputs], or [groups, outputs] for equal groups of rows")
        if added.size > 0 and added.shape != result.shape:
            raise ValueError("residual must have the result's shape")
        if result.size > 0:
            mc, kc, group = blocks(weight.panels.shape[1], *within)
            parts = (offsets, np.intp(number), gates, added) + quantised(weight)  # noqa: RUF005, Numba has no *
            one = np.intp(1)
            multiply(1, (as_rows(x), weight.panels, parts, result, False, one, one, mc, kc, group))
        return result

    return implementation


@_overload(matmul)
def _matmul(a: Any, b: Any, out: Any = None) -> Any:
    for name, each in (("a", a), ("b", b)):
        _require(name, each, (2,), float32, types.float64)
    if a.dtype != b.dtype:
        raise TypingError(f"a has dtype {a.dtype} and b {b.dtype}: they must be equal")
    _require_out(out, (2,), a.dtype)
    dtype = np.dtype(a.dtype.name)
    real = dtype.type
    multiply, pack, within, nr = _multiply[dtype], _pack[dtype], block_limits(limits(), dtype), COLUMNS[dtype]
    target = _or_new(out, real)
    no_parts = register_jitable(
        (lambda: (np.empty(0, real), np.intp(IDENTITY), np.empty((0, 0), real), np.empty((0, 0), real)))
        if dtype == np.float32
        else (lambda: ())
    )

    def implementation(a: Any, b: Any, out: Any = None) -> Any:
        if a.shape[1] != b.shape[0]:
            raise ValueError("a must be [M, K] and b [K, N]")
        rows, depth, columns = a.shape[0], a.shape[1], b.shape[1]
        result = target(out, (rows, columns))
        if rows == 0 or columns == 0 or depth == 0:
            result[:] = 0
            return result
        mc, kc, group = blocks(depth, *within)
        widest = -(-min(columns, MOST_COLUMNS) // nr)
        memory = np.empty(widest * nr * kc, real)
        one = np.intp(1)
        for first in range(0, columns, MOST_COLUMNS):
            last = min(columns, first + MOST_COLUMNS)
            count = -(-(last - first) // nr)
            for k in range(0, depth, kc):
                end = min(depth, k + kc)
                panels = memory[: count * (end - k) * nr].reshape((count, end - k, nr))
                pack(-(-count // PANELS_A_TASK), (b[k:end, first:last].T, panels, PANELS_A_TASK))
                parts = no_parts()
                multiply(1, (a[:, k:end], panels, parts, result[:, first:last], k > 0, one, one, mc, end - k, group))
        return result

    return implementation


# ---- attention -----------------------------------------------------------------------------------------------------


@_overload(attention)
def _attention(
    q: Any, k: Any, v: Any, scale: Any = None, causal: Any = False, out: Any = None, dtype: Any = "float32"
) -> Any:  # fmt: skip
    for name, each in (("q", q), ("k", k), ("v", v)):
        _require(name, each, (4,))
    _require_out(out, (4,))
    words = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(np.uint32)}[
        _constant("dtype", dtype, ("float32", "bfloat16"))
    ]
    call, block, like = _attend[words], query_block(words), words.type
    target = _or_new(out, np.float32)
    factor = register_jitable(
        (lambda scale, dim: 1 / math.sqrt(dim)) if _is_absent(scale) else (lambda scale, dim: scale)
    )
    rows_of = {
        each: _given if each.layout == "C" else register_jitable(lambda x: np.ascontiguousarray(x))
        for each in (q, k, v)
    }
    rows_q, rows_k, rows_v = rows_of[q], rows_of[k], rows_of[v]

    def implementation(
        q: Any, k: Any, v: Any, scale: Any = None, causal: Any = False, out: Any = None, dtype: Any = "float32"
    ) -> Any:  # fmt: skip
        if q.size == 0 or k.size == 0 or k.shape != v.shape or k.shape[:2] != q.shape[:2] or k.shape[3] != q.shape[3]:
            raise ValueError("q must be [B, heads, L, D] with elements, k and v [B, heads, S, D]")
        result = target(out, q.shape)
        one, size = np.intp(1), np.intp(block)
        call(
            1,
            (
                rows_q(q), rows_k(k), rows_v(v), np.float32(factor(scale, q.shape[3])), bool(causal), result,
                one, one, size, np.empty(0, like),
            ),
        )  # fmt: skip
        return result

    return implementation


# ---- norms, activations, embedding, draws --------------------------------------------------------------------------


@_overload(layer_norm)
def _layer_norm(
    x: Any, weight: Any = None, bias: Any = None, shift: Any = None, scale: Any = None, eps: Any = 1e-5, out: Any = None
) -> Any:  # fmt: skip
    _require("x", x, (1, 2, 3, 4))
    for name, each in (("weight", weight), ("bias", bias)):
        _require(name, each, (1,), optional=True)
    for name, each in (("shift", shift), ("scale", scale)):
        _require(name, each, (2,), optional=True)
    if _is_absent(shift) != _is_absent(scale):
        raise TypingError("shift and scale go together: one of them is missing")
    _require_out(out, (x.ndim,))
    weight_of, bias_of, shift_of, scale_of = (
        _or_empty(weight, 1), _or_empty(bias, 1), _or_empty(shift, 2), _or_empty(scale, 2)
    )  # fmt: skip
    target = _or_new(out, np.float32)

    def implementation(
        x: Any, weight: Any = None, bias: Any = None, shift: Any = None, scale: Any = None, eps: Any = 1e-5,
        out: Any = None,
    ) -> Any:  # fmt: skip
        width = x.shape[-1]
        result = target(out, x.shape)
        factors, offsets, shifts, scales = weight_of(weight), bias_of(bias), shift_of(shift), scale_of(scale)
        if (factors.size > 0 and factors.size != width) or (offsets.size > 0 and offsets.size != width):
            raise ValueError("weight and bias must be [N]")
        if result.size > 0:
            rows = result.size // width
            if shifts.shape != scales.shape or (
                shifts.size > 0 and (shifts.shape[1] != width or rows % shifts.shape[0] != 0)
            ):
                raise ValueError("shift and scale must be [groups, N] for equal groups of rows")
            _normalise(
                1,
                (
                    np.ascontiguousarray(x).reshape((rows, width)), factors, offsets, shifts, scales, np.float32(eps),
                    result.reshape((rows, width)), np.intp(1),
                ),
            )  # fmt: skip
        return result

    return implementation


@_overload(softmax)
def _softmax_overload(x: Any, out: Any = None) -> Any:
    _require("x", x, (1, 2, 3, 4))
    _require_out(out, (x.ndim,))
    target = _or_new(out, np.float32)

    def implementation(x: Any, out: Any = None) -> Any:
        result = target(out, x.shape)
        if result.size > 0:
            width = x.shape[-1]
            rows = result.size // width
            _softmax(1, (np.ascontiguousarray(x).reshape((rows, width)), result.reshape((rows, width)), np.intp(1)))
        return result

    return implementation


def _elementwise(x: Any, out: Any, number: int) -> Any:
    """An njit function of (x, out), for the activation of that number."""
    _require("x", x, (1, 2, 3, 4))
    _require_out(out, (x.ndim,))
    target = _or_new(out, np.float32)

    @register_jitable
    def computed(x: Any, out: Any) -> Any:
        result = target(out, x.shape)
        tasks = -(-result.size // CHUNK)
        _activate(tasks, (np.ascontiguousarray(x).reshape(-1), np.intp(number), result.reshape(-1)))
        return result

    return computed


@_overload(gelu)
def _gelu(x: Any, approximate: Any = "none", out: Any = None) -> Any:
    exact = _constant("approximate", approximate, ("none", "tanh")) == "none"
    computed = _elementwise(x, out, GELU if exact else GELU_TANH)

    def implementation(x: Any, approximate: Any = "none", out: Any = None) -> Any:
        return computed(x, out)

    return implementation


@_overload(silu)
def _silu(x: Any, out: Any = None) -> Any:
    computed = _elementwise(x, out, SILU)

    def implementation(x: Any, out: Any = None) -> Any:
        return computed(x, out)

    return implementation


@_overload(embedding)
def _embedding(tokens: Any, table: Any, positions: Any = None, out: Any = None) -> Any:
    if not isinstance(tokens, types.Array) or tokens.ndim != 1 or not isinstance(tokens.dtype, types.Integer):
        raise TypingError(f"tokens is {tokens}, must be integers of 1 dimension")
    _require("table", table, (2,))
    _require("positions", positions, (2,), optional=True)
    _require_out(out, (2,))
    positions_of, target = _or_empty(positions, 2), _or_new(out, np.float32)

    def implementation(tokens: Any, table: Any, positions: Any = None, out: Any = None) -> Any:
        length, width = tokens.size, table.shape[1]
        result = target(out, (length, width))
        added = positions_of(positions)
        if added.size > 0 and (added.shape[0] < length or added.shape[1] != width):
            raise ValueError("positions must be [L or more, N]")
        for token in tokens:
            if token < 0 or token >= table.shape[0]:
                raise ValueError("tokens must be 0 to V - 1")
        if length > 0:
            one = np.intp(1)
            _gather(
                1, (tokens.astype(np.intp), np.ascontiguousarray(table), added, np.intp(length), result, one)
            )  # fmt: skip
        return result

    return implementation


@_overload(sample_categorical)
def _sample(probabilities: Any, seed: Any, offset: Any = 0, method: Any = "exact", out: Any = None) -> Any:
    _require("probabilities", probabilities, (2,))
    _require_out(out, (1,), types.int32)
    official = _constant("method", method, METHODS) == "official"
    target = _or_new(out, np.int32)

    def implementation(
        probabilities: Any, seed: Any, offset: Any = 0, method: Any = "exact", out: Any = None
    ) -> Any:  # fmt: skip
        rows = probabilities.shape[0]
        if probabilities.shape[1] == 0:
            raise ValueError("probabilities must be [rows, V] with V at least 1")
        drawn = target(out, (rows,))
        streams = np.empty(rows, np.uint64)
        for row in range(rows):
            streams[row] = np.uint64(offset) + np.uint64(row)
        _draw(tasks_for(rows), (np.ascontiguousarray(probabilities), np.uint64(seed), streams, official, drawn))
        for row in range(rows):
            if drawn[row] < 0:
                raise ValueError("probabilities has a row without a positive weight")
        return drawn

    return implementation
