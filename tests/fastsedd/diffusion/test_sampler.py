"""The sampler: distributions against closed forms, and the promises about seeds, batches and fixed positions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from fastsedd_kernels import sample_categorical
from numpy.typing import NDArray

from fastsedd.diffusion import sampler
from fastsedd.diffusion.graph import Absorb, Graph, Uniform
from fastsedd.diffusion.noise import Geometric, LogLinear, Noise
from fastsedd.diffusion.sampler import Draw, LogScore, draw_streams, sample
from fastsedd.diffusion.timegrid import Step, TimeGrid, uniform_grid

TOKENS = 3
JOINT = np.array([[8.0, 1.0, 3.0], [1.0, 6.0, 1.0], [4.0, 1.0, 7.0]]) / 32.0
CASES: list[tuple[Graph, Noise]] = [(Uniform(TOKENS), Geometric(1e-3, 8.0)), (Absorb(TOKENS), LogLinear())]

both_graphs = pytest.mark.parametrize(("graph", "noise"), CASES)
both_draws = pytest.mark.parametrize("draw", ["exact", "official"])


def transition_matrix(graph: Graph, sigma: float) -> NDArray[np.float64]:
    """Matrix [tokens, V] whose row y holds the probabilities of y -> x under noise sigma."""
    states = np.arange(graph.vocab_size, dtype=np.int32)
    return graph.transp_transition(states, sigma)[:, : graph.tokens].T


def true_log_score(graph: Graph, joint: NDArray[np.float64]) -> LogScore:
    """log p(x with y at one position) / p(x) of a joint distribution [tokens, tokens] under noise, in closed form."""

    def log_score(tokens: NDArray[np.int32], sigma: float) -> NDArray[np.float32]:
        noise = transition_matrix(graph, sigma)
        noisy = np.log(noise.T @ joint @ noise)
        first, second = tokens.T
        now = noisy[first, second][:, None]
        return np.stack([noisy[:, second].T - now, noisy[first] - now], axis=1).astype(np.float32)

    return log_score


def single_log_score(graph: Graph, data: NDArray[np.float64]) -> LogScore:
    """log p(y) / p(x) of one position's distribution [tokens] under noise."""

    def log_score(tokens: NDArray[np.int32], sigma: float) -> NDArray[np.float32]:
        noisy = np.log(data @ transition_matrix(graph, sigma))
        return (noisy - noisy[tokens][..., None]).astype(np.float32)

    return log_score


def chi_square(counts: NDArray[np.int64], probabilities: NDArray[np.float64]) -> float:
    expected = counts.sum() * probabilities
    return float(((counts - expected) ** 2 / expected).sum())


def chi_square_critical(freedom: int, deviate: float = 3.09) -> float:
    """Wilson and Hilferty 1931: k (1 - 2/(9k) + z sqrt(2/(9k)))^3; z = 3.09 leaves one chance in a thousand."""
    spread = 2.0 / (9.0 * freedom)
    return freedom * (1.0 - spread + deviate * math.sqrt(spread)) ** 3


@both_graphs
@both_draws
@pytest.mark.parametrize("steps", [1, 4])
def test_one_position_is_sampled_exactly_in_any_number_of_steps(
    graph: Graph, noise: Noise, draw: Draw, steps: int
) -> None:
    data = np.array([0.6, 0.1, 0.3])
    grid = uniform_grid(noise, steps)
    texts = sample(single_log_score(graph, data), graph, grid, indices=range(50000), length=1, seed=11, draw=draw)
    assert chi_square(np.bincount(texts.ravel(), minlength=TOKENS), data) < chi_square_critical(TOKENS - 1)


@both_graphs
def test_many_steps_reproduce_a_joint_distribution(graph: Graph, noise: Noise) -> None:
    # Two positions are drawn as if independent in each step: over 200 steps that bias is below what 20,000 texts show.
    grid = uniform_grid(noise, 200)
    texts = sample(true_log_score(graph, JOINT), graph, grid, indices=range(20000), length=2, seed=12)
    counts = np.bincount(TOKENS * texts[:, 0] + texts[:, 1], minlength=TOKENS**2)
    assert chi_square(counts, JOINT.ravel()) < chi_square_critical(TOKENS**2 - 1)


