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
        seed: int,
        streams: NDArray[np.uint64],
    ) -> NDArray[np.int32]:
        """Draw the new tokens of these positions, int32 [n], without rows of log scores. streams : uint64 [n]

        Of a normalised network the law must not depend on the sum of the scores.
        """

    def log_scores(
        self, tokens: NDArray[np.int32], sigma: float, rows: NDArray[np.intp]
    ) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Some of the rows at a time, and their log scores, float32 [., V], 0 at each current token, to write over."""


class _Draws(NamedTuple):
    """The draws of a step: rows : intp [n], positions of the batch as if it were one text; streams : uint64 [n]."""

    rows: NDArray[np.intp]
    streams: NDArray[np.uint64]
    seed: int


@dataclass(frozen=True)
class GridSampler:
    """Independent draws at every position along a time grid (Lou et al. 2024, algorithms 2 and 3)."""

    graph: Graph
    grid: TimeGrid
    choice: Choice

    def run(self, network: Network, batch: Batch) -> Iterator[StepRecord]:
        """One record per step of the grid, the denoiser's the last.

        network : run at most once per step, for the positions that may change in it only; not at all if there are none
        """
        between, last = PREDICTORS[self.choice.predictor]
        take = self._take_in_rows if self.choice.needs_rows else self._take
        tokens = self.graph.sample_limit(batch.seed, batch.streams(0))
        np.copyto(tokens, batch.given, where=batch.given != FREE)
        steps = len(self.grid)
        for step, at in enumerate((*self.grid.predictor, self.grid.denoiser), start=1):
            started = time.perf_counter()
            rows = np.flatnonzero(self.graph.changing(tokens) & (batch.given == FREE))
            draws = _Draws(rows, batch.streams(step).reshape(-1)[rows], batch.seed)
            take(network, last if step == steps else between, at, tokens, draws)
            yield StepRecord(step, steps, tokens, time.perf_counter() - started)

    def _take(self, network: Network, predictor: Predictor, at: Step, tokens: NDArray[np.int32], draws: _Draws) -> None:
        """One step of some rows of tokens, in place, by their law."""
        rows, streams, seed = draws
        law = predictor.law(self.graph, at)
        if network.normalised and rows.size:
            # Which positions jump is known before the network runs: where none does, it is skipped, and the state that
            # it would have seen next is the same.
            jumps = uniform(seed, streams) < _jump_probability(law, at.sigma)
            rows, streams, law = rows[jumps], streams[jumps], law._replace(stay=0.0, slope=0.0)
        if self.choice.temperature != 1.0 and law.sharpness == 1.0:
            law = law._replace(sharpness=1.0 / self.choice.temperature)
        if rows.size:
            tokens.reshape(-1)[rows] = network.draw(tokens, at.sigma, rows, law, seed, streams)

    def _take_in_rows(
        self, network: Network, predictor: Predictor, at: Step, tokens: NDArray[np.int32], draws: _Draws
    ) -> None:
        """The same by rows of probabilities, a block of rows at a time."""
        rows, streams, seed = draws
        if not rows.size:
            return
        drawn = np.empty(rows.shape, np.int32)
        current = tokens.reshape(-1)[rows]
        for part, scores in network.log_scores(tokens, at.sigma, rows):
            probabilities = predictor.transition(self.graph, scores, current[part], at)
            apply_temperature(probabilities, current[part], self.choice.temperature)
            truncate(probabilities, current[part], self.choice.top_k, self.choice.top_p)
            drawn[part] = sample_categorical(probabilities, seed, streams[part], method=self.choice.draw)
        tokens.reshape(-1)[rows] = drawn


def _jump_probability(law: Law, sigma: float) -> float:
    """The probability that a mask jumps whose scores add up to 1 / (e^sigma - 1)."""
    total = 1.0 / math.expm1(sigma)
    return total / (total + max(law.stay - law.slope * total, 0.0))
