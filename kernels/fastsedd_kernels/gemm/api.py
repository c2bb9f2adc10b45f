"""`linear`, `matmul`, `strassen_matmul`: arguments checked and brought into the kernels' shapes, then one call down."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastsedd_kernels.activation.table import ACTIVATIONS, IDENTITY
from fastsedd_kernels.gemm.blocking import plan
from fastsedd_kernels.gemm.epilogue import ROWS_PER_TASK, finish_rows
from fastsedd_kernels.gemm.gemv import FEW_ROWS, is_streamable, multiply_few_rows
from fastsedd_kernels.gemm.group_scaled.blocking import partition
from fastsedd_kernels.gemm.group_scaled.kernel import multiply_groups
from fastsedd_kernels.gemm.macrokernel import MULTIPLY
from fastsedd_kernels.gemm.packed_weight import GROUPED, PackedWeight, pack
from fastsedd_kernels.gemm.slabs import multiply_slabs
from fastsedd_kernels.gemm.strassen import product as strassen
from fastsedd_kernels.gemm.strassen.crossover import levels_that_pay
from fastsedd_kernels.gemm.strassen.product import MAX_LEVELS
from fastsedd_kernels.runtime.arrays import (
    as_array,
    as_rows,
    check_apart,
    contiguous,
    copied,
    groups_of_rows,
    output_like,
    output_rows_like,
    with_adjacent_elements,
)
from fastsedd_kernels.runtime.capture import run
from fastsedd_kernels.runtime.threads import get_num_threads

_REALS = np.dtype(np.float32), np.dtype(np.float64)
_NO_VECTOR = np.empty(0, np.float32)
_NO_MATRIX = np.empty((0, 0), np.float32)


def linear(
    x: ArrayLike,
    weight: PackedWeight | ArrayLike,
    bias: ArrayLike | None = None,
    activation: str | None = None,
    gate: ArrayLike | None = None,
    residual: ArrayLike | None = None,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """residual + gate * activation(x @ weight.T + bias), every part but the product optional.

    A pair of weights, each with its bias, has activation(x @ w1.T + b1) * (x @ w2.T + b2) in the activation's place:
    SwiGLU ("silu"), GeGLU ("gelu", "gelu_tanh").

    x : float32 [..., inputs]
    weight : from `pack`, or float32 [outputs, inputs], which is packed on every call
    bias : float32 [outputs]; of a pair [2 outputs], the first weight's and then the second's
    activation : None, "gelu" (erf), "gelu_tanh" or "silu"
    gate : float32, broadcast to the result; fastest where it is constant over all rows or over each of equal runs of
        rows ([outputs], [1, outputs], [batch, 1, outputs])
    residual : float32 of the result's shape; it may be `out`
    out : float32 [..., outputs], its rows equally far apart (`padded_empty`); it must not overlap x, bias or gate
    Accumulates in float32 in the order of the inputs; the result's bits depend on nothing else, not on threads.
    With a bfloat16 weight x is rounded to bfloat16 first; with an int8 weight, to whole 127ths of the largest magnitude
    of each row, and sums are exact: a row of x that holds a NaN or an infinity becomes NaN throughout. With a weight in
    groups ("int8g", "int4") the same holds of every 128 inputs of each row.
    Raises ValueError for a wrong dtype or shape, naming the argument.
    """
    packed = weight if isinstance(weight, PackedWeight) else pack(weight)
    if packed.dtype == "float64":
        raise ValueError("weight is packed as float64, allowed: float32, bfloat16, int8, int8g, int4")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation is {activation!r}, allowed: {', '.join(map(repr, ACTIVATIONS))}")
    x = as_array("x", x)
    outputs, inputs = packed.shape
    if x.ndim == 0 or x.shape[-1] != inputs:
        raise ValueError(f"x has shape {x.shape}, must be [..., {inputs}] for this weight")
    shape = (*x.shape[:-1], outputs)
    given, out = out is not None, output_rows_like("out", out, shape)
    if out.size == 0:
        return out
    target = as_rows(out)
    gates = _NO_MATRIX if gate is None else groups_of_rows("gate", gate, shape)
    added, kept = _bias(bias, 2 * outputs if packed.paired else outputs), _residual(residual, shape)
    if given:  # a new array overlaps none
        check_apart(out, x=x, bias=added, gate=gates)
        if residual is not None:
            check_apart(out, in_place=True, residual=kept)
    parts: tuple[Any, ...] = (added, ACTIVATIONS[activation], gates, kept, packed.paired)
    if packed.strassen > 0:
        _linear_by_strassen(as_rows(x), packed, parts, target)
    elif packed.dtype in GROUPED:
        _linear_by_groups(x, packed, parts, target)
    else:
        _linear_by_panels(x, packed, parts, target)
    return out


def _linear_by_panels(
    x: NDArray[np.float32], packed: PackedWeight, parts: tuple[Any, ...], out: NDArray[np.float32]
) -> None:
    """`linear` of a weight that has no scales, or one for each output."""
    panels = packed.panels
    arranged = plan(get_num_threads(), len(out), panels.shape[1], len(panels), panels.dtype)
    x = as_rows(x) if packed.dtype == "float32" else as_rows(with_adjacent_elements(x))
    parts = (*parts, *packed.quantisation)
    MULTIPLY[panels.dtype](arranged[0] * arranged[1], x, panels, parts, out, False, arranged)


def _linear_by_groups(
    x: NDArray[np.float32], packed: PackedWeight, parts: tuple[Any, ...], out: NDArray[np.float32]
) -> None:
    """`linear` of a weight in groups."""
    groups = packed.quantisation[1].shape[1]
    cut = partition(get_num_threads(), len(out), groups, len(packed.panels))
    stored = (packed.panels, *packed.quantisation)
    multiply_groups(cut[0] * cut[1], as_rows(with_adjacent_elements(x)), stored, parts, out, cut)


def _linear_by_strassen(
    x: NDArray[np.float32], packed: PackedWeight, parts: tuple[Any, ...], out: NDArray[np.float32]
) -> None:
    """`linear` of rows, by products that are added up in out: what follows them has to wait for the last."""
    bias, activation, gates, residual, paired = parts
    if np.may_share_memory(residual, out):
        residual = copied(residual, np.float32)
    strassen.multiply_packed(x, packed.panels, out, packed.strassen)
    if activation != IDENTITY or bias.size + gates.size + residual.size > 0:
        finish_rows(-(-len(out) // ROWS_PER_TASK), (bias, activation, gates, residual, paired), out)


def matmul(a: ArrayLike, b: ArrayLike, out: NDArray[Any] | None = None) -> NDArray[Any]:
    """a @ b as numpy.matmul, for 2-D operands and batches of them.

    a : float32 or float64 [..., M, K]; b : the same dtype [..., K, N]; leading dimensions broadcast; any strides
    out : [..., M, N] of that dtype, C-contiguous, overlapping neither operand
    Sums are taken in that dtype. Few rows, or columns, have a route of their own, whose last bits may differ.
    Raises ValueError for a wrong dtype or shape, naming the argument.
    """
    a, b, out = _operands(a, b, out)
    for product in _batch(a, b, out):
        _multiply(*product)
    return out


def strassen_matmul(
    a: ArrayLike, b: ArrayLike, levels: int | None = None, out: NDArray[Any] | None = None
) -> NDArray[Any]:
    """a @ b with seven products of half the size for eight, `levels` times over; see `strassen`.

    a, b, out : as for `matmul`
    levels : 0, which is `matmul`; 1; 2; or None: as many as pay for a product of this size (`crossover`)
    An error is bounded in relation to the largest elements of a and b, and not, as in `matmul`, to a row and a column;
    each level multiplies the bound by up to 12, and the error, as measured, by 1.5. A NaN or an infinity in an operand
    may spread over all of the result. One slab of B, 4,096 columns at most, is held in 7/4 of its memory per level.
    Raises ValueError for a wrong dtype, shape or number of levels, naming the argument.
    """
    if levels is not None and levels not in range(MAX_LEVELS + 1):
        raise ValueError(f"levels is {levels!r}, allowed: None, 0 to {MAX_LEVELS}")
    a, b, out = _operands(a, b, out)
    if levels is None:
        levels = levels_that_pay(a.shape[-2], a.shape[-1], b.shape[-1])
    for product in _batch(a, b, out):
        if levels == 0:
            _multiply(*product)
        else:
            strassen.multiply(*product, levels)
    return out


def _operands(a: ArrayLike, b: ArrayLike, out: NDArray[Any] | None) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """a, b and where their product goes, checked and with equal batches."""
    a, b = as_array("a", a, *_REALS), as_array("b", b, *_REALS)
    if a.dtype != b.dtype:
        raise ValueError(f"a has dtype {a.dtype} and b {b.dtype}: they must be equal")
    if a.ndim < 2 or b.ndim < 2 or a.shape[-1] != b.shape[-2]:
        raise ValueError(f"a has shape {a.shape} and b {b.shape}, must be [..., M, K] and [..., K, N]")
    given = out is not None
    if a.ndim == b.ndim == 2:  # the usual case, without a detour
        out = output_like("out", out, (a.shape[0], b.shape[1]), a.dtype)
        if given:
            check_apart(out, a=a, b=b)
        return a, b, out
    try:
        batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    except ValueError:
        raise ValueError(f"a has shape {a.shape} and b {b.shape}: their batches do not broadcast") from None
    out = output_like("out", out, (*batch, a.shape[-2], b.shape[-1]), a.dtype)
    if given:
        check_apart(out, a=a, b=b)
    return np.broadcast_to(a, (*batch, *a.shape[-2:])), np.broadcast_to(b, (*batch, *b.shape[-2:])), out


def _batch(
    a: NDArray[Any], b: NDArray[Any], out: NDArray[Any]
) -> Iterator[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]:
    """Each product of the batch that has any work; out is 0 where there are no products to sum."""
    if out.size == 0 or a.shape[-1] == 0:
        run(operator.setitem, out, ..., 0)
        return
    if out.ndim == 2:
        yield a, b, out
        return
    for position in np.ndindex(*out.shape[:-2]):
        yield a[position], b[position], out[position]


def _multiply(a: NDArray[Any], b: NDArray[Any], out: NDArray[Any]) -> None:
    """out [M, N] = a [M, K] . b [K, N]: by streaming the larger operand if the other has few rows or columns."""
    if a.shape[0] <= FEW_ROWS and is_streamable(b):
        multiply_few_rows(a, b, out)
    elif b.shape[1] <= FEW_ROWS and is_streamable(a.T):
        multiply_few_rows(b.T, a.T, out.T)
    else:
        multiply_slabs(a, b, out)


def _bias(bias: ArrayLike | None, outputs: int) -> NDArray[np.float32]:
    if bias is None:
        return _NO_VECTOR
    array = as_array("bias", bias)
    if array.shape != (outputs,):
        raise ValueError(f"bias has shape {array.shape}, must be ({outputs},)")
    return contiguous(array)


def _residual(residual: ArrayLike | None, shape: tuple[int, ...]) -> NDArray[np.float32]:
    if residual is None:
        return _NO_MATRIX
    array = as_array("residual", residual)
    if array.shape != shape:
        raise ValueError(f"residual has shape {array.shape}, must be {shape}")
    return contiguous(array).reshape(-1, shape[-1])