def test_fixed_positions_condition_the_others() -> None:
    graph = Absorb(TOKENS)
    fixed = np.array([1, -1], dtype=np.int32)
    log_score, grid = true_log_score(graph, JOINT), uniform_grid(LogLinear(), 5)
    texts = sample(log_score, graph, grid, indices=range(20000), length=2, seed=13, fixed=fixed)
    assert (texts[:, 0] == 1).all()
    counts = np.bincount(texts[:, 1], minlength=TOKENS)
    assert chi_square(counts, JOINT[1] / JOINT[1].sum()) < chi_square_critical(TOKENS - 1)


@both_graphs
@both_draws
def test_one_step_has_the_distribution_of_the_closed_form(graph: Graph, noise: Noise, draw: Draw) -> None:
    sigma, dsigma, rest = 1.5, 0.4, 1.1
    grid = TimeGrid((Step(sigma, dsigma),), Step(rest, rest))
    log_score = single_log_score(graph, np.array([0.5, 0.2, 0.3]))
    states = np.arange(graph.vocab_size, dtype=np.int32)
    score = np.exp(log_score(states[None], sigma)[0].astype(np.float64))
    rows = graph.staggered_score(score, dsigma) * graph.transp_transition(states, dsigma)
    expected = rows[graph.mask] if isinstance(graph, Absorb) else rows.mean(axis=0)
    seen: list[NDArray[np.int32]] = []

    def on_step(step: int, steps: int, tokens: NDArray[np.int32]) -> None:
        seen.append(tokens)

    sample(log_score, graph, grid, indices=range(200000), length=1, seed=14, draw=draw, on_step=on_step)

    counts = np.bincount(seen[0].ravel(), minlength=graph.vocab_size)
    assert chi_square(counts, expected) < chi_square_critical(graph.vocab_size - 1)


@both_graphs
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_a_text_depends_on_its_index_and_not_on_its_batch(graph: Graph, noise: Noise, temperature: float) -> None:
    log_score, grid = true_log_score(graph, JOINT), uniform_grid(noise, 12)

    def texts(indices: Sequence[int], seed: int = 15) -> NDArray[np.int32]:
        return sample(log_score, graph, grid, indices=indices, length=2, seed=seed, temperature=temperature)

    batch = texts(range(64))
    np.testing.assert_array_equal(texts([41]), batch[[41]])
    np.testing.assert_array_equal(texts([63, 0, 7]), batch[[63, 0, 7]])
    assert len(np.unique(batch, axis=0)) > 1
    assert (texts(range(64), seed=16) != batch).any()


@both_graphs
def test_on_step_sees_every_state_and_keeps_it(graph: Graph, noise: Noise) -> None:
    seen: list[tuple[int, int, NDArray[np.int32], NDArray[np.int32]]] = []
    asked: list[NDArray[np.int32]] = []
    score = true_log_score(graph, JOINT)

    def log_score(tokens: NDArray[np.int32], sigma: float) -> NDArray[np.float32]:
        asked.append(tokens.copy())
        return score(tokens, sigma)

    def on_step(step: int, steps: int, tokens: NDArray[np.int32]) -> None:
        assert not tokens.flags.writeable
        seen.append((step, steps, tokens, tokens.copy()))

    texts = sample(log_score, graph, uniform_grid(noise, 6), indices=range(8), length=2, seed=17, on_step=on_step)

    assert [(step, steps) for step, steps, _, _ in seen] == [(step, 7) for step in range(1, 8)]
    for (_, _, kept, copy), following in zip(seen, [*asked[1:], texts], strict=True):
        np.testing.assert_array_equal(kept, copy)
        np.testing.assert_array_equal(kept, following)


@both_graphs
def test_the_network_runs_once_a_step_at_the_sigmas_of_the_grid(graph: Graph, noise: Noise) -> None:
    grid = uniform_grid(noise, 5)
    sigmas: list[float] = []

    def log_score(tokens: NDArray[np.int32], sigma: float) -> NDArray[np.float32]:
        sigmas.append(sigma)
        return np.zeros((*tokens.shape, graph.vocab_size), dtype=np.float32)

    texts = sample(log_score, graph, grid, indices=[0, 1], length=9, seed=18)
    assert sigmas == [*(step.sigma for step in grid.predictor), grid.denoiser.sigma]
    assert texts.shape == (2, 9)
    assert texts.dtype == np.int32
    assert ((texts >= 0) & (texts < TOKENS)).all()


