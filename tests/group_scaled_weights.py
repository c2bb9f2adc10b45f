"""Weights in groups for tests: of every form of scales, at random; and their products' reference, as an assertion."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import fastsedd_kernels as fk
import numpy as np
from fastsedd_kernels.gemm.group_scaled import reference
from fastsedd_kernels.gemm.group_scaled.microkernel import BUNDLE, NR
from fastsedd_kernels.gemm.group_scaled.storage import NESTED, SCALE, ZERO, Quantised, unpacked

EPS = 2.0**-24  # of a rounding
FORMS = [("int4", False), ("int4", True), ("int8g", False), ("int8g", True)]


def assert_product(result: np.ndarray, x: np.ndarray, packed: fk.PackedWeight) -> None:
    """Within the few float32 roundings after the exact sums of x, rounded alike, and the weight as it is stored."""
    values = fk.unpack(packed)
    minima = np.abs(unpacked((packed.panels, packed.quantisation), packed.shape[1]).minima()[: len(values)])
    magnitudes = np.abs(values) + 2 * np.repeat(minima, 32, axis=1)[:, : packed.shape[1]]
    error = np.abs(result - reference.linear(x, values))
    assert (error <= reference.error_bound(x, magnitudes, EPS) + 1e-37).all()


def nested(outputs: int, groups: int, inputs: int) -> Quantised:
    """Halves for every 8 groups, and small factors of them, as GGUF's Q4_K."""
    rng = np.random.default_rng(outputs)
    codes = rng.integers(0, 16, (outputs, groups * 32), np.uint8)
    halves = rng.uniform(0.001, 0.01, (outputs, -(-groups // 8), 2)).astype(np.float16)
    return Quantised(codes, halves, rng.integers(0, 64, (outputs, groups, 2), np.uint8), NESTED, 8, inputs)


def with_zeros(outputs: int, groups: int, inputs: int, span: int) -> Quantised:
    """A half for every `span` groups, and a zero point for each, as GPTQ has them."""
    weight = nested(outputs, groups, inputs)
    halves = np.random.default_rng(1).normal(size=(outputs, -(-groups // span), 1)).astype(np.float16)
    return replace(weight, halves=halves, small=weight.small[..., :1] % 17, form=ZERO, span=span)


def symmetric(outputs: int, groups: int, inputs: int, span: int) -> Quantised:
    weight = with_zeros(outputs, groups, inputs, span)
    return replace(weight, small=np.empty((outputs, groups, 0), np.uint8), form=SCALE)


def stored_weights() -> Iterator[Quantised]:
    for outputs, groups in ((1, 1), (NR + 3, 9), (7, 33), (BUNDLE * NR + NR + 3, 9)):
        inputs = groups * 32 - 5
        yield nested(outputs, groups, inputs)
        for span in (1, 4, groups):
            yield with_zeros(outputs, groups, inputs, span)
            yield symmetric(outputs, groups, inputs, span)
