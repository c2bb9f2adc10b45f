"""Graphs: the dense formulas of the published code in float64, and the in-place steps against them."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from fastsedd.diffusion.graph import Absorb, Graph, Uniform
from fastsedd.diffusion.reference import staggered_score

DSIGMAS = [1e-7, 1e-4, 0.03, 0.7, 2.0, 10.0]
STATES = [2, 5, 66]
BUILD: dict[str, Callable[[int], Graph]] = {"uniform": Uniform, "absorb": lambda states: Absorb(states - 1)}

both_graphs = pytest.mark.parametrize("name", list(BUILD))
all_sizes = pytest.mark.parametrize("states", STATES)
all_dsigmas = pytest.mark.parametrize("dsigma", DSIGMAS)


def dense_staggered_score(name: str, score: NDArray[np.float64], dsigma: float) -> NDArray[np.float64]:
    if name == "uniform":
        shrink = math.exp(-dsigma)
        even: NDArray[np.float64] = ((shrink - 1.0) / (score.shape[-1] * shrink)) * score.sum(-1, keepdims=True)
        return even + score / shrink
    extra = (1.0 - math.exp(dsigma)) * score.sum(-1)
    staggered = score * math.exp(dsigma)
    staggered[..., -1] += extra
    return staggered


def dense_transp_transition(name: str, states: int, tokens: NDArray[np.int32], dsigma: float) -> NDArray[np.float64]:
    one_hot: NDArray[np.float64] = np.eye(states)[tokens]
    if name == "uniform":
        jump = (1.0 - one_hot) * (1.0 - math.exp(-dsigma)) / states
        stay: NDArray[np.float64] = 1.0 - jump.sum(-1, keepdims=True)
        return jump + one_hot * stay
    from_mask = np.where(tokens == states - 1, 1.0 - math.exp(-dsigma), 0.0)
    return math.exp(-dsigma) * one_hot + from_mask[..., None]


def transition_matrix(graph: Graph, sigma: float) -> NDArray[np.float64]:
    """Matrix [V, V] whose row y holds the probabilities of y -> x under noise sigma."""
    return graph.transp_transition(np.arange(graph.vocab_size, dtype=np.int32), sigma).T


def random_case(states: int, seed: int, spread: float = 2.0) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Log scores [3, 2 V, V], 0 at the current tokens [3, 2 V], among which is every state."""
    random = np.random.default_rng(seed)
    tokens = np.tile(np.arange(states, dtype=np.int32), (3, 2))
    log_score = random.normal(0.0, spread, (*tokens.shape, states)).astype(np.float32)
    np.put_along_axis(log_score, tokens[..., None], 0.0, axis=-1)
    return log_score, tokens


def normalised(weights: NDArray[np.floating]) -> NDArray[np.float64]:
    exact = weights.astype(np.float64)
    total: NDArray[np.float64] = exact.sum(-1, keepdims=True)
    return exact / total


@both_graphs
@all_sizes
@all_dsigmas
def test_dense_forms_are_those_of_the_published_code(name: str, states: int, dsigma: float) -> None:
    graph = BUILD[name](states)
    log_score, tokens = random_case(states, seed=1)
    score = np.exp(log_score.astype(np.float64))
    staggered = dense_staggered_score(name, score, dsigma)
    # expm1 and 1 - exp differ by the rounding of 1, relative to the terms that are added.
    rounding = 8.0 * np.finfo(np.float64).eps * np.exp(dsigma) * score.sum(-1).max()
    np.testing.assert_allclose(staggered_score(graph, score, dsigma), staggered, rtol=0.0, atol=rounding)
    transition = dense_transp_transition(name, states, tokens, dsigma)
    np.testing.assert_allclose(graph.transp_transition(tokens, dsigma), transition, rtol=0.0, atol=4e-16)


@both_graphs
@all_sizes
@all_dsigmas
def test_transitions_are_distributions_and_compose(name: str, states: int, dsigma: float) -> None:
    graph = BUILD[name](states)
    transition = transition_matrix(graph, dsigma)
    assert (transition >= 0.0).all()
    np.testing.assert_allclose(transition.sum(-1), 1.0, rtol=1e-14)
    np.testing.assert_allclose(transition @ transition, transition_matrix(graph, 2.0 * dsigma), rtol=0.0, atol=1e-14)


