"""`linear`, `matmul` and packed weights inside njit functions; see `runtime/inside_numba`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import float32, types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.extending import (
    NativeValue,
    make_attribute_wrapper,
    models,
    register_jitable,
    register_model,
    typeof_impl,
    unbox,
)

from fastsedd_kernels.activation.table import ACTIVATIONS
from fastsedd_kernels.gemm.api import linear, matmul
from fastsedd_kernels.gemm.blocking import MAX_COLUMNS, block_limits, blocks
from fastsedd_kernels.gemm.dot_products import COLUMNS, NUMPY
from fastsedd_kernels.gemm.group_scaled import blocking as group_blocking
from fastsedd_kernels.gemm.group_scaled.kernel import WEIGHT, multiply_groups
from fastsedd_kernels.gemm.macrokernel import MULTIPLY, MULTIPLY_PLAIN
from fastsedd_kernels.gemm.pack_b import PACK, PANELS_PER_TASK
from fastsedd_kernels.gemm.packed_weight import GROUPED, PackedWeight
from fastsedd_kernels.gemm.tuned_blocks import limits
from fastsedd_kernels.runtime.inside_numba import (
    caller,
    constant,
    implements,
    in_whole_elements,
    or_empty,
    or_new,
    require,
    require_out,
)

# A body has one signature: arrays in it differ in what is known of them, not in what they are, and need no conversion.
_multiply = {dtype: caller(kernel) for dtype, kernel in MULTIPLY.items()}
_multiply_plain = {dtype: caller(kernel) for dtype, kernel in MULTIPLY_PLAIN.items()}
_pack = {dtype: caller(kernel) for dtype, kernel in PACK.items()}
_multiply_groups = caller(multiply_groups)

register_jitable(blocks)

# The arrays of `PackedWeight.quantisation`, by dtype.
_GROUPS = tuple(zip(("halves", "small", "facts"), WEIGHT[1:], strict=True))
_QUANTISATION: dict[str, tuple[tuple[str, Any], ...]] = {
    "int8": (
        ("scales", types.Array(float32, 1, "C", readonly=True)),
        ("corrections", types.Array(types.int32, 1, "C", readonly=True)),
    ),
    **dict.fromkeys(GROUPED, _GROUPS),
}


class PackedWeightType(types.Type):  # type: ignore[misc]
    """A PackedWeight of one dtype, in njit functions: an argument, which is read only."""

    def __init__(self, stored: str, words: Any, paired: bool) -> None:
        self.stored, self.words, self.paired = stored, np.dtype(words), paired
        self.panels = types.Array(NUMPY[self.words], 3, "C", readonly=True)
        super().__init__(f"PackedWeight({stored}{', paired' if paired else ''})")

    @property
    def fields(self) -> list[tuple[str, Any]]:
        shape = types.UniTuple(types.intp, 2)
        return [("panels", self.panels), ("shape", shape), *_QUANTISATION.get(self.stored, ())]


@typeof_impl.register(PackedWeight)
def _type_of_packed(value: PackedWeight, context: Any) -> PackedWeightType:
    return PackedWeightType(value.dtype, value.panels.dtype, value.paired)


@register_model(PackedWeightType)
class _PackedWeightModel(models.StructModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: PackedWeightType) -> None:
        super().__init__(manager, kind, kind.fields)


for _name in {"panels", "shape", *(name for parts in _QUANTISATION.values() for name, _ in parts)}:
    make_attribute_wrapper(PackedWeightType, _name, _name)


@unbox(PackedWeightType)
def _unbox_packed(kind: PackedWeightType, value: Any, c: Any) -> NativeValue:
    native = cgutils.create_struct_proxy(kind)(c.context, c.builder)
    parts = c.pyapi.object_getattr_string(value, "quantisation")
    places = {name: place for place, (name, _) in enumerate(_QUANTISATION.get(kind.stored, ()))}
    for name, each in kind.fields:
        if name in places:
            part = c.pyapi.tuple_getitem(parts, places[name])
            c.pyapi.incref(part)
        else:
            part = c.pyapi.object_getattr_string(value, name)
        setattr(native, name, c.unbox(each, part).value)
        c.pyapi.decref(part)
    c.pyapi.decref(parts)
    return NativeValue(native._getvalue(), is_error=cgutils.is_not_null(c.builder, c.pyapi.err_occurred()))


def _product(weight: PackedWeightType) -> Any:
    """An njit function of (x, weight, the epilogue's parts, result), for weights of that type."""
    one = np.intp(1)
    if weight.stored in GROUPED:
        l2 = group_blocking.l2_words()

        def of_groups(x: Any, weight: Any, parts: Any, result: Any) -> None:
            stored = (weight.panels, weight.halves, weight.small, weight.facts)
            mc = group_blocking.block_rows(weight.small.shape[1], l2)
            _multiply_groups(1, (np.ascontiguousarray(x), stored, parts, result, (one, one, mc)))

        return register_jitable(of_groups)
    multiply, within = _multiply[weight.words], block_limits(limits(), weight.words)
    as_rows = in_whole_elements if weight.stored == "float32" else register_jitable(lambda x: np.ascontiguousarray(x))
    quantised = register_jitable(
        (lambda weight: (weight.scales, weight.corrections)) if weight.stored == "int8" else (lambda weight: ())
    )

    def of_panels(x: Any, weight: Any, parts: Any, result: Any) -> None:
        mc, kc, group = blocks(weight.panels.shape[1], *within)
        every = parts + quantised(weight)
        multiply(1, (as_rows(x), weight.panels, every, result, False, (one, one, mc, kc, group)))

    return register_jitable(of_panels)


@implements(linear)
def _linear(
    x: Any, weight: Any, bias: Any = None, activation: Any = None, gate: Any = None, residual: Any = None,
    out: Any = None,
) -> Any:  # fmt: skip
    if not isinstance(weight, PackedWeightType) or weight.stored == "float64":
        raise TypingError(f"weight is {weight}, must be what fastsedd_kernels.pack returns, of any dtype but float64")
    require("x", x, (2,))
    require("bias", bias, (1,), optional=True)
    require("gate", gate, (1, 2), optional=True)
    require("residual", residual, (2,), optional=True)
    require_out(out, (2,))
    number = ACTIVATIONS[constant("activation", activation, tuple(ACTIVATIONS))]
    multiply, paired = _product(weight), weight.paired
    bias_of, residual_of, target = or_empty(bias, 1), or_empty(residual, 2), or_new(out, np.float32)
    gate_of = or_empty(gate, 2)
    if isinstance(gate, types.Array) and gate.ndim == 1:
        gate_of = register_jitable(lambda gate: np.ascontiguousarray(gate).reshape(1, -1))

    def implementation(
        x: Any, weight: Any, bias: Any = None, activation: Any = None, gate: Any = None, residual: Any = None,
        out: Any = None,
    ) -> Any:  # fmt: skip
        outputs, inputs = weight.shape
        if x.shape[1] != inputs:
            raise ValueError("x must be [rows, inputs] for this weight")
        result = target(out, (x.shape[0], outputs))
        offsets, gates, added = bias_of(bias), gate_of(gate), residual_of(residual)
        if offsets.size > 0 and offsets.size != (2 * outputs if paired else outputs):
            raise ValueError("bias must be [outputs], of a pair of weights [2 * outputs]")
        if gates.size > 0 and (gates.shape[1] != outputs or x.shape[0] % gates.shape[0] != 0):
            raise ValueError("gate must be [outputs], or [groups, outputs] for equal groups of rows")
        if added.size > 0 and added.shape != result.shape:
            raise ValueError("residual must have the result's shape")
        if result.size > 0:
            multiply(x, weight, (offsets, np.intp(number), gates, added, bool(paired)), result)
        return result

    return implementation


@implements(matmul)
def _matmul(a: Any, b: Any, out: Any = None) -> Any:
    for name, each in (("a", a), ("b", b)):
        require(name, each, (2,), float32, types.float64)
    if a.dtype != b.dtype:
        raise TypingError(f"a has dtype {a.dtype} and b {b.dtype}: they must be equal")
    require_out(out, (2,), a.dtype)
    dtype = np.dtype(a.dtype.name)
    real = dtype.type
    multiply, pack, within, nr = _multiply_plain[dtype], _pack[dtype], block_limits(limits(), dtype), COLUMNS[dtype]
    target = or_new(out, real)

    def implementation(a: Any, b: Any, out: Any = None) -> Any:
        if a.shape[1] != b.shape[0]:
            raise ValueError("a must be [M, K] and b [K, N]")
        rows, depth, columns = a.shape[0], a.shape[1], b.shape[1]
        in_whole_elements(a), in_whole_elements(b)
        result = target(out, (rows, columns))
        if rows == 0 or columns == 0 or depth == 0:
            result[:] = 0
            return result
        mc, kc, group = blocks(depth, *within)
        widest = -(-min(columns, MAX_COLUMNS) // nr)
        memory = np.empty(widest * nr * kc, real)
        one = np.intp(1)
        for first in range(0, columns, MAX_COLUMNS):
            last = min(columns, first + MAX_COLUMNS)
            count = -(-(last - first) // nr)
            for k in range(0, depth, kc):
                end = min(depth, k + kc)
                panels = memory[: count * (end - k) * nr].reshape((count, end - k, nr))
                pack(-(-count // PANELS_PER_TASK), (b[k:end, first:last].T, panels, PANELS_PER_TASK))
                multiply(1, (a[:, k:end], panels, result[:, first:last], k > 0, (one, one, mc, end - k, group)))
        return result

    return implementation
