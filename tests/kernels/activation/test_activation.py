"""The bounds that the activations' docstrings state, over every exponent of float32, alone and behind products."""

from __future__ import annotations

from collections.abc import Callable

import fastsedd_kernels as fk
import numpy as np
import pytest
from fastsedd_kernels.gemm.reference import activate
from fastsedd_kernels.norm import reference

HALF_ULP = 2.0**-24
CALLS: dict[str, Callable[..., np.ndarray]] = {
    "gelu": fk.gelu,
    "gelu_tanh": lambda x: fk.gelu(x, "tanh"),
    "silu": fk.silu,
}
# From where on, towards minus infinity, the result is exactly 0.
ZERO_FROM = {"gelu": -7.5, "gelu_tanh": -6.25, "silu": -88.73}
STATED = np.array([-np.inf, np.inf, np.nan, -1e10, -3.4e38, -100.0, -0.0, 0.0], np.float32)


def every_exponent() -> np.ndarray:
    """Seven significands of each exponent, both signs, with subnormals and zeros; a fine grid of [-12, 12]."""
    significands = np.array([0, 1, 0x155555, 0x2AAAAA, 0x400000, 0x6DB6DB, 0x7FFFFF], np.uint32)
    positive = (np.arange(255, dtype=np.uint32)[:, None] << 23 | significands).reshape(-1).view(np.float32)
    return np.concatenate([positive, -positive, np.linspace(-12, 12, 40_001, dtype=np.float32)])


@pytest.mark.parametrize("name", CALLS)
def test_error_over_every_exponent(name: str) -> None:
    x = every_exponent()
    exact = activate(x.astype(np.float64), name)
    result = CALLS[name](x)
    assert np.isfinite(result).all()
    error, size = np.abs(result - exact), np.abs(exact)
    normal = size > 2.0**-126
    if name == "silu":
        assert (error <= np.where(x < -86, 1e-6, 2e-7) * size)[normal & (x > -88.72)].all()
        assert (error[x <= -88.72] <= 3e-37).all()
    else:
        assert (error <= 1.2e-7 + HALF_ULP * size).all()
        assert (error[x < -4] <= 1e-8).all()
        assert (error <= 1e-6 * size)[normal & (x > -1)].all()
    assert (error[~normal & (x > -1)] <= 2.0**-149).all()
    assert not result[x <= ZERO_FROM[name]].any()


@pytest.mark.parametrize("name", CALLS)
def test_limits(name: str) -> None:
    result = CALLS[name](STATED)
    np.testing.assert_array_equal(result, np.array([0, np.inf, np.nan, 0, 0, 0, 0, 0], np.float32))
    np.testing.assert_array_equal(np.signbit(result[-2:]), [True, False])


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    ("dtype", "strassen"), [("float32", 0), ("float32", 1), ("float32", 2), ("bfloat16", 0), ("int8", 0)]
)
def test_a_product_is_followed_by_the_same_activation(name: str, dtype: str, strassen: int) -> None:
    """The bias is the argument: the product is 0."""
    x = np.concatenate([every_exponent(), STATED])
    weight = fk.pack(np.zeros((len(x), 1), np.float32), dtype, strassen=strassen)
    result = fk.linear(np.zeros((2, 1), np.float32), weight, bias=x, activation=name)
    smallest = 2.0**-126 if dtype == "bfloat16" else 0.0  # its products have no subnormals, where one instruction sums
    np.testing.assert_allclose(result, np.stack([CALLS[name](x)] * 2), rtol=0, atol=smallest)


def test_softmax_over_every_exponent() -> None:
    """Rows of one element beside zero, and of all of one exponent."""
    x = every_exponent()
    for rows in (np.stack([x, np.zeros_like(x)], axis=1), np.stack([x, -x, x / 2, x / 3, x / 5], axis=1)):
        exact = reference.softmax(rows)
        distance = rows.max(-1, keepdims=True).astype(np.float64) - rows
        bound = (distance + rows.shape[-1] / 8 + 20) * HALF_ULP * exact
        assert (np.abs(fk.softmax(rows) - exact) <= np.where(exact < 2.0**-124, 2.0**-124, bound)).all()


def test_softmax_of_infinities() -> None:
    nothing, infinity, nan = -np.inf, np.inf, np.nan
    rows = np.array([[0, nothing, 0], [nothing] * 3, [0, infinity, 1], [0, nan, 1], [3.4e38, -3.4e38, 0]], np.float32)
    expected = np.array([[0.5, 0, 0.5], [nan] * 3, [nan] * 3, [nan] * 3, [1, 0, 0]], np.float32)
    np.testing.assert_array_equal(fk.softmax(rows)[[0, 1, 3, 4]], expected[[0, 1, 3, 4]])
    assert np.isnan(fk.softmax(rows)[2]).any()


@pytest.mark.slow
def test_two_to_the_31_elements() -> None:
    """8 GiB in place: a count of what is left does not fit 32 bits."""
    x = np.zeros(2**31 + 4096, np.float32)
    x[:32] = x[-32:] = 1.0
    fk.gelu(x, out=x)
    np.testing.assert_allclose([x[0], x[31], x[32], x[-1]], [0.8413447, 0.8413447, 0.0, 0.8413447], atol=1e-6)
