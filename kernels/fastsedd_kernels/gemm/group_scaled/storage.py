"""Weights in groups of 32 inputs: what a group's codes and scales mean, and how panels hold them.

    w[n, k] = s[n, g] * q[n, k] + m[n, g],      g = k // 32

    q   of "int4": 0 to 15, less 8 in the symmetric form; of "int8": -128 to 127
    s, m by form, halves being float16 and small ones bytes without a sign:

    SCALE      s = half                        m = 0                         symmetric; GGUF's Q4_0 and Q8_0
    MINIMUM    s = half                        m = half                      GGUF's Q4_1
    ZERO       s = half                        m = -s * small                GPTQ, AWQ
    NESTED     s = half * small                m = -(half * small)           GGUF's Q4_K, with halves for 8 groups

A row of halves serves `span` groups. Panels, of NR outputs side by side, padded with zeros in both directions; BUNDLE
of them, and those that are left, lie side by side as few rows of x read them, in one stream. In memory:

    codes    int32 words [bundles, groups, 4 or 8, panels, NR]        of shape [all panels, groups * 4 or 8, NR]
    halves   uint16 [bundles, ceil(groups / span), panels, 1 or 2, NR]       of shape [all panels, ..., 1 or 2, NR]
    small    uint8 [bundles, groups, panels, 0 to 2, NR]                     of shape [all panels, groups, 0 to 2, NR]

A word holds four codes of neighbouring inputs, one to a byte; of four bits, two to a byte: a word's lower nibbles are
inputs 4 i to 4 i + 3 of the group, the upper 16 more.
Codes of eight bits are stored with ZERO_POINT added (`products`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastsedd_kernels.gemm.group_scaled.microkernel import BUNDLE, GROUP, NR
from fastsedd_kernels.gemm.group_scaled.products import ZERO_POINT
from fastsedd_kernels.gemm.pack_b import pack_into, read_only, side_by_side
from fastsedd_kernels.runtime.arrays import aligned_empty

SCALE, MINIMUM, ZERO, NESTED = range(4)
FOUR_BITS = "int4"
EIGHT_BITS = "int8g"
_MIDDLE = 8  # of four bits without a sign, which stands for 0 in the symmetric form

Panels = tuple[NDArray[Any], tuple[NDArray[Any], ...]]


class Weight(NamedTuple):
    """A packed weight in kernels. zero : subtracted from a stored code, it leaves q"""

    codes: Any
    halves: Any
    small: Any
    form: Any
    span: Any
    zero: Any


class Place(NamedTuple):
    """A panel in its bundle: panels before the bundle, those in it, and which of them it is."""

    before: Any
    panels: Any
    panel: Any


@dataclass(frozen=True)
class Quantised:
    """A weight [N, K] in groups, not packed yet.

    codes : uint8, 0 to 15, or int8 [N, groups * 32]; halves : float16 [N, ceil(groups / span), 1 or 2]
    small : uint8 [N, groups, 0 to 2]; form : SCALE, MINIMUM, ZERO or NESTED; inputs : K
    """

    codes: NDArray[Any]
    halves: NDArray[np.float16]
    small: NDArray[np.uint8]
    form: int
    span: int
    inputs: int

    @property
    def zero(self) -> int:
        """The code that stands for q = 0, without ZERO_POINT."""
        return _MIDDLE if self.codes.dtype == np.uint8 and self.form == SCALE else 0

    def values(self) -> NDArray[np.float32]:
        """The weight in float32 [N, K], each operation rounded once, as GGUF's own dequantisation does."""
        outputs, depth = self.codes.shape
        q = self.codes.reshape(outputs, -1, GROUP).astype(np.float32) - np.float32(self.zero)
        values = self._halves(0)[..., None] * q
        if self.form == NESTED:
            values = (self._halves(0) * self.small[..., 0])[..., None] * q
        if self.form != SCALE:
            values += self.minima()[..., None]
        return values.reshape(outputs, depth)[:, : self.inputs]

    def minima(self) -> NDArray[np.float32]:
        """m, float32 [N, groups]."""
        if self.form == MINIMUM:
            return self._halves(1)
        if self.form == ZERO:
            return -self._halves(0) * self.small[..., 0]
        if self.form == NESTED:
            return -self._halves(1) * self.small[..., 1]
        return np.zeros(self.small.shape[:2], np.float32)

    def _halves(self, field: int) -> NDArray[np.float32]:
        """A field of the halves in float32 [N, groups]."""
        return np.repeat(self.halves[..., field].astype(np.float32), self.span, axis=1)[:, : self.small.shape[1]]


