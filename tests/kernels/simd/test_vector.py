"""Functions of registers against those of NumPy."""

from __future__ import annotations

import numpy as np
from fastsedd_kernels.runtime.scalar import offset, pointer
from fastsedd_kernels.simd.folding import sums_of_registers
from fastsedd_kernels.simd.vector import (
    LANES,
    load_vector,
    square_root,
    store_vector,
    sum_lanes,
)
from numba import njit


@njit
def _sums(source: np.ndarray, together: np.ndarray, apart: np.ndarray) -> None:
    store_vector(pointer(together, 0), sums_of_registers(pointer(source, 0)))
    for i in range(LANES):
        apart[i] = sum_lanes(load_vector(offset(pointer(source, 0), i * LANES)))


def test_registers_that_are_summed_together_have_the_bits_of_each() -> None:
    source = np.random.default_rng(0).standard_normal((LANES, LANES), dtype=np.float32) * np.float32(1e3)
    source[0, 0], source[LANES - 1, 1] = np.inf, np.nan
    together, apart = (np.full(LANES, np.nan, np.float32) for _ in range(2))
    _sums(source, together, apart)
    np.testing.assert_array_equal(together, apart)
    np.testing.assert_allclose(together, source.sum(1, dtype=np.float64), rtol=1e-5, atol=1e-2)


@njit
def _roots(source: np.ndarray, target: np.ndarray) -> None:
    store_vector(pointer(target, 0), square_root(load_vector(pointer(source, 0))))


def test_roots_are_those_of_ieee() -> None:
    special = [0.0, -0.0, 1e-45, 2.0, np.inf, np.nan, -1.0, 3e38]
    for first in range(0, len(special), 4):
        source = np.resize(np.array(special[first : first + 4], np.float32), LANES)
        target = np.full(LANES, np.nan, np.float32)
        _roots(source, target)
        with np.errstate(invalid="ignore"):
            expected = np.sqrt(source)
        np.testing.assert_array_equal(target, expected)
        np.testing.assert_array_equal(np.signbit(target[expected == 0]), np.signbit(expected[expected == 0]))
