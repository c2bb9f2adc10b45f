"""Samplers of masked language models against the plain reference, and their laws against closed forms."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import pytest
from fastsedd_kernels import uniform

from fastsedd.block_layout import BlockLayout
from fastsedd.choices import QUOTAS
from fastsedd.diffusion.sampler import FREE, Batch, StepRecord
from fastsedd.diffusion.unmasking import reference
from fastsedd.diffusion.unmasking.quota import quotas
from fastsedd.diffusion.unmasking.sampler import Stopping, UnmaskingSampler
from fastsedd.diffusion.unmasking.settings import Settings

VOCABULARY, MASK = 11, 4


class Tied:
    """Logits of a coarse grid, a function of the whole text: rows are equal, or equal but for their order, often."""

    def __init__(self, levels: int = 3, rise: float = 1.0) -> None:
        self.levels, self.rise = levels, rise
        self.asked: list[list[int]] = []

    def of(self, text: list[int]) -> np.ndarray:
        rng = np.random.default_rng(np.array(text, np.int64))
        return (self.rise * rng.integers(0, self.levels, (len(text), VOCABULARY))).astype(np.float32)

    def run(self, tokens: np.ndarray, first: int, last: int) -> None:
        self.state, self.window = tokens.copy(), (first, last)
        self.rows = np.concatenate([self.of(row.tolist()) for row in tokens])
        self.asked.append([])

    def logits(self, rows: np.ndarray) -> np.ndarray:
        at = rows % self.state.shape[1]
        assert ((at >= self.window[0]) & (at < self.window[1])).all()
        self.asked[-1] += rows.tolist()
        return self.rows[rows]


class Constant:
    """The same rows for every state."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows = rows.astype(np.float32)

    def run(self, tokens: np.ndarray, first: int, last: int) -> None:
        self.length = tokens.shape[1]

    def logits(self, rows: np.ndarray) -> np.ndarray:
        return self.rows[rows % self.length].copy()


