"""Uniform-state models' reverse step: its law against the authors' in float64, and the sampler by it."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
from fastsedd_kernels import Law, pack, sample_categorical, sample_linear, uniform
from fastsedd_kernels.sampling import reference as sampling
from numpy.typing import NDArray

from fastsedd.diffusion import posterior, reference
from fastsedd.diffusion.choice import Choice
from fastsedd.diffusion.graph import Uniform
from fastsedd.diffusion.noise import LogLinear, Noise, Sine
from fastsedd.diffusion.parametrisation import Parametrisation
from fastsedd.diffusion.posterior_sampler import PosteriorSampler
from fastsedd.diffusion.sampler import FREE, Batch
from fastsedd.diffusion.timegrid import Step, TimeGrid, uniform_grid

# sigma and dsigma, from almost no noise to more than any schedule has; where they are equal, the last step.
STEPS = [(6.9, 2.0), (6.9, 1e-3), (13.6, 3.0), (0.5, 0.1), (1e-2, 1e-3), (1e-5, 1e-5), (1.5, 1.5), (20.0, 20.0)]
JOINT = np.array([[8.0, 1.0, 3.0], [1.0, 6.0, 1.0], [4.0, 1.0, 7.0]]) / 32.0


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    numbers = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return numbers / numbers.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("spread", [0.1, 3.0, 20.0])
@pytest.mark.parametrize("states", [2, 7, 50258])
def test_one_step_is_the_authors_posterior(states: int, spread: float) -> None:
    rng = np.random.default_rng(states)
    logits = (spread * rng.standard_normal((5, states)) - 3.0).astype(np.float32)
    tokens = rng.integers(0, states, 5).astype(np.int32)
    tokens[0] = logits[0].argmax()
    for sigma, dsigma in STEPS:
        found = posterior.transition(logits.copy(), tokens, Step(sigma, dsigma, 1.0))
        assert found.dtype == np.float32 and (found >= 0.0).all()
        law = found.astype(np.float64)
        law /= law.sum(axis=-1, keepdims=True)
        expected = reference.posterior(softmax(logits), tokens, sigma, dsigma)
        np.testing.assert_allclose(expected.sum(axis=-1), 1.0, rtol=1e-9)
        assert np.abs(law - expected).max() < 1e-6


def test_it_is_the_uniform_graphs_reverse_step_of_the_scores_that_the_prediction_implies() -> None:
    rng = np.random.default_rng(1)
    logits, tokens = 2.0 * rng.standard_normal((4, 7)), rng.integers(0, 7, 4).astype(np.int32)
    graph, how = Uniform(7), Parametrisation("clean token", 7, 7)
    for sigma, dsigma in STEPS[:5]:
        scores = reference.log_scores(how, logits[:, None], tokens[:, None], np.full(4, sigma))[:, 0]
        rows = graph.reverse_transition(scores, tokens, dsigma)
        expected = reference.posterior(softmax(logits.astype(np.float64)), tokens, sigma, dsigma)
        np.testing.assert_allclose(rows / rows.sum(axis=-1, keepdims=True), expected, atol=1e-10)


def test_a_clean_token_and_then_the_next_are_drawn_as_one() -> None:
    """The sum over clean tokens of their law times that of the next token, given each of them."""
    states, rng = 7, np.random.default_rng(4)
    logits = 2.0 * rng.standard_normal((states, states))
    tokens = np.arange(states, dtype=np.int32)
    u = (np.arange(100_000) + 0.5) / 100_000
    for sigma, dsigma in STEPS:
        step = Step(sigma, dsigma, 1.0)
        clean = sampling.law_probabilities(logits, tokens, posterior.clean_law(states, step))
        clean[:, :-1] += clean[:, -1:] * np.eye(states)  # what stays is the clean token x
        given = reference.posterior(
            np.tile(np.eye(states)[None], (states, 1, 1)), np.repeat(tokens[:, None], states, 1), sigma, dsigma
        )
        found = np.einsum("xz,xzy->xy", clean[:, :-1], given)
        np.testing.assert_allclose(found, reference.posterior(softmax(logits), tokens, sigma, dsigma), atol=1e-10)
        for x, z in ((0, 0), (1, 3), (6, 5)):
            at = np.full(len(u), 1, np.int32)
            drawn = posterior.given_clean(z * at, x * at, u, states, step)
            assert drawn.dtype == np.int32
            shares = np.bincount(drawn, minlength=states) / len(u)
            np.testing.assert_allclose(shares, given[x, z], atol=3e-5)


@pytest.mark.parametrize("noise", [LogLinear(), Sine()], ids=["loglinear", "sine"])
def test_the_bounds_integrand_is_the_authors_loss(noise: Noise) -> None:
    """Schiff et al. 2024: the loss of a position in continuous time, written out, against rate times score entropy."""
    states, rng = 7, np.random.default_rng(2)
    logits = 2.0 * rng.standard_normal((3, 4, states))
    clean, tokens = (rng.integers(0, states, (3, 4)).astype(np.int32) for _ in range(2))
    tokens[0] = clean[0]
    t = np.array([0.05, 0.4, 0.95])
    sigma = noise.total(t)
    scores = reference.log_scores(Parametrisation("clean token", states, states), logits, tokens, sigma)
    found = noise.rate(t)[:, None] * Uniform(states).score_entropy(scores, tokens, clean, sigma[:, None])
    alpha = np.exp(-sigma)
    slope = (np.exp(-noise.total(t + 1e-6)) - np.exp(-noise.total(t - 1e-6))) / 2e-6
    for text, position in np.ndindex(3, 4):
        a, x = alpha[text], tokens[text, position]
        predicted = states * a * softmax(logits[text, position]) + 1.0 - a
        true = states * a * np.eye(states)[clean[text, position]] + 1.0 - a
        ratios = true / true[x] * (np.log(predicted[x] / predicted) + np.log(true / true[x]))
        loss = slope[text] / (states * a) * (states / true[x] - states / predicted[x] - ratios.sum())
        assert found[text, position] == pytest.approx(loss, rel=1e-6, abs=1e-9)


class FromPrediction:
    """A network whose logits are a function of the state: int32 [B, L] to probabilities [B, L, V]."""

    normalised = True

    def __init__(self, predict: object) -> None:
        self.predict = predict
        self.sigmas: list[float] = []

    def draw(
        self, tokens: NDArray[np.int32], sigma: float, rows: NDArray[np.intp], law: Law, seeds: NDArray[np.uint64],
        streams: NDArray[np.uint64],
    ) -> NDArray[np.int32]:  # fmt: skip
        self.sigmas.append(sigma)
        clean = self.predict(tokens, sigma)  # type: ignore[operator]
        logits = np.log(clean).reshape(-1, clean.shape[-1])[rows].astype(np.float32) + np.float32(1.5)
        weight, current = pack(np.eye(clean.shape[-1], dtype=np.float32)), tokens.reshape(-1)[rows]
        return sample_linear(logits, weight, law=law, seed=seeds, streams=streams, current=current)

    def logits(
        self, tokens: NDArray[np.int32], sigma: float, rows: NDArray[np.intp]
    ) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        self.sigmas.append(sigma)
        clean = self.predict(tokens, sigma)  # type: ignore[operator]
        logits = np.log(clean).reshape(-1, clean.shape[-1])[rows].astype(np.float32) + np.float32(1.5)
        for first in range(0, len(rows), 9999):
            yield slice(first, min(first + 9999, len(rows))), logits[first : first + 9999]


def sample(
    network: FromPrediction, grid: TimeGrid, texts: int, length: int, choice: Choice | None = None,
    fixed: list[int] | None = None, states: int = 3,
) -> NDArray[np.int32]:  # fmt: skip
    given = np.full(length, FREE, np.int32) if fixed is None else np.array(fixed, np.int32)
    batch = Batch.of(range(texts), [5] * texts, [given] * texts)
    sampler = PosteriorSampler(Uniform(states), grid, Choice() if choice is None else choice)
    return [*sampler.run(network, batch)][-1].tokens  # type: ignore[arg-type]


def chi_square(counts: NDArray[np.int64], probabilities: NDArray[np.float64]) -> float:
    expected = counts.sum() * probabilities
    return float(((counts - expected) ** 2 / expected).sum())


in_rows = pytest.mark.parametrize("rows", [False, True], ids=["by law", "in rows"])


@in_rows
@pytest.mark.parametrize("noise", [LogLinear(), Sine()], ids=["loglinear", "sine"])
@pytest.mark.parametrize("steps", [1, 4])
def test_one_position_is_sampled_exactly_in_any_number_of_steps(noise: Noise, steps: int, rows: bool) -> None:
    """But for the start, which is uniform: at t = 1 up to a thousandth of the texts is left."""
    data = np.array([0.6, 0.1, 0.3])
    network = FromPrediction(lambda tokens, _: np.tile(data, (*tokens.shape, 1)))
    texts = sample(network, uniform_grid(noise, steps), 50000, 1, Choice(top_k=3 * rows))
    assert chi_square(np.bincount(texts.ravel(), minlength=3), data) < 13.8  # one chance in a thousand


def test_many_steps_reproduce_a_joint_distribution() -> None:
    """The prediction that is best: of a position from the others alone (its own state is in the posterior already)."""

    def predict(tokens: NDArray[np.int32], sigma: float) -> NDArray[np.float64]:
        noise = math.exp(-sigma) * np.eye(3) - np.expm1(-sigma) / 3.0
        both = np.stack([(JOINT @ noise)[:, tokens[:, 1]].T, (noise.T @ JOINT)[tokens[:, 0]]], axis=1)
        return both / both.sum(axis=-1, keepdims=True)

    texts = sample(FromPrediction(predict), uniform_grid(LogLinear(), 100), 10000, 2)
    assert chi_square(np.bincount(3 * texts[:, 0] + texts[:, 1], minlength=9), JOINT.ravel()) < 26.1
    texts = sample(FromPrediction(predict), uniform_grid(LogLinear(), 5), 100, 2, fixed=[1, FREE])
    assert (texts[:, 0] == 1).all() and len(set(texts[:, 1])) == 3


@in_rows
@pytest.mark.parametrize("predictor", ["analytic", "ddpm"])
def test_states_are_those_of_the_authors_loop(predictor: str, rows: bool) -> None:
    """Every step by the posterior in float64 and the same random numbers; the end by a draw, or the likeliest token."""
    states, texts, length, steps = 11, 6, 9, 4
    weights = np.random.default_rng(6).standard_normal((states, states))

    def predict(tokens: NDArray[np.int32], sigma: float) -> NDArray[np.float64]:
        around = weights[np.roll(tokens, 1, 1)] + weights.T[np.roll(tokens, -1, 1)]
        return softmax((around / (1.0 + sigma)).astype(np.float64))

    network, grid = FromPrediction(predict), uniform_grid(LogLinear(), steps)
    batch = Batch.of(range(texts), [5] * texts, [np.full(length, FREE, np.int32)] * texts)
    sampler = PosteriorSampler(Uniform(states), grid, Choice(predictor, top_k=rows * states))  # type: ignore[arg-type]
    found = [record.tokens.copy() for record in sampler.run(network, batch)]  # type: ignore[arg-type]
    tokens = Uniform(states).sample_limit(batch.seeds_of_draws(), batch.streams(0))
    times = np.linspace(1.0, 1e-5, steps + 1)
    for i, state in enumerate(found):
        t = times[i]
        sigma = -math.log(1.0 - 0.999 * t)
        after = -math.log(1.0 - 0.999 * times[i + 1]) if i < steps else 0.0
        clean = predict(tokens, sigma)
        if i == steps and predictor == "ddpm":
            tokens = clean.argmax(axis=-1).astype(np.int32)
        elif rows:
            law = reference.posterior(clean, tokens, sigma, sigma - after).astype(np.float32)
            tokens = sample_categorical(law, batch.seeds_of_draws(), batch.streams(i + 1))
        else:
            step, streams, x = Step(sigma, sigma - after, 1.0), batch.streams(i + 1).reshape(-1), tokens.reshape(-1)
            numbers = uniform(5, streams)
            first = posterior.clean_law(states, step)
            z = sampling.sample_law(np.log(clean).reshape(-1, states), x, first, 5, streams)
            tokens = posterior.given_clean(z, x, numbers, states, step).reshape(tokens.shape)
        np.testing.assert_array_equal(state, tokens)
    assert len(found) == len(network.sigmas) == steps + 1
