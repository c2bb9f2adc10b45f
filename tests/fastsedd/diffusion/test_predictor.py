"""Predictors: the distribution of a step, and what temperature and truncation make of it."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from fastsedd_kernels.sampling.reference import law_probabilities
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fastsedd.diffusion.graph import Absorb, Graph, Uniform
from fastsedd.diffusion.predictor import ANALYTIC, DENOISER, EULER, LIKELIEST, Predictor, apply_temperature, truncate
from fastsedd.diffusion.timegrid import Step

FLOAT32 = np.finfo(np.float32)


def random_case(graph: Graph, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    random = np.random.default_rng(seed)
    tokens = random.integers(0, graph.vocab_size, (3, 8), dtype=np.int32)
    log_score = random.normal(0.0, 2.0, (*tokens.shape, graph.vocab_size)).astype(np.float32)
    np.put_along_axis(log_score, tokens[..., None], 0.0, axis=-1)
    return log_score, tokens


def official(
    name: str, graph: Graph, score: NDArray[np.float64], tokens: NDArray[np.int32], step: Step
) -> NDArray[np.float64]:
    """One step's probabilities, [..., V], by the formulas of the published code in float64."""
    states, absorb = graph.vocab_size, isinstance(graph, Absorb)
    one_hot, masked = np.eye(states)[tokens], (tokens == states - 1)[..., None]
    if name == "euler":
        rate = np.full_like(score, 1.0 / states)
        if absorb:
            rate = np.where(masked, 1.0, 0.0) - one_hot
        reverse = np.where(one_hot > 0, 0.0, rate * score)
        reverse -= one_hot * reverse.sum(-1, keepdims=True)
        row = np.maximum(one_hot + step.rate_dt * reverse, 0.0)
    else:
        shrink = np.exp(-step.dsigma)
        if absorb:
            staggered = score / shrink
            staggered[..., -1] += (1.0 - 1.0 / shrink) * score.sum(-1)
            transition = shrink * one_hot + np.where(masked, 1.0 - shrink, 0.0)
        else:
            staggered = score / shrink + (shrink - 1.0) / (states * shrink) * score.sum(-1, keepdims=True)
            transition = (1.0 - one_hot) * (1.0 - shrink) / states
            transition += one_hot * (1.0 - transition.sum(-1, keepdims=True))
        row = np.maximum(staggered * transition, 0.0)
        if name == "denoiser" and absorb:
            row[..., -1] = 0.0
    total: NDArray[np.float64] = row.sum(-1, keepdims=True)
    return row / total


def by_law(
    predictor: Predictor, graph: Graph, log_score: NDArray[np.float64], tokens: NDArray[np.int32], step: Step
) -> NDArray[np.float64]:
    """The same by the law of a draw; what may not change stays."""
    result = np.eye(graph.vocab_size)[tokens]
    changing = graph.changing(tokens)
    current = tokens[changing]
    drawn = law_probabilities(log_score[changing][:, : graph.tokens], current, predictor.law(graph, step))
    rows = np.zeros((len(current), graph.vocab_size))
    rows[:, : graph.tokens] = drawn[:, :-1]
    np.add.at(rows, (np.arange(len(current)), current), drawn[:, -1])
    result[changing] = rows
    return result


STEPS = [Step(6.9, 0.5, 0.4), Step(1.0, 1e-4, 1e-4), Step(1e-3, 9e-4, 8e-4), Step(2.0, 0.05, 0.06)]


@pytest.mark.parametrize("graph", [Uniform(5), Absorb(4), Uniform(66), Absorb(65)], ids=str)
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(("name", "predictor"), [("analytic", ANALYTIC), ("euler", EULER), ("denoiser", DENOISER)])
def test_a_step_has_the_published_distribution_in_both_forms(
    graph: Graph, step: Step, name: str, predictor: Predictor
) -> None:
    if name == "denoiser":
        step = Step(step.dsigma, step.dsigma, step.rate_dt)
    log_score, tokens = random_case(graph, seed=3)
    log_score -= np.float32(np.log(graph.vocab_size))  # else masks have no chance to stay
    np.put_along_axis(log_score, tokens[..., None], 0.0, axis=-1)
    exact = log_score.astype(np.float64)
    expected = official(name, graph, np.exp(exact), tokens, step)
    np.testing.assert_allclose(by_law(predictor, graph, exact, tokens, step), expected, rtol=0.0, atol=1e-10)
    rows = predictor.transition(graph, log_score.copy(), tokens, step).astype(np.float64)
    np.testing.assert_allclose(rows / rows.sum(-1, keepdims=True), expected, rtol=0.0, atol=1e-6)