@both_graphs
@all_sizes
@all_dsigmas
@pytest.mark.parametrize("spread", [0.1, 2.0])
def test_reverse_transition_is_the_dense_product(name: str, states: int, dsigma: float, spread: float) -> None:
    graph = BUILD[name](states)
    log_score, tokens = random_case(states, seed=2, spread=spread)
    score = np.exp(log_score.astype(np.float64))
    transition = dense_transp_transition(name, states, tokens, dsigma)
    product = np.maximum(dense_staggered_score(name, score, dsigma) * transition, 0.0)
    total = product.sum(-1, keepdims=True)
    # Rounding follows the size of the terms before they cancel, once in each entry and once in the row's sum. An
    # exponential errs by as many eps as its argument is large, here a log score and, under absorb, log expm1(dsigma).
    terms = (np.exp(dsigma) * score + np.expm1(dsigma) * score.sum(-1, keepdims=True)) * transition
    eps = np.finfo(np.float32).eps * (4.0 + np.abs(log_score).max() + abs(np.log(np.expm1(dsigma))))
    tolerance = eps * (terms + product * terms.sum(-1, keepdims=True) / total) / total

    probabilities = graph.reverse_transition(log_score, tokens, dsigma)

    assert probabilities is log_score
    assert (np.abs(normalised(probabilities) - product / total) <= tolerance).all()


@both_graphs
@pytest.mark.parametrize(("sigma", "dsigma"), [(3.0, 0.5), (1.0, 1e-3), (1e-3, 9e-4), (2.0, 2.0)])
def test_with_the_true_score_one_position_is_reversed_exactly(name: str, sigma: float, dsigma: float) -> None:
    tokens_of_a_text = 5
    graph: Graph = Uniform(tokens_of_a_text) if name == "uniform" else Absorb(tokens_of_a_text)
    data = np.zeros(graph.vocab_size)
    data[:tokens_of_a_text] = np.random.default_rng(3).dirichlet(np.ones(tokens_of_a_text))
    now = data @ transition_matrix(graph, sigma)
    before = data @ transition_matrix(graph, sigma - dsigma)
    current = np.arange(graph.vocab_size, dtype=np.int32)
    posterior = before * graph.transp_transition(current, dsigma) / now[:, None]
    log_score = (np.log(now) - np.log(now)[:, None]).astype(np.float32)

    probabilities = graph.reverse_transition(log_score, current, dsigma)

    # Ratios up to 1 / sigma pass through float32 logarithms, and e^dsigma is what cancels.
    eps = np.finfo(np.float32).eps * (4.0 + abs(np.log(sigma * dsigma))) * np.exp(dsigma)
    np.testing.assert_allclose(normalised(probabilities), posterior, rtol=0.0, atol=4.0 * eps)


@both_graphs
@all_dsigmas
@pytest.mark.parametrize("size", [1e-6, 12.0, 80.0, 3e4])
def test_rows_stay_finite_and_drawable_whatever_the_scores(name: str, dsigma: float, size: float) -> None:
    graph = BUILD[name](66)
    random = np.random.default_rng(4)
    tokens = random.integers(0, 66, (2, 32), dtype=np.int32)
    extremes = np.concatenate([np.full((1, 32, 66), size), random.uniform(-size, size, (1, 32, 66))])
    for step in (graph.reverse_transition, graph.denoising_transition):
        log_score = extremes.astype(np.float32)
        np.put_along_axis(log_score, tokens[..., None], 0.0, axis=-1)
        with np.errstate(all="raise", under="ignore"):
            probabilities = step(log_score, tokens, dsigma)
        assert np.isfinite(probabilities).all()
        assert (probabilities >= 0.0).all()
        assert (probabilities.max(-1) > 0.0).all()


