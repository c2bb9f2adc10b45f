"""The protocol of samplers: a batch of texts in, a record of each step out.

A sampler is an iterator, so that its caller may look at each state, stop, or take its time over one, and the time of a
step is measured by the sampler itself. Two kinds fit: independent draws along a grid of noise (`GridSampler`), and
orders that commit to some masked positions at a time. To add one, see docs/adding.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

FREE = -1  # a position that is to be written, among given tokens

# A stream number is 64 bits: sample index, step and position, from the top.
INDEX_BITS = 28
STEP_BITS = 16
POSITION_BITS = 20


@dataclass(frozen=True)
class Batch:
    """Texts that are denoised together. Nothing is checked here: `Request` and `given` have done so.

    indices : uint64 [B], 0 <= index < 2^28; seeds : uint64 [B]. A text depends on its own seed and index, not on its
        batch.
    given : int32 [B, L], L < 2^19: a token where the text is given, FREE where it is to be written
    confidence : float32 [B, L], written by samplers: the network's probability of each token that they drew, when they
        did, among all that it might have been; NaN elsewhere. None: not wanted, and not computed.
    """

    indices: NDArray[np.uint64]
    seeds: NDArray[np.uint64]
    given: NDArray[np.int32]
    confidence: NDArray[np.float32] | None = None

    @classmethod
    def of(
        cls, indices: Sequence[int], seeds: Sequence[int], given: Sequence[NDArray[np.int32]], confident: bool = False
    ) -> Batch:
        """confident : the confidence is wanted"""
        stacked = np.stack(given)
        confidence = np.full(stacked.shape, np.nan, np.float32) if confident else None
        return cls(np.array(indices, np.uint64), np.array(seeds, np.uint64), stacked, confidence)

    def __len__(self) -> int:
        return len(self.indices)

    def part(self, rows: Sequence[int]) -> Batch:
        """Some of the texts."""
        chosen = list(rows)
        confidence = None if self.confidence is None else self.confidence[chosen]
        return Batch(self.indices[chosen], self.seeds[chosen], self.given[chosen], confidence)

    def streams(self, step: int) -> NDArray[np.uint64]:
        """Number of the random stream behind each draw of a step: uint64 [B, L]; see `draw_streams`."""
        return draw_streams(self.indices, step, self.given.shape[1])

    def order_streams(self, step: int) -> NDArray[np.uint64]:
        """Streams behind the order of positions in a step, uint64 [B, L]: those of no draw, as no text is so long."""
        return self.streams(step) | np.uint64(1 << (POSITION_BITS - 1))

    def seeds_of_draws(self) -> NDArray[np.uint64]:
        """The seed behind each draw: uint64 [B, L]."""
        return np.repeat(self.seeds[:, None], self.given.shape[1], axis=1)


@dataclass(frozen=True)
class StepRecord:
    """One step of a batch, once it is done.

    step, steps : 1 <= step <= steps
    tokens : int32 [B, L], the state, in the sampler's memory: overwritten by the next step, the caller's after the last
    seconds : how long the step took, without the time that the caller spent between steps
    """

    step: int
    steps: int
    tokens: NDArray[np.int32]
    seconds: float


Network_contra = TypeVar("Network_contra", contravariant=True)


class Sampler(Protocol[Network_contra]):
    """A frozen object that turns noise or masks into texts with some kind of network. Threads may share it."""

    def run(self, network: Network_contra, batch: Batch, after: StepRecord | None = None) -> Iterator[StepRecord]:
        """Write the texts of a batch; the last record holds them, without masks.

        after : a step of the same texts, perhaps in another batch, after which to go on. Its tokens are written over.
        Given tokens stand in every state. A draw depends on its own text's seed and index, on the step and on the
        position, through `Batch.streams`.
        """


def draw_streams(indices: NDArray[np.uint64], step: int, length: int) -> NDArray[np.uint64]:
    """Number of the random stream behind each draw: uint64 [B, length] from sample indices uint64 [B].

    (index * 2^16 + step) * 2^20 + position, in which no two draws meet while index < 2^28, step < 2^16 and
    length <= 2^20. Step 0 is the draw of the initial state, and step k the sampler's k-th step.
    """
    first = ((indices << np.uint64(STEP_BITS)) | np.uint64(step)) << np.uint64(POSITION_BITS)
    return first[:, None] | np.arange(length, dtype=np.uint64)
