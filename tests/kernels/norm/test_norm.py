"""Activations, norms, softmax and embedding against float64."""

from __future__ import annotations

import math

import fastsedd_kernels as fk
import numba
import numpy as np
import pytest
from fastsedd_kernels.activation.vectors import exp
from fastsedd_kernels.norm import reference
from fastsedd_kernels.runtime.scalar import pointer
from fastsedd_kernels.simd.vector import LANES, load_vector, store_vector
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_arrays import normal


@numba.njit
def exp_of(x, out):
    for i in range(0, x.size, LANES):
        store_vector(pointer(out, i), exp(load_vector(pointer(x, i))))


def exp_array(x: np.ndarray) -> np.ndarray:
    out = np.full_like(x, np.nan)
    exp_of(x, out)
    return out


def test_exp_is_within_two_ulp() -> None:
    x = np.linspace(-86.6, 88.72, 1 << 18, dtype=np.float32)
    exact = np.exp(x.astype(np.float64))
    ulp = np.spacing(exact.astype(np.float32)).astype(np.float64)
    assert (np.abs(exp_array(x) - exact) / ulp).max() < 2


def test_exp_at_the_ends() -> None:
    x = np.zeros(2 * LANES, np.float32)
    x[:4] = -np.inf, -100.0, 100.0, np.inf
    np.testing.assert_array_equal(exp_array(x)[:5], np.array([0, 0, np.inf, np.inf, 1], np.float32))
    x[:] = np.nan
    assert np.isnan(exp_array(x)).all()


def test_activation_in_place_and_of_any_shape() -> None:
    x = normal(0, 3, 5, 7)
    expected = fk.silu(x)
    assert fk.silu(x, out=x) is x
    np.testing.assert_array_equal(x, expected)
    assert fk.gelu(np.empty((0, 3), np.float32)).shape == (0, 3)
    with pytest.raises(ValueError, match="approximate"):
        fk.gelu(x, "sigmoid")


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.integers(1, 9), st.integers(1, 80), st.booleans(), st.booleans(), st.booleans())
def test_layer_norm(batch: int, length: int, width: int, weighted: bool, biased: bool, modulated: bool) -> None:
    x = 3 * normal(0, batch, length, width) + 5
    parts: dict[str, np.ndarray | None] = {
        "weight": normal(1, width) if weighted else None,
        "bias": normal(2, width) if biased else None,
        "shift": normal(3, batch, 1, width) if modulated else None,
        "scale": normal(4, batch, 1, width) if modulated else None,
    }
    out = np.full(x.shape, np.nan, np.float32)
    fk.layer_norm(x, **parts, out=out)
    np.testing.assert_allclose(out, reference.layer_norm(x, **parts), atol=5e-5)
    fk.layer_norm(x, **parts, out=x)
    np.testing.assert_array_equal(x, out)


def test_layer_norm_of_a_large_mean() -> None:
    x = 1000 + normal(0, 4, 300)
    np.testing.assert_allclose(fk.layer_norm(x), reference.layer_norm(x), atol=2e-3)


def test_layer_norm_refuses() -> None:
    x = np.ones((2, 4), np.float32)
    for arguments, words in (
        ({"weight": np.ones(3, np.float32)}, "weight has shape"),
        ({"shift": x}, "go together"),
        ({"shift": np.ones((3, 4), np.float32), "scale": x}, "shift has shape"),
    ):
        with pytest.raises(ValueError, match=words):
            fk.layer_norm(x, **arguments)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(1, 80), st.floats(0.1, 50))
def test_softmax(rows: int, width: int, spread: float) -> None:
    x = (spread * normal(0, rows, width)).astype(np.float32)
    result = fk.softmax(x, out=np.full(x.shape, np.nan, np.float32))
    np.testing.assert_allclose(result, reference.softmax(x), atol=1e-6)
    np.testing.assert_allclose(result.sum(-1), 1, rtol=1e-6)


def test_softmax_of_minus_infinity() -> None:
    np.testing.assert_allclose(fk.softmax([[0.0, -math.inf, 0.0]]), [[0.5, 0.0, 0.5]])


def test_embedding() -> None:
    table, positions = normal(0, 10, 6), normal(1, 8, 6)
    tokens = np.array([[0, 9, 3], [4, 4, 1]], np.int32)
    np.testing.assert_array_equal(fk.embedding(tokens, table), table[tokens])
    np.testing.assert_array_equal(fk.embedding(tokens, table, positions), table[tokens] + positions[:3])


@pytest.mark.parametrize("tokens", [[[0, 10]], [[-1, 0]], [[0.5, 1.0]]])
def test_embedding_refuses(tokens: list) -> None:
    with pytest.raises(ValueError, match="tokens"):
        fk.embedding(np.array(tokens), np.ones((10, 4), np.float32))
