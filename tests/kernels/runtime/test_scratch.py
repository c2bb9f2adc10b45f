"""Scratch memory is the caller's alone while it is borrowed, and is kept for the next."""

from __future__ import annotations

import fastsedd_kernels as fk
import numpy as np
import pytest
from fastsedd_kernels.runtime import scratch as _scratch
from fastsedd_kernels.runtime.scratch import scratch

FLOAT32 = np.dtype(np.float32)


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_scratch, "_kept", [])


def test_it_is_kept_for_the_next_caller_and_never_lent_twice() -> None:
    with scratch(1000, FLOAT32) as first, scratch(1000, FLOAT32) as second:
        assert first.shape == second.shape == (1000,)
        assert not np.shares_memory(first, second)
    with scratch(500, FLOAT32) as again, scratch(10, FLOAT32) as other:
        assert np.shares_memory(again, first) or np.shares_memory(again, second)
        assert not np.shares_memory(again, other)


def test_a_large_block_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_scratch, "MAX_KEPT", 100)
    with scratch(1000, FLOAT32):
        pass
    assert _scratch._kept == []


def test_it_comes_back_after_an_error() -> None:
    with pytest.raises(RuntimeError), scratch(1000, FLOAT32):
        raise RuntimeError
    assert len(_scratch._kept) == 1


@pytest.mark.parametrize("multiply", [fk.matmul, lambda a, b: fk.strassen_matmul(a, b, 1)])
def test_a_recording_has_memory_of_its_own(multiply: object) -> None:
    """Its replay repacks into that; another call's panels, meanwhile, are elsewhere."""
    random = np.random.default_rng(0)
    a, b = (random.standard_normal((64, 64), dtype=np.float32) for _ in range(2))
    with scratch(10_000, FLOAT32):
        pass  # what is kept now must not be what the recording writes
    (kept,) = _scratch._kept
    kept.fill(7)
    results = []
    recording = fk.record(lambda: results.append(multiply(a, b)))  # type: ignore[operator]
    expected = results[0].copy()
    results[0].fill(0)
    recording.replay()
    np.testing.assert_array_equal(results[0], expected)
    assert (kept == 7).all()
