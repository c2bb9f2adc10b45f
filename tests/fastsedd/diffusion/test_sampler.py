"""The sampler: distributions against closed forms, and the promises about seeds, batches and fixed positions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from fastsedd_kernels import Law, pack, sample_categorical, sample_linear
from numpy.typing import NDArray

from fastsedd import choices
from fastsedd.choices import Draw
from fastsedd.config import MAX_LENGTH, MAX_STEPS
from fastsedd.diffusion import grid_sampler
from fastsedd.diffusion.choice import Choice
from fastsedd.diffusion.graph import Absorb, Graph, Uniform
from fastsedd.diffusion.grid_sampler import GridSampler
from fastsedd.diffusion.noise import Geometric, LogLinear, Noise
from fastsedd.diffusion.predictor import PREDICTORS
from fastsedd.diffusion.reference import staggered_score
from fastsedd.diffusion.sampler import FREE, INDEX_BITS, POSITION_BITS, STEP_BITS, Batch, StepRecord, draw_streams
from fastsedd.diffusion.timegrid import Step, TimeGrid, uniform_grid
from fastsedd.request import MAX_SAMPLES

TOKENS = 3
JOINT = np.array([[8.0, 1.0, 3.0], [1.0, 6.0, 1.0], [4.0, 1.0, 7.0]]) / 32.0
CASES: list[tuple[Graph, Noise]] = [(Uniform(TOKENS), Geometric(1e-3, 8.0)), (Absorb(TOKENS), LogLinear())]

both_graphs = pytest.mark.parametrize(("graph", "noise"), CASES)
both_draws = pytest.mark.parametrize("draw", ["exact", "official"])


LogScore = Callable[[NDArray[np.int32], float], NDArray[np.float32]]


def sample(
    network: Any,
    graph: Graph,
    grid: TimeGrid,
    *,
    indices: Sequence[int],
    length: int,
    seed: int,
    fixed: NDArray[np.int32] | None = None,
    choice: Choice | None = None,
    on_step: Callable[[int, int, NDArray[np.int32]], None] | None = None,
) -> NDArray[np.int32]:
    """The texts of a batch, int32 [B, L]; on_step sees a copy of each state."""
    given = np.full(length, FREE, np.int32) if fixed is None else fixed
    sampler = GridSampler(graph, grid, Choice() if choice is None else choice)
    batch = Batch.of(indices, [seed] * len(indices), [given] * len(indices))
    for record in sampler.run(network, batch):
        if on_step is not None:
            on_step(record.step, record.steps, record.tokens.copy())
    return record.tokens


class FromLogScore:
    """A network that is a function from (tokens, sigma) to log scores [B, L, V]."""

    def __init__(self, log_score: LogScore, graph: Graph, normalised: bool = False) -> None:
        self.log_score, self.graph, self.normalised = log_score, graph, normalised
        self.runs: list[tuple[float, int]] = []  # sigma, and for how many rows

    def scores(self, tokens: NDArray[np.int32], sigma: float, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        self.runs.append((sigma, len(rows)))
        scores = self.log_score(tokens, sigma)
        return scores.reshape(-1, scores.shape[-1])[rows]

    def draw(
        self, tokens: NDArray[np.int32], sigma: float, rows: NDArray[np.intp], law: Law, seed: int,
        streams: NDArray[np.uint64],
    ) -> NDArray[np.int32]:  # fmt: skip
        scores = self.scores(tokens, sigma, rows)
        return sample_linear(
            np.maximum(scores, -200.0), pack(np.eye(scores.shape[-1], dtype=np.float32)), law=law, seed=seed,
            streams=streams, current=tokens.reshape(-1)[rows], columns=self.graph.tokens,
        )  # fmt: skip

    def log_scores(
        self, tokens: NDArray[np.int32], sigma: float, rows: NDArray[np.intp]
    ) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        scores = self.scores(tokens, sigma, rows)
        for first in range(0, len(rows), 50):
            yield slice(first, min(first + 50, len(rows))), scores[first : first + 50]


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
    texts = sample(
        FromLogScore(single_log_score(graph, data), graph),
        graph,
        grid,
        indices=range(50000),
        length=1,
        seed=11,
        choice=Choice(draw=draw),
    )
    assert chi_square(np.bincount(texts.ravel(), minlength=TOKENS), data) < chi_square_critical(TOKENS - 1)


@both_graphs
def test_many_steps_reproduce_a_joint_distribution(graph: Graph, noise: Noise) -> None:
    # Two positions are drawn as if independent in each step: over 200 steps that bias is below what 20,000 texts show.
    grid = uniform_grid(noise, 200)
    texts = sample(
        FromLogScore(true_log_score(graph, JOINT), graph), graph, grid, indices=range(20000), length=2, seed=12
    )
    counts = np.bincount(TOKENS * texts[:, 0] + texts[:, 1], minlength=TOKENS**2)
    assert chi_square(counts, JOINT.ravel()) < chi_square_critical(TOKENS**2 - 1)


def test_fixed_positions_condition_the_others() -> None:
    graph = Absorb(TOKENS)
    fixed = np.array([1, -1], dtype=np.int32)
    network, grid = FromLogScore(true_log_score(graph, JOINT), graph), uniform_grid(LogLinear(), 5)
    texts = sample(network, graph, grid, indices=range(20000), length=2, seed=13, fixed=fixed)
    assert (texts[:, 0] == 1).all()
    counts = np.bincount(texts[:, 1], minlength=TOKENS)
    assert chi_square(counts, JOINT[1] / JOINT[1].sum()) < chi_square_critical(TOKENS - 1)


@both_graphs
@both_draws
def test_one_step_has_the_distribution_of_the_closed_form(graph: Graph, noise: Noise, draw: Draw) -> None:
    sigma, dsigma, rest = 1.5, 0.4, 1.1
    grid = TimeGrid((Step(sigma, dsigma, 0.3),), Step(rest, rest, 0.3))
    log_score = single_log_score(graph, np.array([0.5, 0.2, 0.3]))
    states = np.arange(graph.vocab_size, dtype=np.int32)
    score = np.exp(log_score(states[None], sigma)[0].astype(np.float64))
    rows = staggered_score(graph, score, dsigma) * graph.transp_transition(states, dsigma)
    expected = rows[graph.mask] if isinstance(graph, Absorb) else rows.mean(axis=0)
    seen: list[NDArray[np.int32]] = []

    def on_step(step: int, steps: int, tokens: NDArray[np.int32]) -> None:
        seen.append(tokens)

    sample(
        FromLogScore(log_score, graph), graph, grid, indices=range(200000), length=1, seed=14, choice=Choice(draw=draw),
        on_step=on_step,
    )  # fmt: skip

    counts = np.bincount(seen[0].ravel(), minlength=graph.vocab_size)
    assert chi_square(counts, expected) < chi_square_critical(graph.vocab_size - 1)


@both_graphs
@pytest.mark.parametrize(("temperature", "top_k"), [(1.0, 0), (0.5, 0), (0.7, 2)])
def test_a_text_depends_on_its_index_and_not_on_its_batch(
    graph: Graph, noise: Noise, temperature: float, top_k: int
) -> None:
    network, grid = FromLogScore(true_log_score(graph, JOINT), graph), uniform_grid(noise, 12)

    def texts(indices: Sequence[int], seed: int = 15) -> NDArray[np.int32]:
        return sample(
            network,
            graph,
            grid,
            indices=indices,
            length=2,
            seed=seed,
            choice=Choice(temperature=temperature, top_k=top_k),
        )

    batch = texts(range(64))
    np.testing.assert_array_equal(texts([41]), batch[[41]])
    np.testing.assert_array_equal(texts([63, 0, 7]), batch[[63, 0, 7]])
    assert len(np.unique(batch, axis=0)) > 1
    assert (texts(range(64), seed=16) != batch).any()


@both_graphs
def test_on_step_sees_every_state_and_keeps_it(graph: Graph, noise: Noise) -> None:
    seen: list[tuple[int, int, NDArray[np.int32], NDArray[np.int32]]] = []
    given: list[NDArray[np.int32]] = []
    score = true_log_score(graph, JOINT)

    def log_score(tokens: NDArray[np.int32], sigma: float) -> NDArray[np.float32]:
        given.append(tokens.copy())
        return score(tokens, sigma)

    def on_step(step: int, steps: int, tokens: NDArray[np.int32]) -> None:
        seen.append((step, steps, tokens, tokens.copy()))

    network = FromLogScore(log_score, graph)
    texts = sample(network, graph, uniform_grid(noise, 6), indices=range(8), length=2, seed=17, on_step=on_step)

    assert [(step, steps) for step, steps, _, _ in seen] == [(step, 7) for step in range(1, 8)]
    assert len(given) == 7 or isinstance(graph, Absorb)
    for _, _, kept, copy in seen:
        np.testing.assert_array_equal(kept, copy)
    for (_, _, kept, _), following in zip(seen, given[1:], strict=False):
        np.testing.assert_array_equal(kept, following)
    np.testing.assert_array_equal(seen[-1][2], texts)


def zero_score(graph: Graph, size: float = 0.0) -> LogScore:
    return lambda tokens, sigma: np.full((*tokens.shape, graph.vocab_size), size, dtype=np.float32)


@both_graphs
@both_draws
def test_the_network_runs_once_per_step_for_the_positions_that_may_change(
    graph: Graph, noise: Noise, draw: Draw
) -> None:
    grid, fixed = uniform_grid(noise, 5), np.full(9, -1, np.int32)
    fixed[2:5] = 1
    network = FromLogScore(zero_score(graph, -0.5), graph)
    states: list[NDArray[np.int32]] = []
    texts = sample(
        network, graph, grid, indices=[0, 1], length=9, seed=18, fixed=fixed, choice=Choice(draw=draw),
        on_step=lambda step, steps, tokens: states.append(tokens),
    )  # fmt: skip
    sigmas = [*(step.sigma for step in grid.predictor), grid.denoiser.sigma]
    free = np.broadcast_to(fixed < 0, (2, 9))
    before = [np.full((2, 9), graph.vocab_size - 1, np.int32), *states[:-1]]
    rows = [int((free & graph.changing(tokens)).sum()) for tokens in before]
    assert network.runs == [(sigma, count) for sigma, count in zip(sigmas, rows, strict=True) if count]
    assert texts.shape == (2, 9)
    assert texts.dtype == np.int32
    assert ((texts >= 0) & (texts < TOKENS)).all()


def clean_prediction(graph: Absorb, data: NDArray[np.float64]) -> LogScore:
    """Log scores of a network that predicts the clean token, up to a constant a row, as `Forward.draw` has them."""

    def log_score(tokens: NDArray[np.int32], sigma: float) -> NDArray[np.float32]:
        scores = np.zeros((*tokens.shape, graph.vocab_size), np.float32)
        scores[..., : graph.mask] = np.log(data) - math.log(math.expm1(sigma))
        return scores

    return log_score


@both_draws
@pytest.mark.parametrize("predictor", ["analytic", "euler"])
def test_a_network_that_predicts_the_clean_token_runs_when_something_changes(predictor: str, draw: Draw) -> None:
    """A step's chance to unmask is MDLM's and RADD's, and where nothing is unmasked no network runs."""
    graph, data = Absorb(TOKENS), np.array([0.6, 0.1, 0.3])
    grid = uniform_grid(LogLinear(), 40)
    network = FromLogScore(clean_prediction(graph, data), graph, normalised=True)
    states: list[NDArray[np.int32]] = []
    texts = sample(
        network, graph, grid, indices=range(40_000), length=1, seed=22, choice=Choice(predictor, draw=draw),
        on_step=lambda step, steps, tokens: states.append(tokens),
    )  # fmt: skip
    assert chi_square(np.bincount(texts.ravel(), minlength=TOKENS), data) < chi_square_critical(TOKENS - 1)
    masked = 40_000
    for tokens, step in zip(states, grid.predictor, strict=False):
        if predictor == "euler":
            chance = step.rate_dt * math.exp(-step.sigma) / -math.expm1(-step.sigma)
        else:
            rest = step.sigma - step.dsigma
            chance = (math.exp(-rest) - math.exp(-step.sigma)) / -math.expm1(-step.sigma)
        left = int((tokens == graph.mask).sum())
        spread = math.sqrt(masked * chance * (1.0 - chance)) if chance < 1.0 else 0.0
        # The official noise sharpens, towards whichever is likelier.
        assert draw == "official" or abs(masked - left - masked * min(chance, 1.0)) <= 5.0 * spread + 1e-6
        masked = left

    alone = FromLogScore(clean_prediction(graph, data), graph, normalised=True)
    sample(alone, graph, grid, indices=[0], length=2, seed=23, choice=Choice(predictor))
    assert len(alone.runs) <= 2 and all(count >= 1 for _, count in alone.runs)


