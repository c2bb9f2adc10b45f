"""A model's diffusion process: its graph and noise, and the sampler that a request means for it."""

from __future__ import annotations

from dataclasses import dataclass

from fastsedd.architectures.base import ModelConfig
from fastsedd.choices import PREDICTORS
from fastsedd.config import FittedTimes, NoiseConfig
from fastsedd.diffusion.graph import Absorb, Graph, Uniform
from fastsedd.diffusion.grid_sampler import GridSampler
from fastsedd.diffusion.noise import Cosine, Geometric, Linear, LogLinear, Noise, Sine
from fastsedd.diffusion.posterior_sampler import PosteriorSampler
from fastsedd.diffusion.timegrid import TimeGrid, fitted_grid, log_sigma_grid, uniform_grid
from fastsedd.request import Request


@dataclass(frozen=True)
class DiffusionProcess:
    """The way from a model's texts to noise, and back.

    fitted : the time grid that was fitted to the model, if there is one
    """

    config: ModelConfig
    graph: Graph
    noise: Noise
    fitted: FittedTimes | None = None

    @classmethod
    def of(cls, config: ModelConfig, fitted: FittedTimes | None = None) -> DiffusionProcess:
        """The process that a config describes."""
        graph: Graph = Absorb(config.tokens) if config.graph == "absorb" else Uniform(config.tokens)
        return cls(config, graph, _noise(config.noise), fitted)

    def sampler(self, request: Request) -> GridSampler:
        """Raises ValueError, naming the argument, for a predictor or a grid that this model does not have."""
        generation = request.generation(self.config.generation)
        choice = request.choice(self.config.family.predictor, generation.temperature)
        posterior = self.config.normalised and self.config.graph == "uniform"
        refused = "euler" if posterior else "" if self.config.normalised else "ddpm"
        if choice.predictor == refused:
            allowed = ", ".join(repr(each) for each in PREDICTORS if each != refused)
            raise ValueError(f"predictor is {refused!r}, allowed for this model: {allowed}")
        kind = PosteriorSampler if posterior else GridSampler
        return kind(self.graph, self._time_grid(request, generation.steps), choice)

    def _time_grid(self, request: Request, steps: int) -> TimeGrid:
        if isinstance(request.grid, FittedTimes):
            return fitted_grid(self.noise, steps, request.grid.times)
        if request.grid == "fitted":
            if self.fitted is None:
                raise ValueError("grid is 'fitted', but no grid was fitted to this model: run fastsedd fit-grid first")
            return fitted_grid(self.noise, steps, self.fitted.times)
        return (uniform_grid if request.grid == "uniform" else log_sigma_grid)(self.noise, steps)


def _noise(config: NoiseConfig) -> Noise:
    if config.type == "geometric":
        return Geometric(config.sigma_min, config.sigma_max)
    if config.type == "linear":
        return Linear(config.sigma_min, config.sigma_max)
    without_parameters: dict[str, Noise] = {"loglinear": LogLinear(), "cosine": Cosine(), "sine": Sine()}
    return without_parameters[config.type]
