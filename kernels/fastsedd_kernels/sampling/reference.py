"""Philox and the exact draws in plain NumPy integers and float64: the truth for tests."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fastsedd_kernels.sampling.api import Law

Numbers = Iterator[float]

_WORD = 0xFFFFFFFF


def philox(seed: int, stream: int, block: int) -> tuple[int, int, int, int]:
    c = [block & _WORD, block >> 32, stream & _WORD, stream >> 32]
    k = [seed & _WORD, seed >> 32]
    for _ in range(10):
        low, high = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(high >> 32) ^ c[1] ^ k[0], high & _WORD, (low >> 32) ^ c[3] ^ k[1], low & _WORD]
        k = [(k[0] + 0x9E3779B9) & _WORD, (k[1] + 0xBB67AE85) & _WORD]
    return c[0], c[1], c[2], c[3]


def sample_categorical(probabilities: NDArray[np.float32], seed: int, offset: int = 0) -> NDArray[np.int32]:
    """The exact method, rows of a 2-D array."""
    drawn = []
    for r, row in enumerate(np.asarray(probabilities, np.float64)):
        blocks = [philox(seed, offset + r, block) for block in range(-(-len(row) // 4))]
        bits = np.array(blocks, np.float64).reshape(-1)[: len(row)]
        drawn.append(int(np.argmax(row / -np.log1p(-(bits + 0.5) / 2**32))))
    return np.array(drawn, np.int32)


def uniform_number(seed: int, stream: int, block: int) -> float:
    """A number of 53 random bits, 0 <= u < 1."""
    a, b, _, _ = philox(seed, stream, block)
    return float((a << 32 | b) >> 11) * 2.0**-53


def law_probabilities(logits: NDArray[np.float64], current: NDArray[np.integer], law: Law) -> NDArray[np.float64]:
    """Probabilities of `sample_linear`'s draws: [M, N + 1] of logits [M, N]; the last is to stay.

    Whatever its number, a row's own column has the probability to stay; itself it has none.
    """
    probabilities = np.zeros((len(logits), logits.shape[1] + 1))
    for row, own, out in zip(np.asarray(logits, np.float64), current, probabilities, strict=True):
        score = _scores(row, own, law)
        weights = np.maximum(score - law.floor * (1.0 + score.sum()), 0.0)
        if 0 <= own < len(row):
            weights[own] = 0.0
        jump, stay = weights.sum(), max(law.stay - law.slope * score.sum(), 0.0)
        if law.sharpness == np.inf:
            sharpened = (np.arange(len(row)) == score.argmax()).astype(np.float64)
        else:
            sharpened = (weights / weights.max()) ** law.sharpness if jump > 0 else weights
        if jump > 0:
            out[:-1] = jump * sharpened / sharpened.sum()
        out[-1] = stay
        out /= out.sum()
    return probabilities


def _scores(row: NDArray[np.float64], own: int, law: Law) -> NDArray[np.float64]:
    among = 0 <= own < len(row)
    score: NDArray[np.float64] = np.exp(row - (row[own] if among and law.relative else 0.0) + law.log_scale)
    if among:
        score[own] = 0.0
    return score


def sample_law(
    logits: NDArray[np.float64], current: NDArray[np.integer], law: Law, seed: int, streams: NDArray[np.integer]
) -> NDArray[np.int32]:
    """`sample_linear` of logits [M, N], step by step; without its sweeps."""
    drawn = []
    for row, own, stream in zip(np.asarray(logits, np.float64), current, streams, strict=True):
        score = _scores(row, own, law)
        numbers = (uniform_number(seed, int(stream), block) for block in itertools.count(1))
        drawn.append(_draw_by_law(score, int(own), law, numbers))
    return np.array(drawn, np.int32)


def _draw_by_law(score: NDArray[np.float64], own: int, law: Law, numbers: Numbers) -> int:
    total = score.sum()
    threshold, stay = law.floor * (1.0 + total), max(law.stay - law.slope * total, 0.0)
    while True:
        if next(numbers) * (stay + total) < stay:
            return own
        if law.floor == 0.0:
            return _propose(score**law.sharpness, numbers)
        column = _propose(score, numbers)
        if next(numbers) * score[column] >= score[column] - threshold:
            continue
        if law.sharpness == 1.0:
            return column
        while True:
            column = _propose(score**law.sharpness, numbers)
            if next(numbers) < max(1.0 - threshold / score[column], 0.0) ** law.sharpness:
                return column


def _propose(weights: NDArray[np.float64], numbers: Numbers) -> int:
    """The first column at which the running sum of weights exceeds a random share of their total."""
    sums = np.cumsum(weights)
    return int(np.searchsorted(sums, next(numbers) * sums[-1], side="right"))