def test_ddpm_ends_with_the_likeliest_token() -> None:
    graph = Absorb(TOKENS)
    network = FromLogScore(clean_prediction(graph, np.array([0.3, 0.5, 0.2])), graph, normalised=True)
    for choice in (Choice("ddpm"), Choice("ddpm", temperature=0.7), Choice("ddpm", top_k=2)):
        texts = sample(
            network, graph, TimeGrid((), Step(1.0, 1.0, 1.0)), indices=[0, 1], length=9, seed=1, choice=choice
        )
        assert (texts == 1).all()


def test_the_denoiser_unmasks_what_the_predictor_left() -> None:
    graph = Absorb(TOKENS)
    seen: list[NDArray[np.int32]] = []

    def log_score(tokens: NDArray[np.int32], sigma: float) -> NDArray[np.float32]:
        return np.full((*tokens.shape, graph.vocab_size), -30.0, dtype=np.float32)

    def on_step(step: int, steps: int, tokens: NDArray[np.int32]) -> None:
        seen.append(tokens)

    network = FromLogScore(log_score, graph)
    sample(network, graph, uniform_grid(LogLinear(), 3), indices=range(4), length=8, seed=20, on_step=on_step)
    assert (seen[-2] == graph.mask).all()
    assert (seen[-1] < TOKENS).all()


