"""The machine's measured limits are plausible: what a test may ask of a time on a shared machine."""

from __future__ import annotations

import math

import fastsedd_kernels as fk


def test_peak_is_finite_and_halves_in_float64() -> None:
    single, double = fk.peak_flops("float32", 0.05), fk.peak_flops("float64", 0.05)
    assert math.isfinite(single)
    assert 1e8 < double < 0.9 * single


def test_bandwidth_is_finite() -> None:
    assert 1e7 < fk.read_bandwidth(1 << 20) < 1e14
