"""The sampler of discrete diffusion: one network run and one draw per step, along a grid of noise."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from fastsedd_kernels import Law, sample_categorical, uniform
from numpy.typing import NDArray

from fastsedd.diffusion.choice import Choice
from fastsedd.diffusion.graph import Graph
from fastsedd.diffusion.predictor import PREDICTORS, Predictor, apply_temperature, truncate
from fastsedd.diffusion.sampler import FREE, Batch, StepRecord
from fastsedd.diffusion.timegrid import Step, TimeGrid


class Network(Protocol):
    """A network as this sampler runs it, at a state int32 [B, L] and a total noise.

    rows : intp [n], n at least 1: the positions in question, as if the B texts were one
    """

    @property
    def normalised(self) -> bool:
        """True if it predicts the clean token: the scores of a mask add up to 1 / (e^sigma - 1)."""

    def draw(
        self,
        tokens: NDArray[np.int32],
        sigma: float,
        rows: NDArray[np.intp],
        law: Law,
        seeds: NDArray[np.uint64],
        streams: NDArray[np.uint64],
    ) -> NDArray[np.int32]:
        """Draw the new tokens of these positions, int32 [n], without rows of log scores. seeds, streams : uint64 [n]

        Of a normalised network the law must not depend on the sum of the scores; under the uniform graph it is one of
        its logits, the clean token's.
        """

    def log_scores(
        self, tokens: NDArray[np.int32], sigma: float, rows: NDArray[np.intp]
    ) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Some of the rows at a time, and their log scores, float32 [., V], 0 at each current token, to write over."""

    def logits(
        self, tokens: NDArray[np.int32], sigma: float, rows: NDArray[np.intp]
    ) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """The same of the network's own numbers, as its head gives them."""

    def last_scores(self, rows: NDArray[np.intp]) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """The same of some rows of the last `draw`, but for a number that is added to all of a row."""


class Draws(NamedTuple):
    """Draws of a step: rows : intp [n], positions of the batch as if it were one text; seeds, streams : uint64 [n]."""

    rows: NDArray[np.intp]
    seeds: NDArray[np.uint64]
    streams: NDArray[np.uint64]

    def some(self, which: NDArray[np.bool_]) -> Draws:
        return Draws(self.rows[which], self.seeds[which], self.streams[which])


