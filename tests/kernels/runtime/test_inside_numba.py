"""The kernels inside njit functions: what they give outside, alone, in prange and on many threads without the GIL."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fastsedd_kernels as fk
import numba
import numpy as np
import pytest
from numba.core.errors import TypingError

RNG = np.random.default_rng(0)


def normal(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return RNG.standard_normal(shape).astype(dtype)


X, WEIGHT, BIAS = normal(37, 50), normal(70, 50), normal(70)
GATE, RESIDUAL, HEADS = normal(1, 70), normal(37, 70), normal(3, 2, 3, 21, 24)

TABLE = fk.rotary_table(30, 24, 1e6)

# Each is called as it stands and compiled; the results must be the same.
FUNCTIONS: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "linear": (lambda x, w: fk.linear(x, w), (X, fk.pack(WEIGHT))),
    "linear of a view": (lambda x, w: fk.linear(x.T, w), (X.T.copy(), fk.pack(WEIGHT))),
    "linear with an epilogue": (
        lambda x, w, b, g, r: fk.linear(x, w, b, activation="gelu_tanh", gate=g, residual=r),
        (X, fk.pack(WEIGHT), BIAS, GATE, RESIDUAL),
    ),
    "linear of bfloat16": (lambda x, w, b: fk.linear(x, w, b, "silu"), (X, fk.pack(WEIGHT, "bfloat16"), BIAS)),
    "linear of int8": (lambda x, w, b: fk.linear(x, w, b), (X, fk.pack(WEIGHT, "int8"), BIAS)),
    "linear of a pair": (
        lambda x, w, b, g, r: fk.linear(x, w, b, activation="silu", gate=g, residual=r),
        (X, fk.pack([WEIGHT, WEIGHT[::-1]]), normal(140), GATE, RESIDUAL),
    ),
    "linear of a pair of int8": (lambda x, w: fk.linear(x, w, None, "gelu"), (X, fk.pack([WEIGHT, -WEIGHT], "int8"))),
    "linear of int4": (lambda x, w, b: fk.linear(x, w, b, "silu"), (X, fk.pack(WEIGHT, "int4"), BIAS)),
    "linear of a view by int8g": (lambda x, w: fk.linear(x.T, w), (X.T.copy(), fk.pack(WEIGHT, "int8g", minimum=True))),
    "linear of a pair of int4": (
        lambda x, w, r: fk.linear(x, w, activation="silu", residual=r),
        (X, fk.pack([WEIGHT, WEIGHT[::-1]], "int4"), RESIDUAL),
    ),
    "linear of several slabs": (lambda x, w: fk.linear(x, w), (normal(9, 2100), fk.pack(normal(40, 2100)))),
    "attention": (lambda x: fk.attention(x[0], x[1], x[2]), (HEADS,)),
    "causal attention": (lambda x: fk.attention(x[0], x[1], x[2], 0.3, True), (HEADS,)),
    "attention in bfloat16": (lambda x: fk.attention(x[0], x[1], x[2], dtype="bfloat16"), (HEADS,)),
    "layer_norm": (lambda x, w, b: fk.layer_norm(x, w, b, eps=1e-6), (X, X[0].copy(), X[1].copy())),
    "layer_norm with adaLN": (lambda x, s: fk.layer_norm(x, shift=s, scale=s), (X, X[:1].copy())),
    "layer_norm of a sum": (lambda x, r: fk.layer_norm(x, residual=r), (X, X[::-1].copy())),
    "rms_norm": (lambda x, w: fk.rms_norm(x, w, 1e-5), (X, X[0].copy())),
    "rms_norm of heads": (lambda x, w: fk.rms_norm(x[0], w, offset=1.0), (HEADS, X[0, :24].copy())),
    "rms_norm of a sum": (lambda x, r: fk.rms_norm(x, residual=r), (X, X[::-1].copy())),
    "softmax": (lambda x: fk.softmax(x), (X,)),
    "softmax of columns": (lambda x: fk.softmax(x.T), (X,)),
    "gelu": (lambda x: fk.gelu(x), (X,)),
    "gelu in its tanh form": (lambda x: fk.gelu(x, approximate="tanh"), (HEADS[0],)),
    "silu": (lambda x: fk.silu(x), (X,)),
    "rotary": (lambda x: fk.rotary(x[0], 5e5), (HEADS,)),
    "rotary with all that it takes": (
        lambda x, t, p, w: fk.rotary(x[0], table=t, positions=p, interleaved=True, norm=w, offset=1.0),
        (HEADS, TABLE, np.arange(21) + 2, X[0, :24].copy()),
    ),
    "rotary of heads that lie last": (
        lambda x, t, p: fk.rotary(x[0].transpose(0, 2, 1, 3), table=t, positions=p),
        (HEADS, TABLE, np.arange(6).reshape(2, 3)),
    ),
    "embedding": (lambda i, t, p: fk.embedding(i, t, p), (np.array([3, 0, 36]), X, X)),
    "sample_categorical": (lambda p: fk.sample_categorical(p, 7, 3), (fk.softmax(X),)),
    "official draws": (lambda p: fk.sample_categorical(p, 7, method="official"), (fk.softmax(X),)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_inside_is_as_outside(name: str) -> None:
    function, arguments = FUNCTIONS[name]
    expected = function(*(each.copy() if isinstance(each, np.ndarray) else each for each in arguments))
    np.testing.assert_array_equal(numba.njit(function)(*arguments), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_matmul(dtype: Any) -> None:
    product = numba.njit(lambda a, b: fk.matmul(a, b))
    for m, k, n in ((1, 1, 1), (33, 1030, 47), (60, 7, 100), (5, 20, 4100), (3, 0, 2)):
        a, b = normal(m, k, dtype=dtype), normal(k, n, dtype=dtype)
        bound = 2 * max(k, 1) * np.finfo(dtype).eps * (np.abs(a) @ np.abs(b)).max(initial=1)
        for second in (b, np.asfortranarray(b)):
            found = product(a, second)
            assert found.dtype == dtype and np.abs(found - a.astype(np.float64) @ b).max() <= bound


def test_out_is_written_and_returned() -> None:
    @numba.njit
    def run(x: Any, w: Any, out: Any) -> Any:
        fk.gelu(x, out=x)
        return fk.linear(x, w, residual=out, out=out)

    x, w, out = X.copy(), fk.pack(WEIGHT), RESIDUAL.copy()
    found = run(x, w, out)
    np.testing.assert_array_equal(out, fk.linear(fk.gelu(X), w, residual=RESIDUAL))
    assert np.shares_memory(found, out)


@pytest.mark.parametrize("norm", [fk.layer_norm, fk.rms_norm])
def test_sums_with_a_residual_are_written(norm: Any) -> None:
    @numba.njit
    def run(x: Any, r: Any, sums: Any) -> Any:
        return norm(x, residual=r, out=x, residual_out=sums)

    x, sums = X.copy(), X[::-1].copy()
    found = run(x, sums, sums)
    np.testing.assert_array_equal(sums, X + X[::-1])
    np.testing.assert_array_equal(found, norm(sums))
    assert np.shares_memory(found, x)


@numba.njit(parallel=True)
def in_parallel(x: Any, w: Any, out: Any) -> None:
    for b in numba.prange(len(x)):
        out[b] = fk.softmax(fk.linear(fk.gelu(x[b]), w))


@numba.njit(nogil=True)
def without_the_gil(x: Any, w: Any, out: Any) -> None:
    for b in range(len(x)):
        out[b] = fk.softmax(fk.linear(fk.gelu(x[b]), w))


def test_threads_are_the_callers() -> None:
    if fk.threading_layer() == "pool":
        pytest.skip("Numba has no threading layer here that may be called from several threads")
    x, w = normal(8, 130, 50), fk.pack(WEIGHT)
    expected = np.stack([fk.softmax(fk.linear(fk.gelu(each), w)) for each in x])
    outs = [np.full_like(expected, np.nan) for _ in range(8)]
    in_parallel(x, w, outs[0])
    np.testing.assert_array_equal(outs[0], expected)
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit((in_parallel, without_the_gil)[i % 2], x, w, out) for i, out in enumerate(outs)]
        outside = pool.submit(lambda: [fk.linear(x, w) for _ in range(20)])
        for call in (*calls, outside):
            call.result(60)
    for out in outs:
        np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_arrays_are_let_go(dtype: str) -> None:
    import sys

    run = numba.njit(lambda x, w: fk.linear(x, w))
    x, w = X.copy(), fk.pack(WEIGHT, dtype)
    run(x, w)
    held = [x, w.panels, *w.quantisation]
    before = [sys.getrefcount(each) for each in held]
    for _ in range(10):
        run(x, w)
    assert [sys.getrefcount(each) for each in held] == before


WRONG: dict[str, tuple[Callable[..., Any], tuple[Any, ...], str]] = {
    "a dtype": (lambda x, w: fk.linear(x, w), (X.astype(np.float64), fk.pack(WEIGHT)), "x is array.float64"),
    "a weight that is not packed": (lambda x, w: fk.linear(x, w), (X, WEIGHT), "weight is array"),
    "an activation": (
        lambda x, w: fk.linear(x, w, None, "relu"),
        (X, fk.pack(WEIGHT)),
        "activation is 'relu', allowed",
    ),
    "two dtypes": (lambda a, b: fk.matmul(a, b), (X, X.T.astype(np.float64)), "they must be equal"),
    "half a modulation": (lambda x: fk.layer_norm(x, shift=x), (X,), "go together"),
    "a place for sums of nothing": (lambda x, s: fk.rms_norm(x, residual_out=s), (X, X.copy()), "no residual"),
    "a residual of another shape": (lambda x: fk.rms_norm(x, residual=x[:1]), (X,), "x's shape"),
    "positions without a table": (lambda x, p: fk.rotary(x[0], positions=p), (HEADS, np.arange(21)), "need a table"),
    "a position": (
        lambda x, t, p: fk.rotary(x[0], table=t, positions=p),
        (HEADS, TABLE, np.arange(21) + 10),
        "0 to the table's",
    ),
    "a table that is too short": (
        lambda x, t: fk.rotary(x, table=t),
        (np.ones((1, 1, 31, 24), np.float32), TABLE),
        "0 to the",
    ),
    "rows of columns": (lambda x, t: fk.rotary(x[0].transpose(0, 1, 3, 2), table=t), (HEADS, TABLE), "adjacent"),
    "a bias of one of a pair": (
        lambda x, w, b: fk.linear(x, w, b),
        (X, fk.pack([WEIGHT, WEIGHT]), BIAS),
        "of a pair of weights",
    ),
    "an out in columns": (lambda x, o: fk.softmax(x, out=o), (X, X.T.copy().T), "out is .*must be C-contiguous"),
    "inputs": (lambda x, w: fk.linear(x, w), (X[:, :9].copy(), fk.pack(WEIGHT)), "inputs"),
    "an out of another shape": (lambda x, o: fk.gelu(x, out=o), (X, X[1:].copy()), "another shape"),
    "a token": (lambda i, t: fk.embedding(i, t), (np.array([37]), X), "0 to V - 1"),
    "weights of zero": (lambda p: fk.sample_categorical(p, 1), (np.zeros((2, 3), np.float32),), "positive weight"),
}


@pytest.mark.parametrize("name", WRONG)
def test_mistakes_are_told(name: str) -> None:
    function, arguments, message = WRONG[name]
    with pytest.raises((TypingError, ValueError), match=message):
        numba.njit(function)(*arguments)


def test_a_cached_function_is_compiled_anew_and_says_so(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    run = numba.njit(cache=True)(FUNCTIONS["silu"][0])
    with pytest.warns(numba.core.errors.NumbaWarning, match="dynamic globals"):
        np.testing.assert_array_equal(run(X), fk.silu(X))


def test_elements_that_lie_between_others_are_refused() -> None:
    """A field of records, whose strides are no multiples of an element."""
    records = np.zeros((3, 4), dtype=[("a", "<f4"), ("b", "<u2")])
    weight, matrix = fk.pack(np.eye(2, 4, dtype=np.float32)), np.eye(4, 2, dtype=np.float32)
    for call, other in ((lambda x, w: fk.linear(x, w), weight), (lambda x, w: fk.matmul(x, w), matrix)):
        with pytest.raises(ValueError, match="multiples of an element's size apart"):
            numba.njit(call)(records["a"], other)
