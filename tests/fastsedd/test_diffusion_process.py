"""The sampler that a request means for a model: its grid, its predictor, and what the model does not have."""

from __future__ import annotations

import pytest

from fastsedd.config import FittedTimes, GenerationConfig
from fastsedd.diffusion.choice import Choice
from fastsedd.diffusion.posterior_sampler import PosteriorSampler
from fastsedd.diffusion.timegrid import fitted_grid, log_sigma_grid, uniform_grid
from fastsedd.diffusion_process import DiffusionProcess
from fastsedd.request import Request

TIMES = FittedTimes((1.0, 0.3, 0.0))


def test_the_grid_is_the_requests(make_config) -> None:
    process = DiffusionProcess.of(make_config("ddit", "absorb"), TIMES)
    noise = process.noise
    for grid, expected in [
        ("uniform", uniform_grid(noise, 5)),
        ("log-sigma", log_sigma_grid(noise, 5)),
        ("fitted", fitted_grid(noise, 5, TIMES.times)),
        (FittedTimes((1.0, 0.5, 0.0)), fitted_grid(noise, 5, (1.0, 0.5, 0.0))),
    ]:
        assert process.sampler(Request(steps=5, grid=grid)).grid == expected


def test_a_model_without_a_fitted_grid_says_so(make_config) -> None:
    process = DiffusionProcess.of(make_config("ddit", "absorb"))
    with pytest.raises(ValueError, match="no grid was fitted to this model"):
        process.sampler(Request(grid="fitted"))


@pytest.mark.parametrize(
    ("architecture", "own"), [("ddit", "analytic"), ("annotated", "analytic"), ("radd", "analytic"), ("mdlm", "ddpm")]
)
def test_the_default_predictor_is_the_models(make_config, architecture: str, own: str) -> None:
    process = DiffusionProcess.of(make_config(architecture, "absorb", generation=GenerationConfig(7, 0.5)))
    sampler = process.sampler(Request())
    assert sampler.choice == Choice(own, temperature=0.5) and len(sampler.grid) == 8
    assert process.sampler(Request(predictor="euler", temperature=2.0)).choice == Choice("euler", temperature=2.0)
    if architecture in ("ddit", "annotated"):
        with pytest.raises(ValueError, match="predictor is 'ddpm', allowed for this model: 'analytic', 'euler'"):
            process.sampler(Request(predictor="ddpm"))


@pytest.mark.parametrize("architecture", ["udlm", "duo"])
def test_uniform_state_models_are_sampled_by_their_posterior(make_config, architecture: str) -> None:
    process = DiffusionProcess.of(make_config(architecture, "uniform"))
    sampler = process.sampler(Request(steps=4))
    assert isinstance(sampler, PosteriorSampler) and sampler.choice == Choice("analytic")
    assert process.sampler(Request(steps=4, predictor="ddpm")).choice == Choice("ddpm")
    with pytest.raises(ValueError, match="predictor is 'euler', allowed for this model: 'analytic', 'ddpm'"):
        process.sampler(Request(predictor="euler"))
