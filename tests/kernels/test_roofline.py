"""The machine's measured limits: what is counted is exact, a time may only be plausible on a shared machine."""

from __future__ import annotations

from typing import Any

import fastsedd_kernels as fk
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
