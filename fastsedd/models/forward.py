"""A network's forward pass for batches of one shape: recorded in the first call, replayed in the others.

A replay spares the Python between two kernels, which is cold whenever a kernel ends: about a twentieth of the time.
What a step asks for is either the log scores, or draws of some positions, for which no log score is kept and the end of
the network runs for these positions only.
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

from fastsedd.config import FREQUENCIES, ModelConfig
from fastsedd.models.network import Network
from fastsedd.models.workspace import Workspace

BLOCK = 128  # rows of log scores at a time, where they are needed whole

# A number of rows is rounded up to whole tiles, which take as long for fewer: then few recordings serve all of a text.
_TOGETHER = 8
_MOST_RECORDINGS = 256


class Forward:
    """(tokens, sigma) -> log scores, or draws, in memory of its own. Not for two threads at once.

    batch, length : B and L of the tokens
    sigmas : S, how many values of sigma come with them: 1, which all samples share, or B
    """

    def __init__(self, network: Network, batch: int, length: int, sigmas: int = 1) -> None:
        self.scratch = Workspace.allocate(network.config, batch, length, sigmas)
        self._network = network
        # None of what is recorded refers to self: the memory is given back with the request, not when a cycle is found.
        self._trunk = _Recorded(partial(network.trunk, self.scratch))
        self._whole: _Recorded | None = None
        self._log_score: NDArray[np.float32] | None = None
        self._draws: _Draws | None = None
        self._ends: dict[int, _Recorded] = {}  # of the network, by the number of rows

    @property
    def normalised(self) -> bool:
        """Whether the scores of a mask are those of a distribution over tokens, and add up to 1 / (e^sigma - 1)."""
        return self._network.config.normalised

    @property
    def nbytes(self) -> int:
        return self.scratch.nbytes + (0 if self._log_score is None else self._log_score.nbytes)

    def __call__(self, tokens: NDArray[np.int32], sigma: ArrayLike) -> NDArray[np.float32]:
        """tokens [B, L], total noise sigma [S] or a number to log scores [B, L, V], overwritten by the next call."""
        noise = self._take(tokens, sigma)
        if self._log_score is None or self._whole is None:
            self._log_score = fk.aligned_empty((*self.scratch.tokens.shape, self._network.config.vocab_size))
            self._whole = _Recorded(partial(_run_whole, self._network, self.scratch, self._log_score))
        self._whole()
        _finish_scores(self._network.config, self._log_score, self.scratch.tokens, noise[:, None])
        return self._log_score

    def draw(
        self,
        tokens: NDArray[np.int32],
        sigma: float,
        rows: NDArray[np.intp],
        law: fk.Law,
        seed: int,
        streams: NDArray[np.uint64],
    ) -> NDArray[np.int32]:
        """What some positions become: int32 [n], overwritten by the next call.

        tokens : [B, L]; rows : intp [n], n at least 1, positions of them as if they were one text, each at most once
        law : how log scores weigh; of a normalised network they are known only up to a constant of each row here
        seed, streams : as `fk.sample_linear` takes them, uint64 [n]
        """
        config = self._network.config
        noise = self._take(tokens, sigma)
        if self._draws is None:
            self._draws = _Draws.allocate(self._network, tokens.size)
        if config.scale_by_sigma:
            law = law._replace(log_scale=law.log_scale - float(sigma_term(noise, config.vocab_size)[0]))
        draws, count = self._draws, len(rows)
        padded = min(-(-count // _TOGETHER) * _TOGETHER, tokens.size)
        draws.law[:], draws.seed[0] = law, seed
        draws.rows[:count], draws.streams[:count] = rows, streams
        draws.rows[count:padded], draws.streams[count:padded] = rows[0], streams[0]
        draws.current[:padded] = tokens.reshape(-1)[draws.rows[:padded]]
        self._trunk()
        self._end(draws, padded)()
        return draws.drawn[:count]

    def log_scores(
        self, tokens: NDArray[np.int32], sigma: float, rows: NDArray[np.intp]
    ) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """The log scores of some positions, BLOCK rows at a time, each [n, V], which may be overwritten: `rows` as for
        `draw`. Yields which of the rows they are, too."""
        noise = self._take(tokens, sigma)
        network = self._network
        self._trunk()
        features = network.finish(self.scratch, self.scratch.gather(np.asarray(rows, np.intp)))
        block = fk.aligned_empty((min(BLOCK, len(rows)), network.config.vocab_size))
        current = self.scratch.tokens.reshape(-1)[rows]
        for first in range(0, len(rows), BLOCK):
            part = slice(first, min(first + BLOCK, len(rows)))
            scores = network.head(features[part], block[: part.stop - first])
            _finish_scores(network.config, scores, current[part], noise)
            yield part, scores

    def profile(self, tokens: NDArray[np.int32], sigma: ArrayLike) -> dict[str, float]:
        """Seconds that each kernel takes in a forward, by its name; see `fastsedd_kernels.profile`."""
        log_score = self(tokens, sigma)
        return fk.profile(partial(_run_whole, self._network, self.scratch, log_score))

    def _take(self, tokens: NDArray[np.int32], sigma: ArrayLike) -> NDArray[np.float64]:
        """Put tokens and noise where the network reads them; the noise as [S]."""
        noise = np.asarray(sigma, np.float64).reshape(-1)
        self.scratch.tokens[...] = tokens
        self.scratch.sinusoids[...] = sinusoids(noise if self._network.config.time_conditioning else 0 * noise)
        return noise

    def _end(self, draws: _Draws, count: int) -> _Recorded:
        """What follows the trunk for that many rows."""
        if count not in self._ends:
            if len(self._ends) == _MOST_RECORDINGS:
                self._ends.clear()
            self._ends[count] = _Recorded(partial(_run_end, self._network, self.scratch, draws, count))
        return self._ends[count]


def _run_whole(network: Network, scratch: Workspace, log_score: NDArray[np.float32]) -> None:
    network.trunk(scratch)
    network.head(network.finish(scratch, scratch.all_rows()), log_score)


def _run_end(network: Network, scratch: Workspace, draws: _Draws, count: int) -> None:
    features = network.finish(scratch, scratch.gather(draws.rows[:count]))
    fk.sample_linear(
        features, network.head.weight, network.head.bias, law=draws.law, seed=draws.seed,
        streams=draws.streams[:count], current=draws.current[:count], columns=network.config.tokens,
        sums=draws.sums, out=draws.drawn[:count],
    )  # fmt: skip


class _Recorded:
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
    """What `fk.sample_linear` reads and writes, for up to n rows."""

    rows: NDArray[np.intp]
    current: NDArray[np.int32]
    streams: NDArray[np.uint64]
    law: NDArray[np.float64]
    seed: NDArray[np.uint64]
    sums: NDArray[np.float32]
    drawn: NDArray[np.int32]

    @classmethod
    def allocate(cls, network: Network, rows: int) -> _Draws:
        sums = fk.aligned_empty((fk.sums_needed(network.head.weight, rows),))
        return cls(
            np.empty(rows, np.intp), np.empty(rows, np.int32), np.empty(rows, np.uint64), np.empty(len(fk.Law())),
            np.empty(1, np.uint64), sums, np.empty(rows, np.int32),
        )  # fmt: skip


def sinusoids(sigma: NDArray[np.float64]) -> NDArray[np.float32]:
    """[S] to [S, FREQUENCIES]: cosines, then sines, of sigma at geometrically spaced rates from 1 to 1/10000."""
    half = FREQUENCIES // 2
    angles = sigma[:, None] * np.exp(-math.log(10000.0) * np.arange(half) / half)
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def sigma_term(sigma: NDArray[np.float64], vocab_size: int) -> NDArray[np.float64]:
    """log(e^sigma - 1) + log(V - 1): what the score of a mask owes to the noise alone (Lou et al., appendix C)."""
    return np.asarray(np.log(np.expm1(sigma)) + math.log(vocab_size - 1))


def _finish_scores(
    config: ModelConfig, scores: NDArray[np.float32], tokens: NDArray[np.intp], sigma: NDArray[np.float64]
) -> None:
    """Make logits [..., V] log scores, in place; tokens : [...], the current ones; sigma broadcasts with them."""
    if config.normalised:
        _normalise(config.tokens, scores, tokens, sigma)
    elif config.scale_by_sigma:
        np.subtract(scores, sigma_term(sigma, config.vocab_size).astype(np.float32)[..., None], out=scores)
    # A token's ratio with itself is one.
    np.put_along_axis(scores, tokens[..., None], np.float32(0.0), axis=-1)


def _normalise(mask: int, scores: NDArray[np.float32], tokens: NDArray[np.intp], sigma: NDArray[np.float64]) -> None:
    """Log scores of a network that predicts the clean token: of a mask, log p(y) - log(e^sigma - 1) (Sahoo et al.
    2024, appendix; Ou et al. 2024, theorem 1). A token could have been nothing else."""
    log_odds = np.broadcast_to(np.log(np.expm1(sigma)), tokens.shape)
    text = scores[..., :mask]
    text -= text.max(axis=-1, keepdims=True)
    total = np.zeros(tokens.shape)
    for row in np.ndindex(tokens.shape):  # one row of exponentials at a time: no second array of scores
        total[row] = np.exp(text[row], dtype=np.float64).sum()
    text -= (np.log(total) + log_odds).astype(np.float32)[..., None]
    settled = tokens != mask
    scores[settled] = -np.inf
    scores[..., mask] = np.where(settled, log_odds, 0.0)