def given_tokens(length: int, seed: int, share: float = 0.3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    tokens = rng.choice([token for token in range(VOCABULARY) if token != MASK], length)
    return np.where(rng.random(length) < share, tokens, FREE).astype(np.int32)


def one_seed(indices: Sequence[int], seed: int, given: np.ndarray) -> Batch:
    return Batch.of(indices, [seed] * len(indices), [given] * len(indices))


def order_numbers(given: np.ndarray, seed: int = 1) -> reference.Numbers:
    """The random numbers of a text's order, by step and position."""
    batch = one_seed([0], seed, given)
    return lambda step, position: float(uniform(batch.seeds_of_draws(), batch.order_streams(step))[0, position])


SETTINGS = {
    **{f"{order} {quota}": {"order": order, "quota": quota} for order in ("confidence", "margin", "entropy")
       for quota in ("dllm", "llada", "dream", "smdm")},
    **{f"independent {quota}": {"order": "independent", "quota": quota} for quota in ("dllm", "dream", "smdm")},
    "p2": {"order": "p2"},
    "threshold": {"threshold": 0.3}, "threshold by margin": {"threshold": 0.3, "order": "margin"},
    "a threshold that none reaches": {"threshold": 2.0}, "factor": {"factor": 1.5},
    "entropy bound": {"entropy_bound": 4.0},
    "of draws": {"of_draws": True, "top_k": 4},
    "entropy of draws": {"of_draws": True, "top_p": 0.77, "order": "entropy"},
    "threshold of draws": {"of_draws": True, "top_p": 0.71, "top_k": 6, "threshold": 0.4},
    "guidance": {"cfg_scale": 0.7}, "guidance and p2": {"cfg_scale": 2.0, "order": "p2"},
}  # fmt: skip


@pytest.mark.parametrize("case", SETTINGS)
@pytest.mark.parametrize("steps", [1, 3, 7, 40])
def test_every_state_is_the_references(case: str, steps: int) -> None:
    for seed, (length, block, origin) in enumerate([(1, 1, 0), (9, 4, 0), (17, 5, 2), (23, 40, 0), (12, 3, 7)]):
        settings = Settings(steps=steps, **SETTINGS[case])
        given = given_tokens(length, seed)
        if not (given == FREE).any():
            given[0] = FREE
        layout = BlockLayout(block, origin)
        network = Tied()
        first = layout.begin(int(np.flatnonzero(given == FREE)[0]))
        spans = list(layout.spans(first, length))
        numbers = order_numbers(given)
        expected = list(reference.unmask(network.of, given.tolist(), MASK, spans, settings, numbers))
        sampler = UnmaskingSampler(MASK, layout, settings)
        records = [
            (each.step, each.steps, each.tokens[0].tolist()) for each in sampler.run(network, one_seed([0], 1, given))
        ]
        assert [tokens for _, _, tokens in records] == expected
        assert MASK not in expected[-1]
        assert [step for step, _, _ in records] == sorted({step for step, _, _ in records})
        assert records[-1][0] == records[-1][1]


def test_blocks_are_written_from_left_to_right_and_only_their_masks_are_asked_about() -> None:
    given = given_tokens(20, 3)
    network = Tied()
    sampler = UnmaskingSampler(MASK, BlockLayout(6), Settings(steps=20))
    states = [record.tokens[0].copy() for record in sampler.run(network, one_seed([0], 1, given))]
    before = np.where(given == FREE, MASK, given)
    for state, asked in zip(states, network.asked, strict=True):
        masks = np.flatnonzero(before == MASK)
        block = masks[0] // 6
        assert asked == masks[masks // 6 == block].tolist()
        assert (state[given != FREE] == given[given != FREE]).all()
        before = state


@pytest.mark.parametrize("settings", [{}, {"order": "random", "temperature": 0.7}, {"order": "p2"}], ids=str)
def test_confidence_is_the_probability_of_each_token_when_it_was_committed_to(settings: dict) -> None:
    given = given_tokens(20, 3)
    batch = Batch.of([0], [1], [given], confident=True)
    network, before = Tied(), np.where(given == FREE, MASK, given)
    sampler = UnmaskingSampler(MASK, BlockLayout(6), Settings(steps=20, **settings))
    for record in sampler.run(network, batch):
        for at in np.flatnonzero((record.tokens[0] != before) & (record.tokens[0] != MASK)):
            logits = network.of(before.tolist())[at].astype(np.float64)
            logits[MASK] = -np.inf
            expected = np.exp(logits - np.logaddexp.reduce(logits))[record.tokens[0, at]]
            assert batch.confidence[0, at] == pytest.approx(expected, rel=1e-6)
        before = record.tokens[0].copy()
    assert (np.isnan(batch.confidence[0]) == (given != FREE)).all()


@pytest.mark.parametrize("settings", [{"threshold": 0.4}, {"order": "random"}, {"temperature": 1.3, "top_k": 3},
                                      {"order": "p2", "temperature": 0.5, "order_temperature": 0.5},
                                      {"temperature": 1.0, "top_p": 0.7, "cfg_scale": 1.0}])  # fmt: skip
def test_a_text_does_not_depend_on_its_batch(settings: dict) -> None:
    given = given_tokens(19, 4)
    sampler = UnmaskingSampler(MASK, BlockLayout(7), Settings(steps=9, **settings))

    def texts(indices: list[int]) -> list[list[int]]:
        return [*sampler.run(Tied(rise=0.7), one_seed(indices, 5, given))][-1].tokens.tolist()

    together = texts([3, 0, 8])
    assert together == [texts([index])[0] for index in (3, 0, 8)]
    assert "temperature" not in settings or together[0] != together[1]


@pytest.mark.parametrize("settings", [{"threshold": 0.4}, {"order": "p2", "temperature": 0.7}, {"temperature": 1.3}])
@pytest.mark.parametrize("ends", [False, True], ids=["to the last", "to an end"])
def test_a_text_of_a_joint_batch_is_that_alone(settings: dict, ends: bool) -> None:
    """Other seeds and given tokens beside it, and others that are left out at a step, change nothing."""
    given = np.stack([given_tokens(19, 4)] * 3)
    given[:, 12:] = FREE
    given[1] = np.where(given[1] == FREE, FREE, 3)
    stopping = Stopping(0, lambda tokens: bool(np.isin(tokens, [9, 10]).any()), 0) if ends else None
    sampler = UnmaskingSampler(MASK, BlockLayout(5), Settings(steps=9, **settings), stopping)
    indices, seeds = [0, 5, 2], [11, 12, 2**64 - 1]
    alone = [
        [*sampler.run(Tied(rise=0.7), Batch.of([index], [seed], [row]))][-1].tokens[0]
        for index, seed, row in zip(indices, seeds, given, strict=True)
    ]
    batch = Batch.of(indices, seeds, given)
    states = [(each.step, each.steps, each.tokens.copy()) for each in sampler.run(Tied(rise=0.7), batch)]
    np.testing.assert_array_equal(states[-1][2], alone)
    for step, steps, tokens in states[:-1]:
        kept = StepRecord(step, steps, tokens[[0, 2]], 0.0)
        rest = [*sampler.run(Tied(rise=0.7), batch.part([0, 2]), after=kept)]
        assert rest[0].step > step and rest[-1].step == steps
        np.testing.assert_array_equal(rest[-1].tokens, [alone[0], alone[2]])


@pytest.mark.parametrize("steps", [1, 2, 5, 8, 13, 40])
@pytest.mark.parametrize("masks", [0, 1, 2, 7, 8, 32])
def test_quotas_add_up(masks: int, steps: int) -> None:
    for name in QUOTAS:
        found = quotas(name, masks, steps)
        assert sum(found) == masks and 0 not in found and len(found) <= (masks if name == "single" else steps)


def test_quotas_of_the_authors() -> None:
    assert quotas("llada", 10, 4) == [3, 3, 2, 2]
    assert quotas("dllm", 10, 4) == [2, 3, 2, 3]  # 2.5 rounds to 2, then 8/3, 5/2, all
    assert quotas("dllm", 3, 8) == [1, 1, 1]  # those of 0 cost no step
    assert quotas("dream", 8, 4) == [1, 2, 2, 3]
    assert quotas("smdm", 8, 4) == [1, 2, 2, 3] and quotas("smdm", 200, 2) == [99, 101]


def chi_square(counts: np.ndarray, expected: np.ndarray) -> float:
    """Standard deviations by which the statistic exceeds its mean."""
    kept = expected > 0
    assert not counts[~kept].any()
    statistic = ((counts[kept] - expected[kept]) ** 2 / expected[kept]).sum()
    freedom = kept.sum() - 1
    return float((statistic - freedom) / np.sqrt(2 * freedom))


def test_the_first_mask_to_fall_is_any_of_them_by_the_law_of_its_nucleus() -> None:
    """BD3-LM's first-hitting: one position, all alike, and its token; the nucleus holds at most the share p."""
    logits = np.random.default_rng(4).standard_normal((3, VOCABULARY)) * 1.5
    weights = np.exp(logits)
    weights[:, MASK] = 0.0
    law = weights / weights.sum(axis=-1, keepdims=True)
    for row in law:
        order = np.argsort(-row)
        beyond = np.cumsum(row[order]) > 0.7
        beyond[0] = False
        row[order[beyond]] = 0.0
    law /= 3 * law.sum(axis=-1, keepdims=True)
    settings = Settings(steps=1, order="random", quota="single", temperature=1.0, top_p=0.7, top_p_within=True)
    sampler = UnmaskingSampler(MASK, BlockLayout(3), settings)
    count = 6000
    record = next(sampler.run(Constant(logits), one_seed(range(count), 5, np.full(3, FREE, np.int32))))
    assert record.steps == 3 and ((record.tokens != MASK).sum(axis=1) == 1).all()
    place = (record.tokens != MASK).argmax(axis=1)
    drawn = np.zeros((3, VOCABULARY))
    np.add.at(drawn, (place, record.tokens[np.arange(count), place]), 1)
    assert chi_square(drawn.reshape(-1), count * law.reshape(-1)) < 4.5


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"), [(1.0, 0, 1.0), (0.5, 0, 1.0), (2.0, 4, 1.0), (1.0, 0, 0.8), (1.5, 5, 0.6)]
)
def test_tokens_are_drawn_by_their_law(temperature: float, top_k: int, top_p: float) -> None:
    logits = np.random.default_rng(2).standard_normal((1, VOCABULARY)) * 1.5
    weights = np.exp((logits[0] - logits[0].max()) / temperature)
    weights[MASK] = 0.0
    law = weights / weights.sum()
    ordered = np.sort(law)[::-1]
    if top_k:
        law = np.where(law >= ordered[top_k - 1], law, 0.0)
        law /= law.sum()
        ordered = np.sort(law)[::-1]
    if top_p < 1:
        last = np.searchsorted(np.cumsum(ordered), top_p)
        law = np.where(law >= ordered[last], law, 0.0)
        law /= law.sum()
    count = 4000
    settings = Settings(steps=1, temperature=temperature, top_k=top_k, top_p=top_p)
    sampler = UnmaskingSampler(MASK, BlockLayout(1), settings)
    record = [*sampler.run(Constant(logits), one_seed(range(count), 3, np.array([FREE], np.int32)))][-1]
    drawn = np.bincount(record.tokens[:, 0], minlength=VOCABULARY)
    assert chi_square(drawn, count * law) < 4.5


def first_positions(settings: Settings, logits: np.ndarray, count: int) -> np.ndarray:
    sampler = UnmaskingSampler(MASK, BlockLayout(len(logits)), settings)
    given = np.full(len(logits), FREE, np.int32)
    record = next(iter(sampler.run(Constant(logits), one_seed(range(count), 7, given))))
    committed = record.tokens != MASK
    assert (committed.sum(axis=1) == 1).all()
    return np.bincount(committed.argmax(axis=1), minlength=len(logits))


def test_positions_are_chosen_by_the_law_of_their_order() -> None:
    count, length = 4000, 6
    logits = np.random.default_rng(5).standard_normal((length, VOCABULARY)) * 2
    alike = first_positions(Settings(steps=length, order="random"), logits, count)
    assert chi_square(alike, np.full(length, count / length)) < 4.5
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    weights[:, MASK] = 0.0
    confidence = (weights / weights.sum(axis=1, keepdims=True)).max(axis=1)
    law = np.exp(confidence / 0.2)
    noisy = first_positions(Settings(steps=length, order_temperature=0.2), logits, count)
    assert chi_square(noisy, count * law / law.sum()) < 4.5


@pytest.mark.parametrize("order", ["random", "independent"])
def test_a_token_does_not_depend_on_when_it_is_committed(order: str) -> None:
    """Every step's first positions have the law of all: the numbers of the order are not those of the tokens."""
    count = 4000
    logits = np.random.default_rng(6).standard_normal(VOCABULARY)
    settings = Settings(steps=3, order=order, temperature=1.0)
    sampler = UnmaskingSampler(MASK, BlockLayout(3), settings)
    given = np.full(3, FREE, np.int32)
    record = next(iter(sampler.run(Constant(np.tile(logits, (3, 1))), one_seed(range(count), 11, given))))
    drawn = record.tokens[record.tokens != MASK]
    weights = np.exp(logits)
    weights[MASK] = 0.0
    counts = np.bincount(drawn, minlength=VOCABULARY)
    assert chi_square(counts, len(drawn) * weights / weights.sum()) < 4.5


@pytest.mark.parametrize(("quota", "share"), [("dllm", 1 / 6), ("dream", 0.999 / 6), ("smdm", (1 - 1e-5) / 6)])
def test_independent_positions_are_as_many_as_chance_has_it(quota: str, share: float) -> None:
    """The first of six steps: binomial, each position as often as any other."""
    count, length = 4000, 5
    settings = Settings(steps=6, order="independent", quota=quota)
    sampler = UnmaskingSampler(MASK, BlockLayout(length), settings)
    given = np.full(length, FREE, np.int32)
    record = next(iter(sampler.run(Constant(np.ones((length, VOCABULARY))), one_seed(range(count), 5, given))))
    committed = record.tokens != MASK
    numbers = np.bincount(committed.sum(axis=1), minlength=length + 1)
    law = [math.comb(length, k) * share**k * (1 - share) ** (length - k) for k in range(length + 1)]
    some = np.array(law) * count > 5
    assert chi_square(numbers[some], count * np.array(law)[some]) < 4.5
    assert chi_square(committed.sum(axis=0), np.full(length, committed.sum() / length)) < 4.5


def test_a_step_to_which_no_position_falls_runs_no_network() -> None:
    network = Tied()
    given = np.full(2, FREE, np.int32)
    sampler = UnmaskingSampler(MASK, BlockLayout(2), Settings(steps=50, order="independent"))
    records = list(sampler.run(network, one_seed([0], 3, given)))
    assert 1 <= len(network.asked) <= 2 < len(records)
    assert (records[-1].tokens != MASK).all() and records[-1].step == records[-1].steps == 50


def test_an_answer_that_has_ended_is_filled_and_stops() -> None:
    given = np.array([1, 2, *[FREE] * 12], np.int32)
    rows = np.zeros((14, VOCABULARY))
    rows[:, 3] = 1.0
    rows[7, 9] = 5.0  # in the second block of 4
    stopping = Stopping(2, lambda tokens: 9 in tokens, 0)
    sampler = UnmaskingSampler(MASK, BlockLayout(4, 2), Settings(steps=12), stopping)
    records = list(sampler.run(Constant(rows), one_seed([0], 1, given)))
    assert records[-1].tokens[0].tolist() == [1, 2, *[3] * 5, 9, *[3] * 2, *[0] * 4]
    assert len(records) == 8 and (records[-1].step, records[-1].steps) == (12, 12)
    given[13] = 5  # a given token behind: the rest has to be written all the same
    assert [*sampler.run(Constant(rows), one_seed([0], 1, given))][-1].tokens[0].tolist() == [
        1, 2, *[3] * 5, 9, *[3] * 5, 5,
    ]  # fmt: skip


def test_a_text_without_gaps() -> None:
    sampler = UnmaskingSampler(MASK, BlockLayout(4), Settings(steps=3))
    (record,) = sampler.run(Tied(), one_seed([0, 1], 1, np.array([1, 2, 3], np.int32)))
    assert record.tokens.tolist() == [[1, 2, 3]] * 2 and record.step == record.steps


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": 0}, "steps is 0, allowed: 1 to 65534"),
        (
            {"order": "best"},
            "order is 'best', allowed: 'confidence', 'margin', 'entropy', 'random', 'independent', 'p2'",
        ),
        ({"quota": "even"}, "quota is 'even', allowed: 'dllm', 'llada', 'dream', 'smdm'"),
        ({"temperature": -1.0}, "temperature is -1.0, allowed: 0 or above, finite"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_p": 0.0}, "top_p is 0.0, allowed: 0 < top_p <= 1"),
        ({"cfg_scale": float("inf")}, "cfg_scale is inf"),
        ({"cfg_scale": 1e39}, "cfg_scale is 1e+39, allowed: 0 to 1e+06"),
        ({"threshold": 0.5, "factor": 1.0}, "threshold and factor are given, allowed: one of them"),
        ({"threshold": 0.5, "order": "p2"}, "threshold is given with the order p2"),
        ({"factor": 0.5, "order": "independent"}, "factor is given with the order independent"),
        ({"entropy_bound": "x"}, "entropy_bound is 'x'"),
        ({"top_k": -1}, "top_k is -1"),
    ],
)
def test_settings_that_are_wrong_are_refused(changes: dict, said: str) -> None:
    with pytest.raises(ValueError) as caught:
        dataclasses.replace(Settings(steps=4), **changes)
    assert said in str(caught.value)


def test_too_many_steps_are_refused_before_any_is_taken() -> None:
    sampler = UnmaskingSampler(MASK, BlockLayout(1), Settings(steps=65534, order="p2"))
    with pytest.raises(ValueError, match="steps is 65534, which makes 65535 in all, allowed: 65534"):
        sampler.plan(np.full(3, FREE, np.int32))
