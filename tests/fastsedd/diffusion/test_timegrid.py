"""Time grids: end points, the sum of the steps, and the limits of the arguments."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from fastsedd.diffusion.noise import Geometric, LogLinear, Noise
from fastsedd.diffusion.timegrid import Step, log_sigma_grid, uniform_grid

SCHEDULES = [Geometric(1e-4, 20.0), LogLinear()]


@pytest.mark.parametrize("noise", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 3, 128])
def test_the_grid_runs_from_one_to_eps_and_then_denoises(noise: Noise, steps: int) -> None:
    eps = 1e-5
    grid = uniform_grid(noise, steps, eps)
    assert len(grid) == steps + 1
    assert grid.predictor[0].sigma == pytest.approx(noise.total(1.0), rel=1e-15)
    assert grid.denoiser.sigma == grid.denoiser.dsigma == pytest.approx(noise.total(eps), rel=1e-15)


@pytest.mark.parametrize("noise", SCHEDULES)
def test_each_step_takes_away_the_noise_of_one_dt(noise: Noise) -> None:
    steps, eps = 10, 1e-5
    dt = (1.0 - eps) / steps
    for k, step in enumerate(uniform_grid(noise, steps, eps).predictor):
        t = 1.0 - k * dt
        assert step.sigma == pytest.approx(noise.total(t), rel=1e-13)
        assert step.dsigma == pytest.approx(noise.total(t) - noise.total(t - dt), rel=1e-12)
        assert step.rate_dt == pytest.approx(dt * noise.rate(t), rel=1e-12)


@pytest.mark.parametrize("noise", SCHEDULES)
def test_the_steps_add_up_to_all_of_the_noise(noise: Noise) -> None:
    grid = uniform_grid(noise, 1000)
    removed = math.fsum(step.dsigma for step in grid.predictor)
    assert removed == pytest.approx(noise.total(1.0) - noise.total(1e-5), rel=1e-13)
    assert removed + grid.denoiser.dsigma == pytest.approx(noise.total(1.0), rel=1e-13)


@pytest.mark.parametrize("steps", [0, -1])
def test_steps_below_one_are_refused(steps: int) -> None:
    with pytest.raises(ValueError, match=f"steps is {steps}"):
        uniform_grid(LogLinear(), steps)


@pytest.mark.parametrize("eps", [0.0, 1.0, -1e-5, math.nan])
def test_eps_outside_the_unit_interval_is_refused(eps: float) -> None:
    with pytest.raises(ValueError, match="eps"):
        uniform_grid(LogLinear(), 8, eps)


@pytest.mark.parametrize(("sigma", "dsigma"), [(1.0, 0.0), (1.0, 1.1), (math.inf, 1.0), (math.nan, 1.0), (1.0, -1.0)])
def test_a_step_takes_away_some_noise_and_no_more_than_there_is(sigma: float, dsigma: float) -> None:
    with pytest.raises(ValueError, match="dsigma"):
        Step(sigma, dsigma, 1.0)


@pytest.mark.parametrize("rate_dt", [0.0, -1.0, math.inf, math.nan])
def test_a_step_has_a_rate(rate_dt: float) -> None:
    with pytest.raises(ValueError, match="rate_dt"):
        Step(1.0, 0.5, rate_dt)


def test_log_sigma_steps_divide_the_noise_by_the_same_factor() -> None:
    grid = log_sigma_grid(LogLinear(), 9)
    sigma = [step.sigma for step in (*grid.predictor, grid.denoiser)]
    assert sigma[0] == pytest.approx(LogLinear().total(1.0)) and sigma[-1] == pytest.approx(LogLinear().total(1e-5))
    factors = [after / before for before, after in pairwise(sigma)]
    assert factors == pytest.approx([factors[0]] * 9, rel=1e-9)


def test_geometric_noise_is_uniform_in_its_logarithm() -> None:
    noise = Geometric(1e-4, 20.0)
    for found, expected in zip(log_sigma_grid(noise, 12).predictor, uniform_grid(noise, 12).predictor, strict=True):
        assert (found.sigma, found.dsigma) == pytest.approx((expected.sigma, expected.dsigma), rel=1e-9)
        assert found.rate_dt == pytest.approx(expected.rate_dt, rel=1e-9)
