"""The sampler: from noise to texts, one network run and one draw a step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from fastsedd_kernels import Law, sample_categorical, uniform
from numpy.typing import NDArray

from fastsedd.diffusion.graph import Graph
from fastsedd.diffusion.predictor import PREDICTORS, Predictor, apply_temperature, truncate
from fastsedd.diffusion.timegrid import Step, TimeGrid

OnStep = Callable[[int, int, NDArray[np.int32]], None]
Draw = Literal["exact", "official"]

FREE = -1

# A stream number is 64 bits: sample index, step and position, from the top.
INDEX_BITS = 28
STEP_BITS = 16
POSITION_BITS = 20


class Network(Protocol):
    """What the sampler asks of a network, at a state int32 [B, L] and a total noise.

    rows : intp [n], n at least 1: the positions in question, as if the B texts were one
    """

    @property
    def normalised(self) -> bool:
        """Whether it predicts the clean token: the scores of a mask add up to 1 / (e^sigma - 1)."""

    def draw(
        self,
        tokens: NDArray[np.int32],
        sigma: float,
        rows: NDArray[np.intp],
        law: Law,
        seed: int,
        streams: NDArray[np.uint64],
    ) -> NDArray[np.int32]:
        """Draw what these positions become, int32 [n], without rows of log scores. streams : uint64 [n]

        Of a normalised network the law must not depend on the sum of the scores.
        """

    def log_scores(
        self, tokens: NDArray[np.int32], sigma: float, rows: NDArray[np.intp]
    ) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Some of the rows at a time, and their log scores, float32 [., V], 0 at each current token, to write over."""


@dataclass(frozen=True)
class Choice:
    """How a step chooses among tokens.

    predictor : "analytic", "euler", or, for networks that predict the clean token, "ddpm", whose last step takes the
        likeliest one
    draw : "exact", or "official": the published code's noise, whose truncation acts as a lower temperature
    temperature : see `apply_temperature`; top_k, top_p : see `truncate`
    Raises ValueError, naming the argument, for any other.
    """

    predictor: str = "analytic"
    draw: Draw = "exact"
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if self.predictor not in PREDICTORS:
            raise ValueError(f"predictor is {self.predictor!r}, allowed: {', '.join(map(repr, PREDICTORS))}")
        if self.draw not in ("exact", "official"):
            raise ValueError(f"draw is {self.draw!r}, allowed: 'exact', 'official'")
        if not 0.0 < self.temperature < math.inf:
            raise ValueError(f"temperature is {self.temperature}, allowed: 0 < temperature < infinity")
        if self.top_k < 0:
            raise ValueError(f"top_k is {self.top_k}, allowed: 1 or more, or 0 for all")
        if not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"top_p is {self.top_p}, allowed: 0 < top_p <= 1")

    @property
    def needs_rows(self) -> bool:
        """Whether a draw has to see all of a position's probabilities at once."""
        return self.draw != "exact" or self.top_k > 0 or self.top_p < 1.0


def draw_streams(indices: NDArray[np.uint64], step: int, length: int) -> NDArray[np.uint64]:
    """Number of the random stream behind each draw: uint64 [B, length] from sample indices uint64 [B].

    (index * 2^16 + step) * 2^20 + position, in which no two draws meet while index < 2^28, step < 2^16 and
    length <= 2^20. Step 0 is the draw of the limit, and step k the k-th step of the grid.
    """
    first = ((indices << np.uint64(STEP_BITS)) | np.uint64(step)) << np.uint64(POSITION_BITS)
    return first[:, None] | np.arange(length, dtype=np.uint64)


def sample(
    network: Network,
    graph: Graph,
    grid: TimeGrid,
    *,
    indices: Sequence[int],
    length: int,
    seed: int,
    fixed: NDArray[np.int32] | None = None,
    choice: Choice | None = None,
    on_step: OnStep | None = None,
) -> NDArray[np.int32]:
    """Draw one text a sample index, int32 [B, L], along a time grid (Lou et al. 2024, algorithms 2 and 3).

    network : asked at most once a step, about the positions that may change in it only; not at all if there are none
    indices : B sample indices, 0 <= index < 2^28. A text depends on the seed and on its own index, whatever the batch.
    length : L, 1 <= L <= 2^20
    seed : 0 <= seed < 2^64
    fixed : int32 [L], a token where the text is given and -1 where it is free; imposed on the limit and on every state
    choice : the default one if None
    on_step : called as ``on_step(step, steps, tokens)`` after each step, 1 <= step <= steps = len(grid), the denoiser
        being the last; tokens is a read-only copy, int32 [B, L]
    Raises ValueError for an argument outside these bounds.
    """
    index = _checked_indices(indices)
    check_request(grid, length, seed)
    given = _checked_fixed(fixed, graph, length)
    choice = Choice() if choice is None else choice
    between, last = PREDICTORS[choice.predictor]

    tokens = graph.sample_limit(seed, draw_streams(index, 0, length))
    np.copyto(tokens, given, where=given != FREE)
    steps = len(grid)
    for step, at in enumerate((*grid.predictor, grid.denoiser), start=1):
        rows = np.flatnonzero(graph.changing(tokens) & (given == FREE))
        streams = draw_streams(index, step, length).reshape(-1)[rows]
        take = _take_step_in_rows if choice.needs_rows else _take_step
        take(network, graph, last if step == steps else between, at, tokens, rows, choice, seed, streams)
        if on_step is not None:
            on_step(step, steps, _read_only_copy(tokens))
    return tokens


