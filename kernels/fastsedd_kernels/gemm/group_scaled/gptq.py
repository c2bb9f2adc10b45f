"""Weights from checkpoints of GPTQ and AWQ: the same codes, scales and zero points, in panels.

    w[n, k] = scale[g, n] * (code[k, n] - zero[g, n]),      g = k // group

    GPTQ    qweight int32 [K / 8, N]: a word holds 8 neighbouring k of a column, the first in the lowest bits
            qzeros  int32 [K / group, N / 8]: 8 neighbouring columns, likewise; "gptq": each one less than it is
    AWQ     qweight int32 [K, N / 8], qzeros int32 [K / group, N / 8]: a word holds 8 neighbouring columns, in the order
            0 2 4 6 1 3 5 7

Sources: Frantar et al. 2023 (GPTQ); Lin et al. 2024 (AWQ); the layouts are those of AutoGPTQ and AutoAWQ.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastsedd_kernels.gemm.group_scaled.microkernel import GROUP
from fastsedd_kernels.gemm.group_scaled.storage import SCALE, ZERO, Quantised
from fastsedd_kernels.gemm.packed_weight import PackedWeight, from_groups
from fastsedd_kernels.runtime.arrays import as_array, as_integers

_PER_WORD = 8
_MIDDLE = 8  # the zero point of weights that were quantised symmetrically
_AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]  # of a word's nibbles, from the lowest bits up, among its columns
_CHECKPOINT_FORMATS = {"gptq": 1, "gptq_v2": 0}  # what is added to a stored zero point


def pack_gptq(
    qweight: ArrayLike,
    qzeros: ArrayLike,
    scales: ArrayLike,
    g_idx: ArrayLike | None = None,
    checkpoint_format: str = "gptq",
) -> PackedWeight:
    """Pack a layer of a GPTQ checkpoint of 4 bits for `linear`, as "int4".

    qweight : int32 [inputs / 8, outputs]; qzeros : int32 [inputs / group, outputs / 8]
    scales : float16 [inputs / group, outputs], or float32 of such values; group : a multiple of 32, or all inputs
    g_idx : integers [inputs], each input's group, which must be the groups in order
    checkpoint_format : "gptq", or "gptq_v2", as the checkpoint's quantize_config states it
    Memory per value: 4.5 bits for groups of 32, 4.13 of 128; 0.25 more with zero points other than 8.
    Raises ValueError for other shapes, groups that are permuted (act-order), and scales that float16 does not hold.
    """
    if checkpoint_format not in _CHECKPOINT_FORMATS:
        allowed = ", ".join(map(repr, _CHECKPOINT_FORMATS))
        raise ValueError(f"checkpoint_format is {checkpoint_format!r}, allowed: {allowed}")
    words = _words("qweight", qweight)
    codes = _nibbles(words).swapaxes(1, 2).reshape(-1, words.shape[1]).T
    stored = _words("qzeros", qzeros)
    zeros = _nibbles(stored).reshape(len(stored), -1) + np.uint8(_CHECKPOINT_FORMATS[checkpoint_format])
    return _packed(codes, zeros, scales, g_idx)


def pack_awq(qweight: ArrayLike, qzeros: ArrayLike, scales: ArrayLike) -> PackedWeight:
    """Pack a layer of an AWQ checkpoint of 4 bits, in its "gemm" version, for `linear`, as "int4".

    qweight : int32 [inputs, outputs / 8]; qzeros : int32 [inputs / group, outputs / 8]
    scales : float16 [inputs / group, outputs], or float32 of such values; group : a multiple of 32, or all inputs
    Memory per value and errors as of `pack_gptq`.
    """
    codes, zeros = (_in_columns(_words(name, value)) for name, value in (("qweight", qweight), ("qzeros", qzeros)))
    return _packed(codes.T, zeros, scales, None)


def _words(name: str, value: ArrayLike) -> NDArray[np.int32]:
    array = as_array(name, value, np.int32)
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"{name} has shape {array.shape}, must be two-dimensional, with elements")
    return np.ascontiguousarray(array)


def _nibbles(words: NDArray[np.int32]) -> NDArray[np.uint8]:
    """[A, B] words as [A, B, 8], from the lowest bits up."""
    pairs = words.astype("<i4", copy=False).view(np.uint8).reshape(*words.shape, 4)
    return np.stack([pairs & 15, pairs >> 4], axis=3).reshape(*words.shape, _PER_WORD)


def _in_columns(words: NDArray[np.int32]) -> NDArray[np.uint8]:
    """AWQ's words [A, B] as [A, 8 B]."""
    columns = np.empty((*words.shape, _PER_WORD), np.uint8)
    columns[..., _AWQ_ORDER] = _nibbles(words)
    return columns.reshape(len(words), -1)


def _packed(
    codes: NDArray[np.uint8], zeros: NDArray[np.uint8], scales: ArrayLike, g_idx: ArrayLike | None
) -> PackedWeight:
    """codes : [outputs, inputs]; zeros : [inputs / group, outputs]"""
    outputs, inputs = codes.shape
    factors = as_array("scales", scales, np.float16, np.float32)
    if factors.ndim != 2 or factors.shape[1] != outputs or len(factors) == 0:
        raise ValueError(f"scales has shape {factors.shape}, must be [inputs / group, {outputs}] for this qweight")
    group = inputs // len(factors)
    if group * len(factors) != inputs or group % GROUP != 0:
        raise ValueError(f"scales has {len(factors)} groups of {inputs} inputs, allowed: of a multiple of {GROUP} each")
    if zeros.shape != factors.shape:
        raise ValueError(f"qzeros holds {zeros.shape} zero points, must be as many as scales: {factors.shape}")
    if g_idx is not None and not np.array_equal(as_integers("g_idx", g_idx), np.arange(inputs) // group):
        raise ValueError("g_idx permutes the inputs (act-order, desc_act), allowed: groups of neighbouring inputs")
    with np.errstate(over="ignore"):
        halves = factors.astype(np.float16)
    if not np.isfinite(halves).all() or (halves != factors).any():
        raise ValueError("scales holds a value that is no finite float16")
    form, span = (SCALE if (zeros == _MIDDLE).all() else ZERO), group // GROUP
    small = np.repeat(zeros.T, span, axis=1)[..., None] if form == ZERO else np.empty((outputs, inputs // GROUP, 0))
    return from_groups([Quantised(codes, halves.T[..., None], small.astype(np.uint8), form, span, inputs)])