def packed(weight: Quantised) -> Panels:
    """The weight in panels, read-only: codes; halves, small and (form, span, zero)."""
    outputs, depth = weight.codes.shape
    grouped = weight.codes.reshape(outputs, depth // GROUP, GROUP)
    four_bits = weight.codes.dtype == np.uint8
    if four_bits:
        stored = grouped[..., : GROUP // 2] | grouped[..., GROUP // 2 :] << 4
    else:
        stored = grouped.view(np.uint8) + np.uint8(ZERO_POINT)
    words = np.ascontiguousarray(stored).reshape(outputs, -1).view(np.int32)
    codes = np.empty((-(-outputs // NR), words.shape[1], NR), np.int32)
    pack_into(words, codes)
    zero = weight.zero if four_bits else ZERO_POINT
    facts = np.array([weight.form, weight.span, zero], np.int64)
    parts = (_in_panels(weight.halves.view(np.uint16)), _in_panels(weight.small), facts)
    return read_only(_bundled(codes, codes.shape[1])), tuple(read_only(part) for part in parts)


def unpacked(panels: Panels, inputs: int) -> Quantised:
    """The inverse of `packed`, with the rows that fill the last panel."""
    codes, (halves, small, facts) = panels
    form, span, zero = map(int, facts)
    groups = small.shape[1]
    four_bits = codes.shape[1] == groups * GROUP // 8
    stored = (
        np.ascontiguousarray(_unbundled(codes, codes.shape[1]).transpose(0, 2, 1))
        .view(np.uint8)
        .reshape(-1, groups, GROUP // (1 + four_bits))
    )
    if four_bits:
        values: NDArray[Any] = np.concatenate([stored & 15, stored >> 4], axis=2)
    else:
        values = (stored - np.uint8(zero)).view(np.int8)
    rows = values.reshape(len(values), -1)
    return Quantised(rows, _row_by_row(halves).view(np.float16), _row_by_row(small), form, span, inputs)


def beside(first: Quantised, second: Quantised) -> Quantised:
    """A pair of weights of one shape and form as one, NR / 2 rows of each side by side."""
    codes, halves, small = (
        side_by_side(pair, NR)
        for pair in ((first.codes, second.codes), (first.halves, second.halves), (first.small, second.small))
    )
    return replace(first, codes=codes, halves=halves, small=small)


def _in_panels(rows: NDArray[Any]) -> NDArray[Any]:
    """[N, groups, fields] as [panels, groups, fields, NR], padded with zeros."""
    outputs, groups, fields = rows.shape
    panels = -(-outputs // NR)
    padded = np.zeros((panels * NR, groups, fields), rows.dtype)
    padded[:outputs] = rows
    return _bundled(padded.reshape(panels, NR, groups, fields).transpose(0, 2, 3, 1), groups)


def _row_by_row(panels: NDArray[Any]) -> NDArray[Any]:
    """The inverse of `_in_panels`, with its padding."""
    rows = np.ascontiguousarray(_unbundled(panels, panels.shape[1]).transpose(0, 3, 1, 2))
    return rows.reshape(len(panels) * panels.shape[3], *rows.shape[2:])


def _bundled(panels: NDArray[Any], steps: int) -> NDArray[Any]:
    """[panels, steps * n, ...] in bundles, whose panels take turns step by step; from a cache line's edge on."""
    laid = aligned_empty(panels.shape, panels.dtype)
    for first in range(0, len(panels), BUNDLE):
        bundle = panels[first : first + BUNDLE]
        by_step = bundle.reshape(len(bundle), steps, -1).swapaxes(0, 1)
        laid[first : first + BUNDLE] = by_step.reshape(bundle.shape)
    return laid


def _unbundled(panels: NDArray[Any], steps: int) -> NDArray[Any]:
    """The inverse of `_bundled`."""
    laid = np.empty(panels.shape, panels.dtype)
    for first in range(0, len(panels), BUNDLE):
        bundle = panels[first : first + BUNDLE]
        by_panel = bundle.reshape(steps, len(bundle), -1).swapaxes(0, 1)
        laid[first : first + BUNDLE] = by_panel.reshape(bundle.shape)
    return laid


def padded_to_groups(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """[N, K] with zeros up to a whole group, as [N, groups, 32]."""
    outputs, inputs = weight.shape
    groups = -(-inputs // GROUP)
    padded = np.zeros((outputs, groups * GROUP), np.float32)
    padded[:, :inputs] = weight
    return padded.reshape(outputs, groups, GROUP)