def test_the_denoiser_unmasks_what_the_predictor_left() -> None:
    graph = Absorb(TOKENS)
    seen: list[NDArray[np.int32]] = []

    def log_score(tokens: NDArray[np.int32], sigma: float) -> NDArray[np.float32]:
        return np.full((*tokens.shape, graph.vocab_size), -30.0, dtype=np.float32)

    def on_step(step: int, steps: int, tokens: NDArray[np.int32]) -> None:
        seen.append(tokens)

    sample(log_score, graph, uniform_grid(LogLinear(), 3), indices=range(4), length=8, seed=20, on_step=on_step)
    assert (seen[-2] == graph.mask).all()
    assert (seen[-1] < TOKENS).all()


@both_draws
def test_every_step_draws_by_the_method_asked_for(draw: Draw, monkeypatch: pytest.MonkeyPatch) -> None:
    methods: list[str] = []

    def recording(*arguments: Any, method: str) -> NDArray[np.int32]:
        methods.append(method)
        return sample_categorical(*arguments, method=method)

    monkeypatch.setattr(sampler, "sample_categorical", recording)
    graph, grid = Absorb(TOKENS), uniform_grid(LogLinear(), 3)
    sample(true_log_score(graph, JOINT), graph, grid, indices=[0], length=2, seed=21, draw=draw)
    assert methods == [draw] * len(grid)


@both_graphs
def test_fixed_positions_are_never_seen_otherwise(graph: Graph, noise: Noise) -> None:
    fixed = np.array([2, -1, 0, -1], dtype=np.int32)
    given = fixed >= 0

    def log_score(tokens: NDArray[np.int32], sigma: float) -> NDArray[np.float32]:
        assert (tokens[:, given] == fixed[given]).all()
        return np.zeros((*tokens.shape, graph.vocab_size), dtype=np.float32)

    def on_step(step: int, steps: int, tokens: NDArray[np.int32]) -> None:
        assert (tokens[:, given] == fixed[given]).all()

    sample(log_score, graph, uniform_grid(noise, 8), indices=range(16), length=4, seed=19, fixed=fixed, on_step=on_step)


def test_streams_never_meet_at_the_edges_of_their_fields() -> None:
    indices = np.array([0, 1, 2**28 - 1], dtype=np.uint64)
    steps = [0, 1, 2**16 - 1]
    numbers = [draw_streams(indices, step, 2**20)[:, [0, 1, -1]] for step in steps]
    expected = [
        [[(int(index) * 2**16 + step) * 2**20 + position for position in (0, 1, 2**20 - 1)] for index in indices]
        for step in steps
    ]
    assert np.array(numbers).tolist() == expected
    assert len(np.unique(numbers)) == 27
    assert int(np.max(numbers)) == 2**64 - 1


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("indices", [0, -1]),
        ("indices", [2**28]),
        ("length", 0),
        ("length", 2**20 + 1),
        ("seed", -1),
        ("seed", 2**64),
        ("draw", "greedy"),
        ("temperature", 0.0),
        ("temperature", math.inf),
        ("temperature", math.nan),
        ("fixed", np.zeros(3, dtype=np.int32)),
        ("fixed", np.array([-2, 0], dtype=np.int32)),
        ("fixed", np.array([TOKENS, 0], dtype=np.int32)),
        ("grid", TimeGrid((Step(1.0, 1e-9),) * (2**16 - 1), Step(1e-9, 1e-9))),
    ],
)
def test_a_bad_argument_is_named(argument: str, value: Any) -> None:
    graph = Absorb(TOKENS)
    arguments: dict[str, Any] = {"grid": uniform_grid(LogLinear(), 2), "indices": [0], "length": 2, "seed": 0}
    with pytest.raises(ValueError, match=argument):
        sample(true_log_score(graph, JOINT), graph, **(arguments | {argument: value}))


@pytest.mark.parametrize("scores", [np.zeros((1, 2, TOKENS), dtype=np.float32), np.zeros((1, 2, TOKENS + 1))])
def test_a_log_score_of_another_shape_or_dtype_is_refused(scores: NDArray[Any]) -> None:
    grid = uniform_grid(LogLinear(), 2)
    with pytest.raises(ValueError, match="log_score"):
        sample(lambda tokens, sigma: scores, Absorb(TOKENS), grid, indices=[0], length=2, seed=0)
