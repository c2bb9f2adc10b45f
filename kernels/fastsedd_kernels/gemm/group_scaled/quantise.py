"""Float weights in groups of 32: codes and scales.

    int4                 s = the element of largest magnitude / -8, in float16;  q = round(w / s), -8 to 7
    int4, minimum        s = (largest - least) / 15, m = least, in float16;      q = round((w - m) / s), 0 to 15
    int8g                s = largest magnitude / 127, in float16;                q = round(w / s), -127 to 127
    int8g, minimum       s = (largest - least) / 254, m = their mean;            q = round((w - m) / s), -127 to 127

Codes are rounded with the scale as it is stored. The symmetric int4 is GGUF's Q4_0, which has the sign in the scale so
that the element of largest magnitude is one of the 16 values.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fastsedd_kernels.gemm.group_scaled.storage import (
    FOUR_BITS,
    MINIMUM,
    SCALE,
    Quantised,
    padded_to_groups,
)

_ROWS_AT_ONCE = 256


def quantise(weight: NDArray[np.float32], dtype: str, minimum: bool) -> Quantised:
    """The weight [N, K] as "int4" or "int8g". Raises ValueError where it is not finite or beyond float16's range."""
    parts = [
        _quantised(padded_to_groups(weight[first : first + _ROWS_AT_ONCE]), dtype, minimum)
        for first in range(0, len(weight), _ROWS_AT_ONCE)
    ]
    codes, halves = (np.concatenate(each) for each in zip(*parts, strict=True))
    if not np.isfinite(halves).all():
        raise ValueError(
            f"weight holds a NaN, an infinity or a value too large for float16 scales, which {dtype} cannot"
        )
    small = np.empty((*halves.shape[:2], 0), np.uint8)
    return Quantised(codes.reshape(len(weight), -1), halves, small, MINIMUM if minimum else SCALE, 1, weight.shape[1])


def _quantised(
    groups: NDArray[np.float32], dtype: str, minimum: bool
) -> tuple[NDArray[np.uint8] | NDArray[np.int8], NDArray[np.float16]]:
    """Codes [N, groups, 32] and halves [N, groups, fields] of float32 [N, groups, 32]."""
    least, most = groups.min(axis=2), groups.max(axis=2)
    four_bits = dtype == FOUR_BITS
    with np.errstate(over="ignore", invalid="ignore"):
        if minimum:
            scale = (most - least) / np.float32(15 if four_bits else 254)
            halves = np.stack([scale, least if four_bits else (most + least) / 2], axis=2).astype(np.float16)
            groups = groups - halves[..., 1:].astype(np.float32)
        elif four_bits:
            halves = (np.where(-least > most, least, most) / np.float32(-8))[..., None].astype(np.float16)
        else:
            halves = (np.maximum(most, -least) / np.float32(127))[..., None].astype(np.float16)
        step = halves[..., :1].astype(np.float32)
        steps = np.rint(np.divide(groups, step, out=np.zeros_like(groups), where=step != 0))
    if not four_bits:
        return np.nan_to_num(steps).clip(-127, 127).astype(np.int8), halves
    return np.nan_to_num(steps + (0 if minimum else 8)).clip(0, 15).astype(np.uint8), halves