@pytest.mark.parametrize("choice", [Choice(draw="official"), Choice(top_k=2), Choice(top_p=0.8), Choice()])
def test_rows_of_probabilities_are_seen_where_the_draw_needs_them(
    choice: Choice, monkeypatch: pytest.MonkeyPatch
) -> None:
    methods: list[str] = []

    def recording(*arguments: Any, method: str) -> NDArray[np.int32]:
        methods.append(method)
        return sample_categorical(*arguments, method=method)

    monkeypatch.setattr(grid_sampler, "sample_categorical", recording)
    graph, grid = Uniform(TOKENS), uniform_grid(Geometric(1e-3, 8.0), 3)
    sample(
        FromLogScore(true_log_score(graph, JOINT), graph), graph, grid, indices=[0], length=2, seed=21, choice=choice
    )
    assert methods == ([] if choice == Choice() else [choice.draw] * len(grid))


@both_graphs
@pytest.mark.parametrize(
    ("top_k", "top_p", "kept"), [(2, 1.0, [0, 2]), (0, 0.8, [0, 2]), (1, 1.0, [0]), (0, 0.5, [0]), (3, 0.5, [0])]
)
def test_truncation_leaves_the_likeliest(graph: Graph, noise: Noise, top_k: int, top_p: float, kept: list[int]) -> None:
    """Every jump of one step, from any state, lands on one of the likeliest tokens other than the current one."""
    data = np.array([0.6, 0.1, 0.3])
    network, grid = FromLogScore(single_log_score(graph, data), graph), TimeGrid((), Step(0.5, 0.5, 0.5))
    count = 4000
    batch = Batch.of(range(count), [24] * count, [np.full(1, FREE, np.int32)] * count)
    start = graph.sample_limit(batch.seeds_of_draws(), batch.streams(0)).ravel()
    (record,) = GridSampler(graph, grid, Choice(top_k=top_k, top_p=top_p)).run(network, batch)
    end = record.tokens.ravel()
    for state in np.unique(start):
        others = [token for token in np.argsort(-data) if token != state]  # the likeliest first
        share = np.cumsum(data[others]) / data[others].sum()
        of_k = others[:top_k] if top_k else others
        expected = set(of_k[: int(np.searchsorted(share, top_p - 1e-9)) + 1]) if top_p < 1.0 else set(of_k)
        if state == getattr(graph, "mask", None):
            assert expected == set(kept)
        jumped = (start == state) & (end != state)
        assert set(end[jumped]) == expected


