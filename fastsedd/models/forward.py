"""A network's forward pass for batches of one shape: recorded in the first call, replayed in the others.

A replay spares the Python between two kernels, which is cold whenever a kernel ends: about a twentieth of the time.
"""

from __future__ import annotations

import math

import fastsedd_kernels as fk
import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastsedd.models.network import Network
from fastsedd.models.workspace import FREQUENCIES, Workspace


class Forward:
    """(tokens, sigma) -> log score, in memory of its own. Not for two threads at once.

    batch, length : B and L of the tokens
    sigmas : S, how many values of sigma come with them: 1, which all samples share, or B
    """

    def __init__(self, network: Network, batch: int, length: int, sigmas: int = 1) -> None:
        self.scratch = Workspace.allocate(network.config, batch, length, sigmas)
        self._network = network
        self._recording: fk.Recording | None = None
        self._threads = 0  # that it was recorded for

    def __call__(self, tokens: NDArray[np.int32], sigma: ArrayLike) -> NDArray[np.float32]:
        """tokens [B, L], total noise sigma [S] or a number to log scores [B, L, V], overwritten by the next call."""
        scratch, config = self.scratch, self._network.config
        noise = np.asarray(sigma, np.float64).reshape(-1)
        scratch.tokens[...] = tokens
        scratch.sinusoids[...] = sinusoids(noise)
        self._run()
        if config.scale_by_sigma:
            np.subtract(scratch.log_score, sigma_term(noise, config.vocab_size)[:, None, None], out=scratch.log_score)
        zero_current(scratch.log_score, scratch.tokens)
        return scratch.log_score

    def profile(self, tokens: NDArray[np.int32], sigma: ArrayLike) -> dict[str, float]:
        """Seconds that each kernel takes in a forward, by its name; see `fastsedd_kernels.profile`."""
        self(tokens, sigma)
        return fk.profile(lambda: self._network.run(self.scratch))

    def _run(self) -> None:
        if self._recording is not None and self._threads == fk.get_num_threads():
            self._recording.replay()
        else:
            self._threads = fk.get_num_threads()
            self._recording = fk.record(lambda: self._network.run(self.scratch))


def sinusoids(sigma: NDArray[np.float64]) -> NDArray[np.float32]:
    """[S] to [S, FREQUENCIES]: cosines, then sines, of sigma at geometrically spaced rates from 1 to 1/10000."""
    half = FREQUENCIES // 2
    angles = sigma[:, None] * np.exp(-math.log(10000.0) * np.arange(half) / half)
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def sigma_term(sigma: NDArray[np.float64], vocab_size: int) -> NDArray[np.float32]:
    """log(e^sigma - 1) + log(V - 1), [S]: what the score of a mask owes to the noise alone (Lou et al., appendix C)."""
    return (np.log(np.expm1(sigma)) + math.log(vocab_size - 1)).astype(np.float32)


def zero_current(log_score: NDArray[np.float32], tokens: NDArray[np.intp]) -> None:
    """A token's ratio with itself is one: its log score is zero, in place."""
    np.put_along_axis(log_score, tokens[..., None], np.float32(0.0), axis=-1)
