"""Predictors: the step that each takes, and the law of the temperature."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fastsedd.diffusion.graph import Absorb, Graph, Uniform
from fastsedd.diffusion.predictor import analytic, apply_temperature, denoise

FLOAT32 = np.finfo(np.float32)
GRAPHS = [Uniform(5), Absorb(4)]


def random_case(graph: Graph, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    random = np.random.default_rng(seed)
    tokens = random.integers(0, graph.vocab_size, (3, 8), dtype=np.int32)
    log_score = random.normal(0.0, 2.0, (*tokens.shape, graph.vocab_size)).astype(np.float32)
    np.put_along_axis(log_score, tokens[..., None], 0.0, axis=-1)
    return log_score, tokens


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_a_predictor_is_the_step_of_the_graph_at_a_temperature(graph: Graph, temperature: float) -> None:
    log_score, tokens = random_case(graph, seed=1)
    for predict, transition in ((analytic, graph.reverse_transition), (denoise, graph.denoising_transition)):
        expected = transition(log_score.copy(), tokens, 0.3)
        apply_temperature(expected, tokens, temperature)
        overwritten = log_score.copy()
        probabilities = predict(graph, overwritten, tokens, 0.3, temperature)
        assert probabilities is overwritten
        np.testing.assert_array_equal(probabilities, expected)


@given(temperature=st.floats(0.05, 20.0), seed=st.integers(0, 2**32), scale=st.sampled_from([1e-20, 1.0, 1e20]))
def test_temperature_sharpens_the_jump_and_keeps_its_mass(temperature: float, seed: int, scale: float) -> None:
    random = np.random.default_rng(seed)
    tokens = random.integers(0, 6, 4, dtype=np.int32)
    before = (random.gamma(1.0, size=(4, 6)) * scale).astype(np.float32)
    exact = before.astype(np.float64)
    np.put_along_axis(exact, tokens[:, None], 0.0, axis=-1)
    jump = exact.sum(-1, keepdims=True)
    powers = (exact / exact.max(-1, keepdims=True)) ** (1.0 / temperature)
    expected = jump * powers / powers.sum(-1, keepdims=True)
    np.put_along_axis(expected, tokens[:, None], np.take_along_axis(before, tokens[:, None], axis=-1), axis=-1)

    apply_temperature(before, tokens, temperature)

    # A power of 1/T multiplies the rounding of its base by 1/T, and that of its exponent by its logarithm, at most 88.
    # Below the smallest normal number float32 loses bits: in the powers, scaled by up to the jump, and in the result.
    rounding, underflow = (88.0 + 4.0 / temperature) * FLOAT32.eps, FLOAT32.tiny * (1.0 + jump.max())
    np.testing.assert_allclose(before, expected, rtol=float(rounding), atol=float(underflow))


def test_temperature_one_changes_no_bit() -> None:
    probabilities = np.random.default_rng(2).gamma(1.0, size=(3, 7)).astype(np.float32)
    before = probabilities.copy()
    apply_temperature(probabilities, np.array([0, 3, 6], dtype=np.int32), 1.0)
    np.testing.assert_array_equal(probabilities, before)


@pytest.mark.parametrize("temperature", [1e-3, 0.5, 1e3])
def test_a_row_that_never_jumps_is_left_alone(temperature: float) -> None:
    probabilities = np.eye(3, dtype=np.float32)
    with np.errstate(all="raise", under="ignore"):
        apply_temperature(probabilities, np.arange(3, dtype=np.int32), temperature)
    np.testing.assert_array_equal(probabilities, np.eye(3))


def test_a_low_temperature_jumps_to_the_likeliest_other_token() -> None:
    probabilities = np.array([[0.9, 0.04, 0.05, 0.01]], dtype=np.float32)
    apply_temperature(probabilities, np.zeros(1, dtype=np.int32), 1e-3)
    np.testing.assert_allclose(probabilities, [[0.9, 0.0, 0.1, 0.0]], rtol=1e-6)


def test_temperature_makes_an_unlikely_unmasking_no_likelier() -> None:
    graph = Absorb(2)
    log_score, masked = np.log(np.array([[0.2, 0.1, 1.0]], dtype=np.float32)), np.array([graph.mask], dtype=np.int32)
    warm = analytic(graph, log_score.copy(), masked, 0.5)
    cold = analytic(graph, log_score.copy(), masked, 0.5, temperature=0.1)
    assert cold[0, graph.mask] == warm[0, graph.mask]
    assert cold[0, 0] > warm[0, 0]
    assert cold[0, 1] < warm[0, 1]


def test_temperature_allocates_nothing_of_the_size_of_the_probabilities() -> None:
    probabilities = np.ones((64, 16384), dtype=np.float32)
    tokens = np.zeros(64, dtype=np.int32)
    tracemalloc.start()
    apply_temperature(probabilities, tokens, 0.5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < probabilities.nbytes / 10