@dataclass(frozen=True)
class GridSampler:
    """Independent draws at every position along a time grid (Lou et al. 2024, algorithms 2 and 3)."""

    graph: Graph
    grid: TimeGrid
    choice: Choice

    def run(self, network: Network, batch: Batch, after: StepRecord | None = None) -> Iterator[StepRecord]:
        """One record per step of the grid, the denoiser's the last.

        network : run at most once per step, for the positions that may change in it only; not at all if there are none
        """
        between, last = PREDICTORS[self.choice.predictor]
        take = self._take_in_rows if self.choice.needs_rows else self._take
        seeds = batch.seeds_of_draws()
        if after is None:
            tokens = self.graph.sample_limit(seeds, batch.streams(0))
            np.copyto(tokens, batch.given, where=batch.given != FREE)
        else:
            tokens = after.tokens
        steps, done = len(self.grid), 0 if after is None else after.step
        for step, at in enumerate((*self.grid.predictor, self.grid.denoiser)[done:], start=done + 1):
            started = time.perf_counter()
            rows = np.flatnonzero(self.graph.changing(tokens) & (batch.given == FREE))
            draws = Draws(rows, seeds.reshape(-1)[rows], batch.streams(step).reshape(-1)[rows])
            take(network, last if step == steps else between, at, tokens, draws, batch.confidence)
            yield StepRecord(step, steps, tokens, time.perf_counter() - started)

    def _take(
        self, network: Network, predictor: Predictor, at: Step, tokens: NDArray[np.int32], draws: Draws,
        confidence: NDArray[np.float32] | None,
    ) -> None:  # fmt: skip
        """One step of some rows of tokens, and of their confidence, in place, by their law."""
        law = predictor.law(self.graph, at)
        if network.normalised and draws.rows.size:
            # Which positions jump is known before the network runs: where none does, it is skipped, and the state that
            # it would have seen next is the same.
            draws = draws.some(uniform(draws.seeds, draws.streams) < _leaving(law, at.sigma))
            law = law._replace(stay=0.0, slope=0.0)
        if self.choice.temperature != 1.0 and law.sharpness == 1.0:
            law = law._replace(sharpness=1.0 / self.choice.temperature)
        rows, seeds, streams = draws
        if not rows.size:
            return
        flat = tokens.reshape(-1)
        before = None if confidence is None else flat[rows]
        flat[rows] = network.draw(tokens, at.sigma, rows, law, seeds, streams)
        if confidence is not None and before is not None:
            note_jumps(confidence.reshape(-1), network, rows, before, flat)

    def _take_in_rows(
        self, network: Network, predictor: Predictor, at: Step, tokens: NDArray[np.int32], draws: Draws,
        confidence: NDArray[np.float32] | None,
    ) -> None:  # fmt: skip
        """The same by rows of probabilities, a block of rows at a time."""
        rows, seeds, streams = draws
        if not rows.size:
            return
        drawn = np.empty(rows.shape, np.int32)
        current = tokens.reshape(-1)[rows]
        for part, scores in self._rows(network, tokens, at.sigma, rows):
            kept = None if confidence is None else scores.copy()
            probabilities = self._transition(predictor, scores, current[part], at)
            apply_temperature(probabilities, current[part], self.choice.temperature)
            truncate(probabilities, current[part], self.choice.top_k, self.choice.top_p)
            drawn[part] = sample_categorical(probabilities, seeds[part], streams[part], method=self.choice.draw)
            jumped = np.flatnonzero(drawn[part] != current[part])
            if confidence is not None and kept is not None:
                probability = jump_probability(kept[jumped], current[part][jumped], drawn[part][jumped])
                confidence.reshape(-1)[rows[part][jumped]] = probability
        tokens.reshape(-1)[rows] = drawn

    def _rows(
        self, network: Network, tokens: NDArray[np.int32], sigma: float, rows: NDArray[np.intp]
    ) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Rows of numbers from which `_transition` makes probabilities, up to a number per row."""
        return network.log_scores(tokens, sigma, rows)

    def _transition(
        self, predictor: Predictor, scores: NDArray[np.float32], tokens: NDArray[np.int32], at: Step
    ) -> NDArray[np.float32]:
        return predictor.transition(self.graph, scores, tokens, at)


def note_jumps(
    confidence: NDArray[np.float32], network: Network, rows: NDArray[np.intp], before: NDArray[np.int32],
    tokens: NDArray[np.int32],
) -> None:  # fmt: skip
    """Write the confidence of the rows that the network's last draw changed. before : their tokens until then"""
    jumped = np.flatnonzero(tokens[rows] != before)
    if not jumped.size:
        return
    rows, before = rows[jumped], before[jumped]
    for part, scores in network.last_scores(rows):
        some = rows[part]
        confidence[some] = jump_probability(scores, before[part], tokens[some])


def jump_probability(
    scores: NDArray[np.float32], current: NDArray[np.int32], drawn: NDArray[np.int32]
) -> NDArray[np.float64]:
    """Probability of the token that each position jumped to, among all that it could jump to: float64 [n].

    scores : log scores float32 [n, V], up to a number per row; current, drawn : int32 [n], different
    """
    numbers = scores.astype(np.float64)
    np.put_along_axis(numbers, current[:, None].astype(np.intp), -np.inf, axis=-1)
    numbers -= numbers.max(axis=-1, keepdims=True)
    np.exp(numbers, out=numbers)
    taken = np.take_along_axis(numbers, drawn[:, None].astype(np.intp), axis=-1)[:, 0]
    return np.asarray(taken / numbers.sum(axis=-1))


def _leaving(law: Law, sigma: float) -> float:
    """The probability that a mask jumps whose scores add up to 1 / (e^sigma - 1)."""
    total = 1.0 / math.expm1(sigma)
    return total / (total + max(law.stay - law.slope * total, 0.0))