def test_uniform_keeps_an_even_row_even_where_float32_has_cancelled() -> None:
    log_score = np.zeros((1, 66), dtype=np.float32)
    probabilities = Uniform(66).reverse_transition(log_score, np.zeros(1, dtype=np.int32), dsigma=20.0)
    np.testing.assert_allclose(normalised(probabilities), 1.0 / 66.0, rtol=1e-6)


def test_uniform_denoises_with_the_same_step() -> None:
    log_score, tokens = random_case(5, seed=5)
    expected = Uniform(5).reverse_transition(log_score.copy(), tokens, 1e-4)
    np.testing.assert_array_equal(Uniform(5).denoising_transition(log_score, tokens, 1e-4), expected)


@pytest.mark.parametrize("dsigma", DSIGMAS)
def test_absorb_reads_masked_rows_only(dsigma: float) -> None:
    graph = Absorb(4)
    tokens = np.array([0, 3, graph.mask], dtype=np.int32)
    for step in (graph.reverse_transition, graph.denoising_transition):
        log_score = np.full((3, 5), np.nan, dtype=np.float32)
        log_score[2] = 0.0
        probabilities = step(log_score, tokens, dsigma)
        np.testing.assert_array_equal(probabilities[:2], np.eye(5)[[0, 3]])
        assert (probabilities[2, :4] > 0.0).all()


def test_absorb_denoises_in_proportion_to_the_scores_and_never_to_the_mask() -> None:
    graph = Absorb(4)
    log_score = np.array([[-200.0, -201.0, -202.0, -203.0, 0.0]], dtype=np.float32)
    probabilities = graph.denoising_transition(log_score, np.array([graph.mask], dtype=np.int32), dsigma=1e-5)
    np.testing.assert_allclose(probabilities, [[1.0, np.exp(-1.0), np.exp(-2.0), np.exp(-3.0), 0.0]], rtol=1e-6)


@pytest.mark.parametrize("dsigma", DSIGMAS)
def test_absorb_leaves_the_mask_for_certain_where_a_score_exceeds_one(dsigma: float) -> None:
    graph = Absorb(2)
    log_score = np.full((10007, 3), -30.0, dtype=np.float32)
    log_score[:, 0] = np.geomspace(20.0, 3e4, 10007)
    log_score[:, graph.mask] = 0.0
    probabilities = graph.reverse_transition(log_score, np.full(10007, graph.mask, dtype=np.int32), dsigma)
    assert (probabilities[:, graph.mask] == 0.0).all()


def test_a_token_of_probability_zero_stays_so() -> None:
    log_score = np.array([[-np.inf, 1.0, -np.inf, 0.0]], dtype=np.float32)
    tokens = np.array([3], dtype=np.int32)
    for graph in (Uniform(4), Absorb(3)):
        probabilities = graph.reverse_transition(log_score.copy(), tokens, 0.1)
        np.testing.assert_array_equal(probabilities[0, [0, 2]], 0.0)


@both_graphs
def test_a_step_allocates_nothing_of_the_size_of_the_scores(name: str) -> None:
    graph = BUILD[name](16384)
    tokens = np.full((1, 64), 16383, dtype=np.int32)
    log_score = np.zeros((1, 64, 16384), dtype=np.float32)
    for step in (graph.reverse_transition, graph.denoising_transition):
        tracemalloc.start()
        step(log_score, tokens, 0.1)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < log_score.nbytes / 10


def test_sample_limit_is_all_mask_or_uniform_tokens() -> None:
    streams = np.arange(30000, dtype=np.uint64).reshape(3, -1)
    assert (Absorb(4).sample_limit(7, streams) == 4).all()
    limit = Uniform(4).sample_limit(7, streams)
    assert limit.shape == streams.shape
    assert limit.dtype == np.int32
    # Each count is binomial with p = 1/4: five standard deviations.
    counts = np.bincount(limit.ravel(), minlength=4)
    assert np.abs(counts - 7500).max() < 5.0 * np.sqrt(30000 * 0.25 * 0.75)


@pytest.mark.parametrize("build", [Uniform, Absorb])
def test_a_graph_without_tokens_is_refused(build: Callable[[int], Graph]) -> None:
    with pytest.raises(ValueError, match="tokens is 0"):
        build(0)
