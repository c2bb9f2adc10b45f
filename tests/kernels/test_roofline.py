"""The machine's measured limits: what is counted is exact, a time may only be plausible on a shared machine."""

from __future__ import annotations

from typing import Any

import fastsedd_kernels as fk
import numpy as np
import pytest
from fastsedd_kernels import roofline


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_peak_is_plausible(dtype: str) -> None:
    assert 1e8 < fk.peak_flops(dtype, 0.05) < 1e15


def test_float64_has_half_the_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    def one_second(run: Any, seconds: float) -> float:
        run()
        return 1.0

    monkeypatch.setattr(roofline, "_median_seconds", one_second)
    assert fk.peak_flops("float32") == 2 * fk.peak_flops("float64") > 0


def test_bandwidth_is_plausible() -> None:
    assert 1e7 < fk.read_bandwidth(1 << 20) < 1e14
    assert 1e7 < fk.copy_bandwidth(1 << 20) < 1e14


def test_copies_are_counted_as_read_and_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "_median_seconds", lambda run, seconds: run() or 1.0)
    assert fk.copy_bandwidth(1 << 16) == 2 << 16
    assert fk.copy_bandwidth(1) == 2 * fk.get_num_threads() * 4 * roofline.LANES


def test_a_copy_is_one() -> None:
    array = np.random.default_rng(0).standard_normal((3, 5 * roofline.LANES)).astype(np.float32)
    out = np.full_like(array, np.nan)
    roofline.copy(3, array, out)
    np.testing.assert_array_equal(out, array)