def _take_step(
    network: Network, graph: Graph, predictor: Predictor, at: Step, tokens: NDArray[np.int32], rows: NDArray[np.intp],
    choice: Choice, seed: int, streams: NDArray[np.uint64],
) -> None:  # fmt: skip
    """One step of some rows of tokens, in place, by their law."""
    law = predictor.law(graph, at)
    if network.normalised and rows.size:
        # Who jumps is known before the network is asked: where nobody does, it need not run, and the state that it
        # would be asked about next is the same one.
        jumps = uniform(seed, streams) < _jump_probability(law, at.sigma)
        rows, streams, law = rows[jumps], streams[jumps], law._replace(stay=0.0, slope=0.0)
    if choice.temperature != 1.0 and law.sharpness == 1.0:
        law = law._replace(sharpness=1.0 / choice.temperature)
    if rows.size:
        tokens.reshape(-1)[rows] = network.draw(tokens, at.sigma, rows, law, seed, streams)


def _jump_probability(law: Law, sigma: float) -> float:
    """That of a mask whose scores add up to 1 / (e^sigma - 1)."""
    total = 1.0 / math.expm1(sigma)
    return total / (total + max(law.stay - law.slope * total, 0.0))


def _take_step_in_rows(
    network: Network, graph: Graph, predictor: Predictor, at: Step, tokens: NDArray[np.int32], rows: NDArray[np.intp],
    choice: Choice, seed: int, streams: NDArray[np.uint64],
) -> None:  # fmt: skip
    """The same by rows of probabilities, a block of rows at a time."""
    if not rows.size:
        return
    drawn = np.empty(rows.shape, np.int32)
    current = tokens.reshape(-1)[rows]
    for part, scores in network.log_scores(tokens, at.sigma, rows):
        probabilities = predictor.transition(graph, scores, current[part], at)
        apply_temperature(probabilities, current[part], choice.temperature)
        truncate(probabilities, current[part], choice.top_k, choice.top_p)
        drawn[part] = sample_categorical(probabilities, seed, streams[part], method=choice.draw)
    tokens.reshape(-1)[rows] = drawn


def _checked_indices(indices: Sequence[int]) -> NDArray[np.uint64]:
    limit = 1 << INDEX_BITS
    wrong = [index for index in indices if not 0 <= index < limit]
    if wrong:
        raise ValueError(f"indices holds {wrong[0]}, allowed: 0 <= index < {limit}")
    return np.array(indices, dtype=np.uint64)


def check_request(grid: TimeGrid, length: int, seed: int) -> None:
    """Raise ValueError, naming the argument, for what `sample` would refuse once it runs."""
    if len(grid) >= 1 << STEP_BITS:
        raise ValueError(f"grid has {len(grid)} steps, allowed: fewer than {1 << STEP_BITS}")
    if not 1 <= length <= 1 << POSITION_BITS:
        raise ValueError(f"length is {length}, allowed: 1 <= length <= {1 << POSITION_BITS}")
    if not 0 <= seed < 1 << 64:
        raise ValueError(f"seed is {seed}, allowed: 0 <= seed < 2^64")


def _checked_fixed(fixed: NDArray[np.int32] | None, graph: Graph, length: int) -> NDArray[np.int32]:
    if fixed is None:
        return np.full(length, FREE, dtype=np.int32)
    if fixed.shape != (length,):
        raise ValueError(f"fixed has shape {fixed.shape}, allowed: ({length},)")
    outside = fixed[(fixed < FREE) | (fixed >= graph.tokens)]
    if outside.size:
        raise ValueError(f"fixed holds {outside[0]}, allowed: {FREE} (free) and 0 <= token < {graph.tokens}")
    return fixed


def _read_only_copy(tokens: NDArray[np.int32]) -> NDArray[np.int32]:
    copy = tokens.copy()
    copy.flags.writeable = False
    return copy
