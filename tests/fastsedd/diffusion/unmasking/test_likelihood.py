"""The bound of masked language models: exact on a network small enough to go through all masks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from fastsedd.block_layout import BlockLayout
from fastsedd.diffusion.unmasking import likelihood

VOCABULARY, MASK = 5, 2
CLEAN = np.array([[0, 3, 4, 1, 0]], np.int32)


class Table:
    """Logits from a table of everything that is seen: under blocks what lies behind them does not count."""

    def __init__(self, blocks: BlockLayout | None = None) -> None:
        self.blocks = blocks

    def run(self, tokens: np.ndarray, first: int, last: int) -> None:
        self.tokens = tokens

    def logits(self, rows: np.ndarray) -> np.ndarray:
        length = self.tokens.shape[1]
        found = []
        for row in rows:
            text, at = divmod(int(row), length)
            end = length if self.blocks is None else self.blocks.end(at)
            rng = np.random.default_rng([at, *self.tokens[text, :end].tolist()])
            found.append(rng.standard_normal(VOCABULARY))
        return np.array(found, np.float32)


def exact(blocks: BlockLayout | None) -> float:
    """The mean over the number of masks, and over all choices of so many; by blocks. In nats per token."""
    total = 0.0
    for first, last in likelihood.spans(5, blocks):
        size = last - first
        for count in range(1, size + 1):
            choices = list(itertools.combinations(range(first, last), count))
            for choice in choices:
                tokens = CLEAN.copy()
                tokens[0, list(choice)] = MASK
                network = Table(blocks)
                network.run(tokens, first, last)
                logits = network.logits(np.array(choice)).astype(np.float64)
                logits[:, MASK] = -np.inf
                log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
                own = log_p[np.arange(count), CLEAN[0, list(choice)]].sum()
                total -= size / count * own / len(choices) / size
    return total / 5


@pytest.mark.parametrize("blocks", [None, BlockLayout(2), BlockLayout(3, 1)])
def test_the_estimate_is_that_of_all_masks(blocks: BlockLayout | None) -> None:
    def bound(windows: int, seed: int = 3, batch_size: int = 64) -> np.ndarray:
        return likelihood.bound(
            lambda texts: Table(blocks), np.tile(CLEAN, (windows, 1)), MASK, blocks, times=16, seed=seed,
            batch_size=batch_size,
        )  # fmt: skip

    values = bound(200)
    error = values.std(ddof=1) / np.sqrt(len(values))
    assert abs(values.mean() - exact(blocks)) < 4.5 * error
    assert error < 0.02 * exact(blocks)
    np.testing.assert_array_equal(bound(3, batch_size=7), values[:3])
    assert bound(1, seed=4) != values[0]


def test_every_set_of_masks_is_as_likely_as_it_should_be() -> None:
    masks = np.stack([likelihood.draw(5, window, 0, 3, None) for window in range(6000)])
    numbers = np.bincount(masks @ [1, 2, 4], minlength=8)
    expected = 6000 * np.array([0, *(1 / 9, 1 / 9, 1 / 9, 1 / 9, 1 / 9, 1 / 9, 1 / 3)])[[0, 1, 2, 3, 4, 5, 6, 7]]
    assert numbers[0] == 0
    assert (((numbers - expected)[1:] ** 2 / expected[1:]).sum()) < 30  # 6 degrees of freedom
