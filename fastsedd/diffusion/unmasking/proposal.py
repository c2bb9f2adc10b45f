"""Tokens that are proposed for masks, and what the orders of commitment need to know of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from fastsedd_kernels import sample_categorical
from numpy.typing import NDArray

from fastsedd.choices import Order
from fastsedd.diffusion.predictor import truncate
from fastsedd.diffusion.unmasking.settings import Settings

Draws = tuple[NDArray[np.uint64], NDArray[np.uint64]]  # the seed and the random stream behind each draw, uint64 [n]

_NUMBERS = 1 << 20  # of logits that are measured at a time
_TINY = 1e-10  # in the logarithm of an entropy


@dataclass(frozen=True)
class Proposal:
    """A token for each of n positions, with its probability and its place in the order.

    tokens : int32 [n]; confidence, score : float32 [n], the higher the score the earlier; entropy : float32 [n]
    All but the tokens are of softmax(logits), or of the law that proposals are drawn from, as `Settings.of_draws` says.
    They are computed in float64 and rounded, so that positions with the same logits in another order are equal.
    """

    tokens: NDArray[np.int32]
    confidence: NDArray[np.float32]
    score: NDArray[np.float32]
    entropy: NDArray[np.float32]

    @classmethod
    def empty(cls, count: int) -> Proposal:
        """Memory for proposals, to be filled part by part."""
        numbers = np.empty((3, count), np.float32)
        return cls(np.empty(count, np.int32), numbers[0], numbers[1], numbers[2])

    def fill(
        self, first: int, logits: NDArray[np.float32], settings: Settings, draws: Draws, committed: NDArray[np.int32]
    ) -> None:
        """Propose tokens for m of the positions, from `first` on.

        logits : [m, V], without those that may not be proposed, which are minus infinity; left as they are
        draws : of these positions
        committed : int32 [m], tokens that stand already, -1 where there is none
        """
        size = max(1, _NUMBERS // logits.shape[-1])
        for row in range(0, len(logits), size):
            some = slice(row, min(row + size, len(logits)))
            self._fill(
                slice(first + row, first + some.stop), logits[some], settings, (draws[0][some], draws[1][some]),
                committed[some],
            )  # fmt: skip

    def _fill(
        self, part: slice, logits: NDArray[np.float32], settings: Settings, draws: Draws, committed: NDArray[np.int32]
    ) -> None:
        drawn = _law(logits, settings) if settings.temperature > 0.0 or settings.of_draws else None
        if drawn is None or settings.temperature == 0.0:
            tokens = logits.argmax(axis=-1).astype(np.int32)
        else:
            tokens = sample_categorical(drawn, *draws)
        np.copyto(tokens, committed, where=committed >= 0)
        self.tokens[part] = tokens
        numbers = _softmax(logits) if drawn is None or not settings.of_draws else _normalised(drawn.astype(np.float64))
        self.confidence[part], self.score[part], self.entropy[part] = measure(numbers, tokens, settings)


def _law(logits: NDArray[np.float32], settings: Settings) -> NDArray[np.float32]:
    """The law that proposals are drawn from: float32 [m, V]."""
    law = _softmax(logits, settings.temperature or 1.0).astype(np.float32)
    # The mask's weight is 0: as the "current" token it neither stays nor takes part.
    truncate(law, law.argmin(axis=-1).astype(np.int32), settings.top_k, settings.top_p, settings.top_p_within)
    return law


def _softmax(logits: NDArray[np.float32], temperature: float = 1.0) -> NDArray[np.float64]:
    """softmax(logits / temperature), float64 [m, V]."""
    numbers = logits.astype(np.float64)
    numbers -= numbers.max(axis=-1, keepdims=True)
    if temperature != 1.0:
        numbers /= temperature
    return _normalised(np.exp(numbers, out=numbers))


def _normalised(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows that add up to 1, in place."""
    numbers /= numbers.sum(axis=-1, keepdims=True)
    return numbers


def measure(
    numbers: NDArray[np.float64], tokens: NDArray[np.int32], settings: Settings
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Confidence, score and entropy of each row of probabilities; what the settings do not need may be anything."""
    order: Order = settings.order
    confidence = np.take_along_axis(numbers, tokens[:, None].astype(np.intp), axis=-1)[:, 0]
    score = entropy = confidence
    if order == "margin":
        two = np.partition(numbers, numbers.shape[-1] - 2, axis=-1)[:, -2:]
        score = two[:, 1] - two[:, 0]
    if order == "entropy" or settings.entropy_bound is not None:
        entropy = -(numbers * np.log(numbers + _TINY)).sum(axis=-1)
        score = -entropy if order == "entropy" else score
    return confidence, score, entropy
