"""Noise schedules: the formulas, and the rate as the derivative of the total."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastsedd.diffusion.noise import Cosine, Geometric, Linear, LogLinear, Noise, Sine

SCHEDULES = [
    Geometric(1e-4, 20.0),
    Geometric(0.5, 2.0),
    LogLinear(),
    Cosine(),
    Sine(),
    Linear(1e-3, 7.0),
    Linear(0.0, 10.0),
]


@pytest.mark.parametrize("noise", SCHEDULES)
@given(t=st.floats(0.001, 0.999))
def test_the_rate_is_the_derivative_of_the_total(noise: Noise, t: float) -> None:
    # A central difference errs by h^2/6 total''' and by eps total / h; near t = 1 loglinear's total''' is 2e9.
    step = 1e-4 * (1.0 - t)
    slope = (noise.total(t + step) - noise.total(t - step)) / (2.0 * step)
    assert slope == pytest.approx(noise.rate(t), rel=1e-6)


@given(t=st.floats(0.0, 1.0))
def test_geometric_is_linear_in_its_logarithm(t: float) -> None:
    expected = (1.0 - t) * math.log(1e-4) + t * math.log(20.0)
    assert math.log(Geometric(1e-4, 20.0).total(t)) == pytest.approx(expected, abs=1e-13)


@given(t=st.floats(0.0, 1.0))
def test_loglinear_noise_makes_a_linear_share_of_tokens_jump(t: float) -> None:
    assert -math.expm1(-LogLinear().total(t)) == pytest.approx(0.999 * t, rel=1e-13)


@given(t=st.floats(0.0, 1.0))
def test_cosine_noise_keeps_a_cosine(t: float) -> None:
    kept = 1e-3 + (1 - 1e-3) * math.cos(math.pi / 2 * t)
    assert math.exp(-Cosine().total(t)) == pytest.approx(kept, rel=1e-12)


@given(t=st.floats(0.0, 1.0))
def test_sine_noise_keeps_what_duos_cosine_does(t: float) -> None:
    kept = 1.0 - math.cos(math.pi / 2 * (1.0 - (1.0 - 1e-3) * t))
    assert math.exp(-Sine().total(t)) == pytest.approx(kept, rel=1e-9)


@pytest.mark.parametrize("noise", SCHEDULES)
def test_arrays_give_float64_and_the_values_of_scalars(noise: Noise) -> None:
    times = np.linspace(0.0, 1.0, 7)
    for function in (noise.total, noise.rate):
        values = function(times)
        assert values.dtype == np.float64
        np.testing.assert_allclose(values, [function(float(t)) for t in times], rtol=1e-15)


@pytest.mark.parametrize(
    ("sigma_min", "sigma_max"), [(0.0, 1.0), (-1.0, 1.0), (1.0, 1.0), (2.0, 1.0), (1.0, math.inf), (math.nan, 1.0)]
)
def test_geometric_refuses_bounds_out_of_order(sigma_min: float, sigma_max: float) -> None:
    with pytest.raises(ValueError, match="sigma_min"):
        Geometric(sigma_min, sigma_max)


@pytest.mark.parametrize("noise", SCHEDULES)
def test_time_is_the_inverse_of_total(noise: Noise) -> None:
    times = np.linspace(1e-5, 1.0, 50)
    np.testing.assert_allclose(noise.time(noise.total(times)), times, rtol=1e-9)
