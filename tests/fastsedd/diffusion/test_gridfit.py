"""Fitted time grids: what a step costs, and that steps are put where they are worth most."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from fastsedd.diffusion.graph import Absorb, Graph, Uniform
from fastsedd.diffusion.gridfit import equal_shares, fit_times, step_cost
from fastsedd.diffusion.noise import Geometric, LogLinear
from fastsedd.diffusion.timegrid import fitted_grid, uniform_grid

GRAPHS = [Absorb(3), Uniform(4)]
WORD = np.array([0, 1, 2, 0, 2], np.int32)


def ratios(graph: Graph, clean: NDArray[np.int32], tokens: NDArray[np.int32], sigma: float) -> NDArray[np.float32]:
    """Log scores of a process that always ends in one text, which is known: the best there are."""
    moved = graph.transition(clean, sigma)
    now = np.take_along_axis(moved, tokens[..., None], axis=-1)
    with np.errstate(divide="ignore"):
        return np.log(moved / now).astype(np.float32)


@pytest.mark.parametrize("graph", GRAPHS, ids=["absorb", "uniform"])
def test_transitions_are_the_transposed_ones(graph: Graph) -> None:
    states = np.arange(graph.vocab_size, dtype=np.int32)
    for sigma in (0.0, 1e-3, 0.7, 30.0):
        found = graph.transition(states, sigma)
        np.testing.assert_allclose(found.sum(axis=-1), 1.0, rtol=1e-14)
        np.testing.assert_allclose(found, graph.transp_transition(states, sigma).T, atol=1e-15)


@pytest.mark.parametrize("graph", GRAPHS, ids=["absorb", "uniform"])
@pytest.mark.parametrize(("sigma", "rest"), [(3.0, 1.0), (0.5, 0.01), (2.0, 0.0)])
def test_knowing_the_text_costs_nothing(graph: Graph, sigma: float, rest: float) -> None:
    clean = np.tile(WORD, (8, 1))
    tokens = graph.sample_transition(clean, np.asarray(sigma), np.random.default_rng(0).random(clean.shape))
    cost = step_cost(graph, ratios(graph, clean, tokens, sigma), tokens, clean, sigma, rest)
    assert abs(cost) < 1e-5 * clean.size


def test_guessing_a_mask_costs_the_logarithm_of_the_guesses() -> None:
    """Of n masks a step unmasks a share; each of those is guessed among V tokens, when it jumps is known."""
    graph, sigma, rest = Absorb(4), 2.0, 0.7
    clean = np.arange(40, dtype=np.int32)[None] % 4
    tokens = np.full_like(clean, graph.mask)
    score = np.zeros((1, 40, 5), np.float32)
    score[..., :4] = -math.log(math.expm1(sigma) * 4)
    unmasked = (math.exp(-rest) - math.exp(-sigma)) / -math.expm1(-sigma)
    for to, share in ((rest, unmasked), (0.0, 1.0)):
        cost = step_cost(graph, score.copy(), tokens, clean, sigma, to)
        assert cost == pytest.approx(40 * share * math.log(4), rel=1e-5)


def test_a_prediction_that_rules_out_the_truth_is_dear_but_finite() -> None:
    graph = Absorb(2)
    clean, tokens = np.zeros((1, 1), np.int32), np.full((1, 1), 2, np.int32)
    score = np.array([[[-np.inf, 3.0, 0.0]]], np.float32)
    assert 10.0 < step_cost(graph, score, tokens, clean, 1.0, 0.0) < 100.0


def test_steps_are_dense_as_the_root_of_the_excess() -> None:
    mesh = np.linspace(1.0, 0.0, 65)
    excess = np.where(mesh[1:-1] > 0.5, 9.0, 1.0)
    times = equal_shares(mesh, excess)
    assert np.mean(times >= 0.5) == pytest.approx(0.75, abs=0.03)
    for nothing in (np.zeros(63), -np.ones(63)):
        np.testing.assert_allclose(equal_shares(mesh, nothing), mesh, atol=1e-12)


@pytest.mark.parametrize("count", [3, 4, 33])
def test_times_fall_from_one_to_zero(count: int) -> None:
    mesh = np.linspace(1.0, 0.0, count)
    times = equal_shares(mesh, np.random.default_rng(0).standard_normal(count - 2))
    assert (times[0], times[-1], len(times)) == (1.0, 0.0, count) and (np.diff(times) < 0).all()


def test_pure_noise_gets_few_steps_and_change_gets_many() -> None:
    """Under uniform noise up to 20 a known pair of letters is lost by sigma = 6 and untouched below sigma = 0.01."""
    graph, noise = Uniform(4), Geometric(1e-4, 20.0)
    clean = np.tile(WORD, (16, 4))
    blind = np.log(np.full(4, 0.25))

    def log_score(tokens: NDArray[np.int32], sigma: float) -> NDArray[np.float32]:
        """A model that knows nothing of texts, and so errs where the text still shows."""
        return np.broadcast_to(blind - blind[0], (*tokens.shape, 4)).astype(np.float32)

    def knowing(tokens: NDArray[np.int32], sigma: float) -> NDArray[np.float32]:
        """Positions are two copies of a letter: the best guess of each is by what its twin holds."""
        twin = np.roll(tokens.reshape(len(tokens), -1, 5), 1, axis=1).reshape(tokens.shape)
        return ratios(graph, twin, tokens, 2.0 * sigma)

    times = fit_times(knowing, graph, noise, clean, nodes=32, seed=0, batch_size=5)
    sigma = noise.total(times)
    assert np.mean(sigma > 8.0) < 0.1 and np.mean((sigma > 0.05) & (sigma < 6.0)) > 0.5
    again = fit_times(knowing, graph, noise, clean, nodes=32, seed=0, batch_size=16)
    np.testing.assert_allclose(times, again, rtol=1e-9)
    flat = fit_times(log_score, graph, noise, clean, nodes=8, seed=0, batch_size=16)
    assert np.isfinite(flat).all()


def test_a_grid_of_equal_times_gives_the_denoiser_a_step_too() -> None:
    noise, steps = LogLinear(), 7
    grid = fitted_grid(noise, steps, np.linspace(1.0, 0.0, 20).tolist())
    assert len(grid) == len(uniform_grid(noise, steps)) == steps + 1
    for k, step in enumerate((*grid.predictor, grid.denoiser)):
        assert step.sigma == pytest.approx(noise.total(1.0 - k / (steps + 1)), rel=1e-12)
    assert grid.denoiser.dsigma == grid.denoiser.sigma


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"nodes": 1}, "nodes is 1"), ({"nodes": 2048}, "nodes is 2048"), ({"batch_size": 0}, "batch_size is 0"),
     ({"clean": np.zeros(3, np.int32)}, "clean has shape"), ({"clean": np.zeros((0, 3), np.int32)}, "clean has shape")],
)  # fmt: skip
def test_bad_arguments(changes: dict, words: str) -> None:
    arguments = {"clean": WORD[None], "nodes": 4, "batch_size": 1, **changes}
    clean = arguments.pop("clean")
    with pytest.raises(ValueError, match=words):
        fit_times(
            lambda tokens, sigma: np.zeros((1, 1, 4), np.float32), GRAPHS[0], LogLinear(), clean, seed=0, **arguments
        )
