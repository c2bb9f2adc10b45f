"""A replay does again what the recorded functions did, with what the arrays hold by then."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import fastsedd_kernels as fk
import numpy as np
import pytest

SIZE = 24

# Functions of two inputs and an output, all float32 [SIZE, SIZE]; most of the inputs are views that must be copied.
FUNCTIONS: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], object]] = {
    "linear": lambda a, b, out: fk.linear(a, b, activation="gelu", out=out),
    "linear of columns": lambda a, b, out: fk.linear(a.T[::-1], b, out=out),
    "linear of rows in another order": lambda a, b, out: fk.linear(
        a.reshape(4, 6, SIZE).transpose(1, 0, 2), b, out=out.reshape(6, 4, SIZE)
    ),
    "linear with a bias and gates from columns": lambda a, b, out: fk.linear(a, b, b[:, 3], gate=b[:, 4], out=out),
    "linear with a gate a row and a residual of columns": lambda a, b, out: fk.linear(
        a, b, gate=b[:, :1], residual=a.T, out=out
    ),
    "linear of what linear made": lambda a, b, out: fk.linear(fk.linear(a, b), b, out=out),
    "matmul": lambda a, b, out: fk.matmul(a, b, out=out),
    "matmul of few rows, far apart": lambda a, b, out: fk.matmul(a[::6], b, out=out[:4]),
    "matmul without depth": lambda a, b, out: fk.matmul(a[:, :0], b[:0], out=out),
    "matmul of batches": lambda a, b, out: fk.matmul(a.reshape(2, 12, SIZE), b, out=out.reshape(2, 12, SIZE)),
    "layer_norm of columns": lambda a, b, out: fk.layer_norm(a.T, b[0], b[:, 1], b[:, 2], b[:, 3], out=out),
    "softmax of columns": lambda a, b, out: fk.softmax(a.T, out=out),
    "gelu of columns": lambda a, b, out: fk.gelu(a.T, out=out),
    "attention with values in columns": lambda a, b, out: fk.attention(a[None], b[None], b.T[None], out=out[None]),
    "rotary": lambda a, b, out: fk.rotary(a[None], out=out[None]),
}


def inputs(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((2, SIZE, SIZE), dtype=np.float32)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_replay_reads_the_arrays_again(name: str) -> None:
    function = FUNCTIONS[name]
    (a, b), out = inputs(1), np.full((SIZE, SIZE), np.nan, np.float32)
    recording = fk.record(lambda: function(a, b, out))
    for seed in (1, 2, 3):
        (a[...], b[...]), expected = inputs(seed), np.full_like(out, np.nan)
        function(a, b, expected)
        out.fill(np.nan)
        recording.replay()
        np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_replay_takes_other_arrays(name: str) -> None:
    function = FUNCTIONS[name]
    (a, b), out = inputs(1), np.empty((SIZE, SIZE), np.float32)
    recording = fk.record(lambda: function(a, b, out), a, b, out)
    (kept_a, kept_b), kept_out = (a.copy(), b.copy()), out.copy()
    for seed in (1, 2, 3):
        (x, y), found, expected = inputs(seed), *np.full((2, SIZE, SIZE), np.nan, np.float32)
        function(x, y, expected)
        recording.replay(x, y, found)
        np.testing.assert_array_equal(found, expected)
    for array, kept in ((a, kept_a), (b, kept_b), (out, kept_out)):
        np.testing.assert_array_equal(array, kept)


def test_an_array_that_replays_are_given_is_not_kept() -> None:
    def record(a: np.ndarray, b: np.ndarray) -> fk.Recording:
        return fk.record(lambda: fk.gelu(fk.matmul(a.T[::-1], b)), a)

    first, second, b = inputs(1)[0].copy(), inputs(2)[0].copy(), inputs(3)[0]
    recording = record(first, b)
    recording.replay(second)
    watched = [weakref.ref(first), weakref.ref(second)]
    del first, second
    gc.collect()
    assert [each() for each in watched] == [None, None]


def test_a_replay_wants_arrays_as_the_recorded_ones() -> None:
    a, b = inputs(1)
    recording = fk.record(lambda: fk.matmul(a, b), a)
    with pytest.raises(ValueError, match=r"arrays are none, must be float32 \(24, 24\)"):
        recording.replay()
    with pytest.raises(ValueError, match=r"arrays are float64 \(24, 24\), must be float32 \(24, 24\)"):
        recording.replay(a.astype(np.float64))
    with pytest.raises(ValueError, match="must be C-contiguous"):
        recording.replay(a.T)
    with pytest.raises(ValueError, match="must be C-contiguous"):
        fk.record(lambda: fk.matmul(a.T, b), a.T)
    with pytest.raises(ValueError, match="must be none"):
        fk.record(lambda: fk.matmul(a, b)).replay(a)


def test_a_failed_replay_may_be_followed_by_another() -> None:
    table = inputs(4)[0]
    tokens, out = np.arange(4, dtype=np.int32), np.empty((4, SIZE), np.float32)
    recording = fk.record(lambda: fk.embedding(tokens, table, out=out), tokens)
    with pytest.raises(ValueError, match=f"tokens has {SIZE}"):
        recording.replay(np.full(4, SIZE, np.int32))
    recording.replay(tokens + np.int32(3))
    np.testing.assert_array_equal(out, table[tokens + 3])


def test_embedding_checks_its_tokens_again() -> None:
    table = inputs(4)[0]
    tokens, out = np.arange(4, dtype=np.int32), np.empty((4, SIZE), np.float32)
    recording = fk.record(lambda: fk.embedding(tokens, table, out=out))
    tokens[...] = (5, 3, 2, SIZE - 1)
    recording.replay()
    np.testing.assert_array_equal(out, table[tokens])
    tokens[0] = SIZE
    with pytest.raises(ValueError, match=f"tokens has {SIZE}"):
        recording.replay()


def test_a_draw_checks_its_weights_again() -> None:
    weights, out = np.abs(inputs(5)[0]), np.empty(SIZE, np.int32)
    recording = fk.record(lambda: fk.sample_categorical(weights, 7, out=out))
    weights[...] = np.eye(SIZE)
    recording.replay()
    np.testing.assert_array_equal(out, np.arange(SIZE))
    weights[3] = 0
    with pytest.raises(ValueError, match="no positive weight in row 3"):
        recording.replay()


def test_only_the_recording_thread_is_recorded() -> None:
    a, b = inputs(6)
    with ThreadPoolExecutor(1) as pool:
        assert len(fk.record(lambda: pool.submit(fk.matmul, a, b).result())) == 0
    assert len(fk.record(lambda: fk.softmax(a))) == 1
    assert len(fk.record(lambda: None)) == 0  # what was recorded before stays there


def test_records_do_not_nest_and_a_failure_ends_one() -> None:
    with pytest.raises(RuntimeError, match="within a record"):
        fk.record(lambda: fk.record(lambda: None))
    with pytest.raises(ZeroDivisionError):
        fk.record(lambda: 1 / 0)
    assert len(fk.record(lambda: None)) == 0


def test_attention_reads_its_lengths_again() -> None:
    """Texts whose leading dimensions cannot be viewed as one are attended to one by one, each by its length of then."""
    q, k, v = (np.random.default_rng(i).standard_normal((2, 3, 4, 6, 16), dtype=np.float32)[:, :2] for i in range(3))
    lengths, out = np.full((2, 2), 6), np.empty(q.shape, np.float32)
    recording = fk.record(lambda: fk.attention(q, k, v, lengths=lengths, out=out))
    lengths[...] = 2
    recording.replay()
    np.testing.assert_array_equal(out, fk.attention(q, k, v, lengths=lengths))