@pytest.mark.parametrize("step", STEPS)
def test_the_analytic_step_of_a_clean_prediction_is_mdlms(step: Step) -> None:
    """Its ddpm update: p (m_t - m_s) for a token, m_s to stay, m = 1 - e^-sigma."""
    graph = Absorb(4)
    clean = np.random.default_rng(4).dirichlet(np.ones(4), 3)
    now, later = -np.expm1(-step.sigma), -np.expm1(-(step.sigma - step.dsigma))
    expected = np.concatenate([clean * (now - later), np.full((3, 1), later)], axis=1) / now
    log_score = np.concatenate([np.log(clean) - np.log(np.expm1(step.sigma)), np.zeros((3, 1))], axis=1)
    masks = np.full(3, graph.mask, np.int32)
    np.testing.assert_allclose(by_law(ANALYTIC, graph, log_score, masks, step), expected, rtol=0.0, atol=1e-10)
    likeliest = LIKELIEST.transition(graph, log_score.astype(np.float32), masks, step)
    np.testing.assert_array_equal(likeliest, np.eye(5)[clean.argmax(-1)])


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(("name", "predictor"), [("analytic", ANALYTIC), ("euler", EULER), ("denoiser", DENOISER)])
def test_the_steps_of_a_clean_prediction_are_radds(step: Step, name: str, predictor: Predictor) -> None:
    """Its score is p e^-sigma / (1 - e^-sigma), in Lou et al.'s steps (Ou et al. 2024, theorem 1)."""
    if name == "denoiser":
        step = Step(step.dsigma, step.dsigma, step.rate_dt)
    graph = Absorb(4)
    clean = np.random.default_rng(5).dirichlet(np.ones(4), 3)
    factor = np.exp(-step.sigma) / -np.expm1(-step.sigma)
    score = np.concatenate([clean * factor, np.ones((3, 1))], axis=1)
    log_score = np.concatenate([np.log(clean) - np.log(np.expm1(step.sigma)), np.zeros((3, 1))], axis=1)
    masks = np.full(3, graph.mask, np.int32)
    expected = official(name, graph, score, masks, step)
    np.testing.assert_allclose(by_law(predictor, graph, log_score, masks, step), expected, rtol=0.0, atol=1e-10)
    rows = predictor.transition(graph, log_score.astype(np.float32), masks, step).astype(np.float64)
    np.testing.assert_allclose(rows / rows.sum(-1, keepdims=True), expected, rtol=0.0, atol=1e-6)


def truncated(
    row: NDArray[np.float64], own: int, top_k: int, top_p: float, within: bool = False
) -> NDArray[np.float64]:
    jumps = sorted((p for y, p in enumerate(row) if y != own), reverse=True)
    kept = jumps[: top_k or None]
    nucleus = next(i for i in range(1, len(kept) + 1) if sum(kept[:i]) >= top_p * sum(kept) * (1 - 1e-12))
    if within:
        nucleus = max(i for i in range(1, len(kept) + 1) if i == 1 or sum(kept[:i]) <= top_p * sum(kept))
    least = kept[nucleus - 1]
    left = np.where((row >= least) & (np.arange(len(row)) != own), row, 0.0)
    left *= sum(jumps) / left.sum()
    left[own] = row[own]
    return left


@given(top_k=st.integers(0, 8), top_p=st.sampled_from([0.01, 0.3, 0.9, 0.999, 1.0]), seed=st.integers(0, 2**32))
def test_truncation_keeps_the_likeliest_jumps_and_their_mass(top_k: int, top_p: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    tokens = random.integers(0, 6, 4, dtype=np.int32)
    before = random.gamma(1.0, size=(4, 6)).astype(np.float32)
    expected = [truncated(row.astype(np.float64), own, top_k, top_p) for row, own in zip(before, tokens, strict=True)]
    after = before.copy()
    truncate(after, tokens, top_k, top_p)
    np.testing.assert_allclose(after, expected, rtol=1e-6)
    if top_k == 0 and top_p == 1.0:
        np.testing.assert_array_equal(after, before)
    after = before.copy()
    truncate(after, tokens, top_k, top_p, within=True)
    if top_p < 1.0:
        rows = zip(before.astype(np.float64), tokens, strict=True)
        expected = [truncated(row, own, top_k, top_p, within=True) for row, own in rows]
    np.testing.assert_allclose(after, expected, rtol=1e-6)


def test_truncation_keeps_ties_and_rows_that_never_jump() -> None:
    probabilities = np.array([[0.2, 0.2, 0.5, 0.1], [0.0, 0.0, 0.0, 1.0]], np.float32)
    truncate(probabilities, np.array([3, 3], np.int32), 2, 1.0)
    np.testing.assert_allclose(probabilities, [[0.2, 0.2, 0.5, 0.1], [0.0, 0.0, 0.0, 1.0]], rtol=1e-6)


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
    warm = graph.reverse_transition(log_score.copy(), masked, 0.5)
    cold = warm.copy()
    apply_temperature(cold, masked, 0.1)
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
