"""A network's forward pass for batches of one shape: recorded in the first call, replayed in the others.

A replay saves the Python between two kernels, which is cold whenever a kernel ends: about a twentieth of the time.
A step takes either logits, or draws of some positions, for which no logits are kept and the end of the network runs for
these positions only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import fastsedd_kernels as fk
import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastsedd.config import FREQUENCIES
from fastsedd.models.network import Network
from fastsedd.models.workspace import Workspace

BLOCK = 128  # rows of logits at a time, where they are needed whole

# Row counts are rounded up to whole register tiles (a partial tile costs as much), which also bounds the number of
# recordings.
_ROWS_PER_TILE = 8
_MAX_RECORDINGS = 256


class Forward:
    """(tokens, sigma) -> logits, or draws, in memory of its own. Not for two threads at once.

    batch, length : B and L of the tokens
    sigmas : S, how many values of sigma come with them: 1, which all samples share, or B
    """

    def __init__(self, network: Network, batch: int, length: int, sigmas: int = 1) -> None:
        self.scratch = Workspace.allocate(network.config, batch, length, sigmas)
        self._network = network
        # None of what is recorded refers to self: the memory is given back with the request, not when a cycle is found.
        self._trunk = Recorded(partial(network.trunk, self.scratch))
        self._whole: Recorded | None = None
        self._logits: NDArray[np.float32] | None = None
        self._draws: _Draws | None = None
        self._ends: dict[int, Recorded] = {}  # of the network, by the number of rows

    @property
    def nbytes(self) -> int:
        return self.scratch.nbytes + (0 if self._logits is None else self._logits.nbytes)

    def __call__(self, tokens: NDArray[np.int32], sigma: ArrayLike) -> NDArray[np.float32]:
        """tokens [B, L], total noise sigma [S] or a number to logits [B, L, V], overwritten by the next call."""
        self._take(tokens, sigma)
        if self._logits is None or self._whole is None:
            self._logits = fk.aligned_empty((*self.scratch.tokens.shape, self._network.config.vocab_size))
            self._whole = Recorded(partial(_run_whole, self._network, self.scratch, self._logits))
        self._whole()
        return self._logits

    def draw(
        self,
        tokens: NDArray[np.int32],
        sigma: float,
        rows: NDArray[np.intp],
        law: fk.Law,
        seeds: NDArray[np.uint64],
        streams: NDArray[np.uint64],
    ) -> NDArray[np.int32]:
        """Draw the next tokens of some positions: int32 [n], overwritten by the next call.

        tokens : [B, L]; rows : intp [n], n at least 1, positions of them as if they were one text, each at most once
        law : of logits
        seeds, streams : as `fk.sample_linear` takes them, uint64 [n]
        """
        self._take(tokens, sigma)
        if self._draws is None:
            self._draws = _Draws.allocate(self._network, tokens.size)
        draws, count = self._draws, len(rows)
        padded = min(-(-count // _ROWS_PER_TILE) * _ROWS_PER_TILE, tokens.size)
        draws.law[:] = law
        for kept, new in ((draws.rows, rows), (draws.seeds, seeds), (draws.streams, streams)):
            kept[:count], kept[count:padded] = new, new[0]
        draws.current[:padded] = tokens.reshape(-1)[draws.rows[:padded]]
        self._trunk()
        self._end(draws, padded)()
        return draws.drawn[:count]

    def logits(
        self, tokens: NDArray[np.int32], sigma: float, rows: NDArray[np.intp]
    ) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Logits of some positions, BLOCK rows at a time: yields which of the rows, and [n, V], which may be
        overwritten. rows : as for `draw`"""
        self._take(tokens, sigma)
        self._trunk()
        yield from self.last_logits(rows)

    def last_logits(self, rows: NDArray[np.intp]) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """The same of the state that `draw` or `logits` were given last, whose trunk is not run again."""
        network = self._network
        features = network.finish(self.scratch, self.scratch.gather(np.asarray(rows, np.intp)))
        block = fk.aligned_empty((min(BLOCK, len(rows)), network.config.vocab_size))
        for first in range(0, len(rows), BLOCK):
            part = slice(first, min(first + BLOCK, len(rows)))
            yield part, network.head(features[part], block[: part.stop - first])

    def profile(self, tokens: NDArray[np.int32], sigma: ArrayLike) -> dict[str, float]:
        """Seconds that each kernel takes in a forward, by its name; see `fastsedd_kernels.profile`."""
        logits = self(tokens, sigma)
        return fk.profile(partial(_run_whole, self._network, self.scratch, logits))

    def _take(self, tokens: NDArray[np.int32], sigma: ArrayLike) -> None:
        """Put tokens and noise where the network reads them."""
        noise = np.asarray(sigma, np.float64).reshape(-1)
        self.scratch.tokens[...] = tokens
        self.scratch.sinusoids[...] = sinusoids(noise if self._network.config.time_conditioning else 0 * noise)

    def _end(self, draws: _Draws, count: int) -> Recorded:
        """The end of the network, after the trunk, for that many rows."""
        if count not in self._ends:
            if len(self._ends) == _MAX_RECORDINGS:
                self._ends.clear()
            self._ends[count] = Recorded(partial(_run_end, self._network, self.scratch, draws, count))
        return self._ends[count]


def _run_whole(network: Network, scratch: Workspace, logits: NDArray[np.float32]) -> None:
    network.trunk(scratch)
    network.head(network.finish(scratch, scratch.all_rows()), logits)


def _run_end(network: Network, scratch: Workspace, draws: _Draws, count: int) -> None:
    features = network.finish(scratch, scratch.gather(draws.rows[:count]))
    fk.sample_linear(
        features, network.head.weight, network.head.bias, law=draws.law, seed=draws.seeds[:count],
        streams=draws.streams[:count], current=draws.current[:count], columns=network.config.tokens,
        sums=draws.sums, out=draws.drawn[:count],
    )  # fmt: skip


class Recorded:
    """Calls of kernels that are recorded when they are made, and again where the number of threads has changed."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self._recording: fk.Recording | None = None
        self._threads = 0  # that it was recorded for

    def __call__(self) -> None:
        if self._recording is not None and self._threads == fk.get_num_threads():
            self._recording.replay()
        else:
            self._threads = fk.get_num_threads()
            self._recording = fk.record(self._function)


@dataclass(frozen=True)
class _Draws:
    """Arrays that `fk.sample_linear` reads and writes, for up to n rows."""

    rows: NDArray[np.intp]
    current: NDArray[np.int32]
    streams: NDArray[np.uint64]
    seeds: NDArray[np.uint64]
    law: NDArray[np.float64]
    sums: NDArray[np.float32]
    drawn: NDArray[np.int32]

    @classmethod
    def allocate(cls, network: Network, rows: int) -> _Draws:
        sums = fk.aligned_empty((fk.sums_needed(network.head.weight, rows),))
        return cls(
            np.empty(rows, np.intp), np.empty(rows, np.int32), np.empty(rows, np.uint64), np.empty(rows, np.uint64),
            np.empty(len(fk.Law())), sums, np.empty(rows, np.int32),
        )  # fmt: skip


def sinusoids(sigma: NDArray[np.float64]) -> NDArray[np.float32]:
    """[S] to [S, FREQUENCIES]: cosines, then sines, of sigma at geometrically spaced rates from 1 to 1/10000."""
    half = FREQUENCIES // 2
    angles = sigma[:, None] * np.exp(-math.log(10000.0) * np.arange(half) / half)
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