@both_graphs
def test_fixed_positions_are_never_seen_otherwise(graph: Graph, noise: Noise) -> None:
    fixed = np.array([2, -1, 0, -1], dtype=np.int32)
    given = fixed >= 0

    def log_score(tokens: NDArray[np.int32], sigma: float) -> NDArray[np.float32]:
        assert (tokens[:, given] == fixed[given]).all()
        return np.zeros((*tokens.shape, graph.vocab_size), dtype=np.float32)

    def on_step(step: int, steps: int, tokens: NDArray[np.int32]) -> None:
        assert (tokens[:, given] == fixed[given]).all()

    network = FromLogScore(log_score, graph)
    sample(network, graph, uniform_grid(noise, 8), indices=range(16), length=4, seed=19, fixed=fixed, on_step=on_step)


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


def test_a_request_fits_the_fields_of_a_stream() -> None:
    assert MAX_SAMPLES <= 1 << INDEX_BITS
    assert MAX_STEPS + 2 <= 1 << STEP_BITS  # the denoiser's, and that of the limit
    assert MAX_LENGTH <= 1 << POSITION_BITS
    assert INDEX_BITS + STEP_BITS + POSITION_BITS == 64


def test_the_time_of_a_step_is_the_samplers_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking at a state takes time that is not the step's: here a clock moves in the network and between steps."""
    now = [0.0]
    monkeypatch.setattr(grid_sampler.time, "perf_counter", lambda: now[0])
    graph = Uniform(TOKENS)  # whose network runs in every step

    def log_score(tokens: NDArray[np.int32], sigma: float) -> NDArray[np.float32]:
        now[0] += 0.5
        return zero_score(graph)(tokens, sigma)

    sampler = GridSampler(graph, uniform_grid(Geometric(1e-3, 8.0), 2), Choice())
    taken = []
    for record in sampler.run(FromLogScore(log_score, graph), Batch.of([0], [0], [np.full(9, FREE, np.int32)])):
        taken.append(record.seconds)
        now[0] += 100.0
    assert taken == [0.5] * 3


