"""The likelihood bound: tight where the score is exact, its entropies by their definition, its noise from its place."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from fastsedd.diffusion import likelihood
from fastsedd.diffusion.graph import Absorb, Graph, Uniform
from fastsedd.diffusion.noise import Geometric, LogLinear, Noise

Array = NDArray[np.float64]

TOKENS = 3
GRAPHS = [Uniform(TOKENS), Absorb(TOKENS)]
NOISES = [LogLinear(), Geometric(1e-3, 5.0)]

both_graphs = pytest.mark.parametrize("graph", GRAPHS, ids=["uniform", "absorb"])
both_noises = pytest.mark.parametrize("noise", NOISES, ids=["loglinear", "geometric"])
all_sigmas = pytest.mark.parametrize("sigma", [1e-9, 1e-4, 0.3, 2.0, 40.0, 800.0])


def text_distribution() -> Array:
    """Probabilities of all texts of two tokens, which depend on each other: [TOKENS, TOKENS]."""
    weights = np.random.default_rng(5).gamma(0.5, size=(TOKENS, TOKENS))
    return weights / weights.sum()


def transitions(graph: Graph, sigma: Array) -> Array:
    """Probability of each state after noise sigma, for each token: sigma [N] to [N, TOKENS, V]."""
    onto = np.arange(graph.vocab_size, dtype=np.int32)
    return np.stack([graph.transp_transition(onto, float(one)).T[:TOKENS] for one in sigma])


def noised(graph: Graph, sigma: Array) -> Array:
    """Probabilities of all noised texts, by enumeration: sigma [N] to [N, V, V]."""
    each = transitions(graph, sigma)
    return np.einsum("ab,nai,nbj->nij", text_distribution(), each, each)


def exact_log_score(graph: Graph) -> likelihood.LogScore:
    """log p(y) / p(x), for every y that differs from x in one position."""

    def log_score(tokens: NDArray[np.int32], sigma: Array) -> Array:
        log_p = np.log(np.maximum(noised(graph, sigma), 1e-300))
        rows = np.arange(len(tokens))
        first, second = log_p[rows, :, tokens[:, 1]], log_p[rows, tokens[:, 0]]
        return np.stack([first, second], axis=1) - log_p[rows, tokens[:, 0], tokens[:, 1]][:, None, None]

    return log_score


def entropy(probabilities: Array) -> float:
    positive = probabilities[probabilities > 0.0]
    return float(-(positive * np.log(positive)).sum())


def information(graph: Graph, sigma: float) -> float:
    """Mutual information of a text and its noised form, in nats, by enumeration: H(x_t) - H(x_t | x_0)."""
    p = text_distribution()
    each = transitions(graph, np.array([sigma]))[0]
    given = [entropy(row) for row in each]
    conditional = sum(p[a, b] * (given[a] + given[b]) for a in range(TOKENS) for b in range(TOKENS))
    return entropy(noised(graph, np.array([sigma]))[0]) - conditional


def spread_texts(count: int) -> NDArray[np.int32]:
    """Texts in the shares that the distribution gives them: [count, 2], with none of the variance of drawn ones."""
    at = (np.arange(count) + 0.5) / count
    each = np.searchsorted(np.cumsum(text_distribution().ravel()), at)
    return np.stack(np.divmod(each, TOKENS), axis=1).astype(np.int32)


def standard_error(values: Array) -> float:
    return float(values.std(ddof=1)) / math.sqrt(len(values))


@both_graphs
@both_noises
def test_the_bound_is_tight_where_the_score_is_exact(graph: Graph, noise: Noise) -> None:
    """Its expectation over texts is the information that the schedule destroys, and then what the ends add.

    At no noise that is the entropy of the texts: what is left out is left at sigma(0) and at sigma(1).
    """
    texts = spread_texts(4000)
    by_window = likelihood.bound(exact_log_score(graph), graph, noise, texts, times=8, seed=3, batch_size=4096)
    destroyed = information(graph, float(noise.total(0.0))) - information(graph, float(noise.total(1.0)))
    expected = destroyed / 2 + likelihood.ends(graph, noise)
    error = standard_error(by_window)
    assert error < 0.05
    assert abs(by_window.mean() - expected) < 4 * error
    assert expected > entropy(text_distribution()) / 2


@both_graphs
@both_noises
def test_the_cost_of_a_wrong_score(graph: Graph, noise: Noise) -> None:
    """Ratios e^c times too large cost e^c - 1 - c at every jump, of which the schedule makes a known number."""
    exact, c = exact_log_score(graph), 0.5

    def too_large(tokens: NDArray[np.int32], sigma: Array) -> Array:
        log_score = exact(tokens, sigma) + c
        np.put_along_axis(log_score, tokens[..., None], 0.0, axis=-1)
        return log_score

    texts = spread_texts(1000)
    tight, loose = (
        likelihood.bound(log_score, graph, noise, texts, times=8, seed=3, batch_size=4096)
        for log_score in (exact, too_large)
    )
    first, last = float(noise.total(0.0)), float(noise.total(1.0))
    uniform_jumps = (last - first) * (TOKENS - 1) / TOKENS
    jumps = uniform_jumps if isinstance(graph, Uniform) else math.exp(-first) - math.exp(-last)
    difference = loose - tight  # of the same noise
    assert standard_error(difference) < 0.05
    assert abs(difference.mean() - (math.exp(c) - 1 - c) * jumps) < 4 * standard_error(difference)


@both_graphs
@both_noises
def test_the_ends_vanish_as_the_schedule_grows(graph: Graph, noise: Noise) -> None:
    assert 0.0 < likelihood.ends(graph, noise) < 0.03
    assert likelihood.ends(graph, Geometric(1e-9, 60.0)) < 1e-6


@both_graphs
def test_information_of_a_uniform_token_is_that_of_its_transitions(graph: Graph) -> None:
    for sigma in (0.0, 1e-6, 0.4, 3.0, 60.0):
        each = transitions(graph, np.array([sigma]))[0]
        expected = entropy(each.mean(axis=0)) - np.mean([entropy(row) for row in each])
        assert graph.information(sigma) == pytest.approx(expected, abs=1e-12)


@both_graphs
def test_noise_has_the_probabilities_of_the_transition(graph: Graph) -> None:
    uniform = (np.arange(100_000) + 0.5) / 100_000
    for sigma in (1e-4, 0.4, 3.0):
        expected = transitions(graph, np.array([sigma]))[0]
        for token in range(TOKENS):
            clean = np.full(uniform.shape, token, np.int32)
            noisy = graph.sample_transition(clean, np.array([sigma]), uniform)
            assert noisy.dtype == np.int32
            counts = np.bincount(noisy, minlength=graph.vocab_size)
            np.testing.assert_allclose(counts / len(uniform), expected[token], atol=2e-5)


def published_entropy(graph: Graph, log_score: Array, tokens: NDArray[np.int32], clean: NDArray[np.int32],
                      sigma: Array) -> Array:  # fmt: skip
    """The formulas of the published code, and of training/loss.py, in float64."""

    def at(values: Array, index: NDArray[np.int32]) -> Array:
        return np.take_along_axis(values, index[..., None], axis=-1)[..., 0]

    esigm1, score = np.expm1(sigma), np.exp(log_score)
    if isinstance(graph, Absorb):
        constant = (-np.log(esigm1) - 1) / esigm1
        return np.where(tokens == graph.mask, score[..., :-1].sum(-1) - at(log_score, clean) / esigm1 + constant, 0.0)
    states = graph.vocab_size
    ratio = esigm1 / (esigm1 + states)  # there 1 - states / (esigm1 + states), which cancels
    stayed = tokens == clean
    negative = log_score.mean(-1) - at(log_score, tokens) / states
    negative = np.where(stayed, ratio * negative, at(log_score, clean) / esigm1 + negative)
    constant = np.where(
        stayed,
        (states - 1) / states * ratio * (np.log(ratio) - 1),
        ((-np.log(ratio) - 1) / ratio - (states - 2)) / states,
    )
    return score.mean(-1) - at(score, tokens) / states - negative + constant


def random_case(graph: Graph, dtype: type) -> tuple[Array, NDArray[np.int32], NDArray[np.int32]]:
    """Log scores [4, 9, V], the current tokens and the clean ones [4, 9], of which some stayed."""
    random = np.random.default_rng(2)
    clean = random.integers(0, graph.tokens, (4, 9), np.int32)
    tokens = np.where(random.random((4, 9)) < 0.5, clean, random.integers(0, graph.vocab_size, (4, 9), np.int32))
    if isinstance(graph, Absorb):
        tokens = np.where(tokens == clean, clean, graph.mask)
    log_score = random.normal(0.0, 2.0, (4, 9, graph.vocab_size)).astype(dtype)
    np.put_along_axis(log_score, tokens[..., None], 0.0, axis=-1)
    return log_score, tokens, clean


@pytest.mark.parametrize("build", [Uniform, Absorb])
@pytest.mark.parametrize("size", [2, 5, 65])
@pytest.mark.parametrize(("dtype", "epsilon"), [(np.float64, 2**-52), (np.float32, 2**-23)])
def test_entropies_are_those_of_the_published_code(
    build: Callable[[int], Graph], size: int, dtype: type, epsilon: float
) -> None:
    graph = build(size)
    log_score, tokens, clean = random_case(graph, dtype)
    sigma = np.array([0.01, 0.4, 2.0, 20.0])[:, None]
    exact = log_score.astype(np.float64)
    expected = published_entropy(graph, exact, tokens, clean, sigma)
    scale = np.exp(exact).sum(-1) + (size + np.abs(exact).sum(-1)) * (1 + size / np.expm1(sigma))
    result = graph.score_entropy(log_score, tokens, clean, sigma)
    assert result.dtype == np.float64
    assert (np.abs(result - expected) <= 4 * epsilon * scale).all()


@both_graphs
@all_sigmas
def test_entropies_are_zero_at_the_ratios_of_the_clean_text(graph: Graph, sigma: float) -> None:
    """At every noise level, up to what cancels: float64 keeps the sums, each of a size of 1 / sigma at most."""
    log_score, tokens, clean = random_case(graph, np.float64)
    log_jump = math.log(-math.expm1(-sigma)) - (math.log(TOKENS) if isinstance(graph, Uniform) else 0.0)
    surplus = math.log1p(TOKENS * math.exp(-sigma) / -math.expm1(-sigma))
    log_p = np.full(log_score.shape, log_jump if isinstance(graph, Uniform) else -800.0)
    origin = log_jump + surplus if isinstance(graph, Uniform) else -sigma
    np.put_along_axis(log_p, clean[..., None], origin, axis=-1)
    if isinstance(graph, Absorb):
        log_p[..., graph.mask] = log_jump
    ratio = log_p - np.take_along_axis(log_p, tokens[..., None], axis=-1)
    assert np.abs(graph.score_entropy(ratio, tokens, clean, np.array([[sigma]]))).max() < 1e-12 * (1 + 1 / sigma)
    with np.errstate(all="raise", under="ignore"):
        wrong = graph.score_entropy(log_score, tokens, clean, np.array([[sigma]]))
    assert np.isfinite(wrong).all() and (wrong >= -1e-12 * (1 + 1 / sigma)).all()


@both_graphs
def test_only_masked_positions_are_read_under_absorb(graph: Graph) -> None:
    if isinstance(graph, Uniform):
        return
    log_score, tokens, clean = random_case(graph, np.float32)
    poisoned = log_score.copy()
    poisoned[tokens != graph.vocab_size - 1] = np.nan
    sigma = np.array([0.5])
    expected = graph.score_entropy(log_score, tokens, clean, sigma)
    np.testing.assert_array_equal(graph.score_entropy(poisoned, tokens, clean, sigma), expected)


@both_graphs
def test_noise_depends_on_seed_and_place_alone(graph: Graph) -> None:
    texts = spread_texts(7)
    seen: list[tuple[NDArray[np.int32], Array]] = []

    def log_score(tokens: NDArray[np.int32], sigma: Array) -> Array:
        seen.append((tokens.copy(), sigma))
        return exact_log_score(graph)(tokens, sigma)

    def run(texts: NDArray[np.int32], seed: int, batch_size: int) -> tuple[Array, NDArray[np.int32], Array]:
        seen.clear()
        result = likelihood.bound(log_score, graph, LogLinear(), texts, times=3, seed=seed, batch_size=batch_size)
        assert max(len(tokens) for tokens, _ in seen) <= batch_size
        return result, np.concatenate([one for one, _ in seen]), np.concatenate([one for _, one in seen])

    whole = run(texts, 4, 21)
    for batch_size in (1, 2, 10, 100):
        for result, expected in zip(run(texts, 4, batch_size), whole, strict=True):
            np.testing.assert_array_equal(result, expected)
    np.testing.assert_array_equal(run(texts[:2], 4, 5)[0], whole[0][:2])
    assert not np.isin(run(texts, 5, 21)[2], whole[2]).any()


def test_each_window_has_a_time_in_every_stratum() -> None:
    seen: list[Array] = []

    def log_score(tokens: NDArray[np.int32], sigma: Array) -> Array:
        seen.append(sigma)
        return np.zeros((*tokens.shape, TOKENS))

    likelihood.bound(log_score, Uniform(TOKENS), LogLinear(), spread_texts(5), times=4, seed=0, batch_size=3)
    t = -np.expm1(-np.concatenate(seen)) / (1 - 1e-3)
    np.testing.assert_array_equal(np.ceil(4 * t).reshape(5, 4), np.tile([1, 2, 3, 4], (5, 1)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"times": 0}, "times is 0, allowed: 1 to 65536"),
        ({"seed": 2**64}, "seed is"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"windows": np.zeros((0, 2), np.int32)}, "windows has shape"),
        ({"windows": np.full((1, 2), TOKENS, np.int32)}, f"windows has token {TOKENS}, allowed: 0 to 2"),
    ],
)
def test_bad_arguments(changes: dict, words: str) -> None:
    arguments = {"windows": spread_texts(2), "times": 2, "seed": 0, "batch_size": 1, **changes}
    with pytest.raises(ValueError, match=words):
        likelihood.bound(exact_log_score(GRAPHS[0]), GRAPHS[0], LogLinear(), arguments.pop("windows"), **arguments)
