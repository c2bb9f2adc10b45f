"""Batch sizes: by memory, and by what is measured where a request is long enough to gain from it."""

from __future__ import annotations

import pytest

from fastsedd.batching import BatchSize


def sizes(num_samples: int, size: BatchSize, seconds: dict[int, float]) -> list[int]:
    """The batches of a request, where a step of a batch takes that many seconds per sample, 1 where nothing is said."""
    taken: list[int] = []
    while sum(taken) < num_samples:
        batch = size.next(num_samples - sum(taken))
        step = batch * seconds.get(batch, 1.0)
        size.note(batch, [100.0, step, step])  # the first compiles
        taken.append(batch)
    assert sum(taken) == num_samples
    return taken


@pytest.mark.parametrize("best", [16, 8, 4])
def test_the_fastest_size_is_kept(best: int) -> None:
    taken = sizes(200, BatchSize(16, measured=True), {best: 0.5})
    assert taken[:3] == [16, 8, 4]
    assert set(taken[3:-1]) == {best}


def test_a_short_request_is_cut_by_memory_alone() -> None:
    assert sizes(40, BatchSize(16, measured=True), {8: 0.5}) == [16, 16, 8]


def test_a_requested_size_is_kept() -> None:
    assert set(sizes(200, BatchSize(8, measured=False), {4: 0.5})) == {8}


def test_one_text_at_a_time() -> None:
    assert set(sizes(20, BatchSize(1, measured=True), {})) == {1}


def test_a_batch_too_quick_to_time_teaches_nothing() -> None:
    size = BatchSize(4, measured=True)
    size.note(4, [1.0])
    assert size.next(100) == 4