def test_every_predictor_has_its_steps() -> None:
    assert tuple(PREDICTORS) == choices.PREDICTORS


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("predictor", "tweedie"),
        ("draw", "greedy"),
        ("temperature", 0.0),
        ("temperature", math.inf),
        ("temperature", math.nan),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.5),
        ("top_p", math.nan),
    ],
)
def test_a_bad_choice_is_named(argument: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{argument} is .*allowed"):
        Choice(**{argument: value})


@pytest.mark.parametrize(
    "choice", [Choice(), Choice(top_k=2), Choice(draw="official")], ids=["exact", "rows", "official"]
)
@pytest.mark.parametrize("graph", [Absorb(5), Uniform(5)], ids=["absorb", "uniform"])
def test_a_text_of_a_joint_batch_is_that_alone(graph: Graph, choice: Choice) -> None:
    """Other seeds, indices and given tokens beside it, and others that are left out at a step, change nothing."""
    length, steps = 7, 6
    network = FromLogScore(zero_score(graph), graph)
    sampler = GridSampler(graph, uniform_grid(LogLinear(), steps), choice)
    given = np.full((3, length), FREE, np.int32)
    given[1, 2:4] = 3
    indices, seeds = [0, 5, 2], [11, 12, 2**64 - 1]
    alone = [
        list(sampler.run(network, Batch.of([index], [seed], [row])))[-1].tokens[0]
        for index, seed, row in zip(indices, seeds, given, strict=True)
    ]
    batch = Batch.of(indices, seeds, given)
    np.testing.assert_array_equal(list(sampler.run(network, batch))[-1].tokens, alone)
    for left in range(1, steps):
        records = sampler.run(network, batch)
        record = next(record for record in records if record.step == left)
        kept = StepRecord(record.step, record.steps, record.tokens[[0, 2]], 0.0)
        rest = list(sampler.run(network, batch.part([0, 2]), after=kept))
        assert [record.step for record in rest] == list(range(left + 1, rest[-1].steps + 1))
        np.testing.assert_array_equal(rest[-1].tokens, [alone[0], alone[2]])
