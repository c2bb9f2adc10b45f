"""The likelihood bound of a text under a masked language model, estimated by masking at random."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fastsedd.block_layout import BlockLayout
from fastsedd.choices import MAX_TIMES, check_integer, check_seed
from fastsedd.diffusion.unmasking.sampler import ROWS, Network


def bound(
    networks: Callable[[int], Network],
    windows: NDArray[np.int32],
    mask: int,
    blocks: BlockLayout | None,
    *,
    times: int,
    seed: int,
    batch_size: int,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float64]:
    """Estimate a bound on -log p of each window, nats per token: float64 [W].

    Of each block of n tokens, l are masked, l from 1 to n alike and then any l of them alike: -log p of the block,
    given those before it, is at most the mean of n / l times the sum of -log p(token | the rest) over the masked ones
    (Ou et al. 2024; Nie et al. 2025). The estimate has no bias, and depends on the seed and the window's own number.

    networks : for a number of texts; windows : int32 [W, L]; blocks : of block-causal attention, None: one, of all
    progress : called as ``progress(done, total)`` after each batch, of W times `times`
    Raises ValueError for times, seed and batch_size outside their bounds.
    """
    check_integer("times", times, 1, MAX_TIMES)
    check_seed(seed)
    values = np.empty(len(windows) * times)
    for first in range(0, len(values), batch_size):
        last = min(first + batch_size, len(values))
        rows, turns = np.divmod(np.arange(first, last), times)
        masked = np.stack([draw(seed, *at, windows.shape[1], blocks) for at in zip(rows, turns, strict=True)])
        values[first:last] = weighted(networks(last - first), windows[rows], masked, mask, blocks)
        if progress is not None:
            progress(last, len(values))
    by_window: NDArray[np.float64] = values.reshape(-1, times).mean(axis=1) / windows.shape[1]
    return by_window


def weighted(
    network: Network, clean: NDArray[np.int32], masked: NDArray[np.bool_], mask: int, blocks: BlockLayout | None
) -> NDArray[np.float64]:
    """The sum over blocks of n / l times the masked tokens' -log p: nats of each text, float64 [B].

    clean : int32 [B, L]; masked : bool [B, L], one at least in each block
    """
    total = np.zeros(len(clean))
    for first, last in spans(clean.shape[1], blocks):
        tokens = clean.copy()
        hidden = np.zeros_like(masked)
        hidden[:, first:last] = masked[:, first:last]
        tokens[hidden] = mask
        network.run(tokens, first, last)
        surprise = np.zeros(len(clean))
        rows = np.flatnonzero(hidden)
        for part in (rows[start : start + ROWS] for start in range(0, len(rows), ROWS)):
            logits = network.logits(part)
            logits[:, mask] = -np.inf
            numbers = logits.astype(np.float64)
            numbers -= numbers.max(axis=-1, keepdims=True)
            own = np.take_along_axis(numbers, clean.reshape(-1)[part][:, None].astype(np.intp), axis=-1)[:, 0]
            np.add.at(surprise, part // clean.shape[1], np.log(np.exp(numbers).sum(axis=-1)) - own)
        total += (last - first) / hidden.sum(axis=1) * surprise
    return total


def spans(length: int, blocks: BlockLayout | None) -> list[tuple[int, int]]:
    """The blocks of a text, each with its end."""
    return [(0, length)] if blocks is None else list(blocks.spans(0, length))


def draw(seed: int, window: int, turn: int, length: int, blocks: BlockLayout | None) -> NDArray[np.bool_]:
    """The masks of one window at one of its times, bool [L]: a function of seed and place, whatever the batch."""
    # Philox counts up in the first word of its counter, so no two streams meet.
    rng = np.random.Generator(np.random.Philox(key=seed, counter=[0, 1, turn, window]))
    masked = np.zeros(length, bool)
    for first, last in spans(length, blocks):
        count = int(rng.integers(1, last - first + 1))
        masked[first + rng.permutation(last - first)[:count]] = True
    return masked
