"""The GEMM against its float64 reference: every tile height and width, every epilogue, every refusal."""

from __future__ import annotations

import fastsedd_kernels as fk
import numpy as np
import pytest
from fastsedd_kernels.gemm import reference
from fastsedd_kernels.gemm.blocking import ENOUGH_ROWS, MAX_COLUMNS, plan
from fastsedd_kernels.gemm.dot_products import COLUMNS
from fastsedd_kernels.gemm.gemv import FEW_ROWS
from fastsedd_kernels.gemm.macrokernel import CROWDED
from fastsedd_kernels.gemm.microkernel import ROWS
from fastsedd_kernels.gemm.tuned_blocks import DEFAULT, Limits, use
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_arrays import LAYOUTS, normal, poisoned

MOST_DEPTH, MOST_TILES = DEFAULT.depth, DEFAULT.tiles
NR = COLUMNS[np.dtype(np.float32)]
EPS = {np.float32: float(np.finfo(np.float32).eps), np.float64: float(np.finfo(np.float64).eps)}


def assert_product(result: np.ndarray, x: np.ndarray, weight: np.ndarray) -> None:
    error = np.linalg.norm(result - reference.linear(x, weight))
    assert error <= reference.error_bound(x, weight, EPS[result.dtype.type])


@pytest.mark.parametrize("rows", [*range(1, 2 * ROWS + 2), MOST_TILES * ROWS + 1])
def test_every_height(rows: int) -> None:
    x, weight = normal(rows, rows, 33), normal(1, NR + 3, 33)
    out = poisoned(rows, NR + 3)
    assert fk.linear(x, fk.pack(weight), out=out) is out
    assert_product(out, x, weight)


@pytest.mark.parametrize("columns", range(1, 2 * NR + 2))
def test_every_width(columns: int) -> None:
    x, weight = normal(columns, 5, 17), normal(2, columns, 17)
    assert_product(fk.linear(x, fk.pack(weight), out=poisoned(5, columns)), x, weight)


@pytest.mark.parametrize("depth", [1, 2, MOST_DEPTH - 1, MOST_DEPTH, MOST_DEPTH + 1, 3 * MOST_DEPTH + 7])
def test_every_depth(depth: int) -> None:
    x, weight = normal(depth, ROWS + 1, depth), normal(3, NR, depth)
    assert_product(fk.linear(x, fk.pack(weight), out=poisoned(ROWS + 1, NR)), x, weight)


@pytest.mark.parametrize("surplus", [0, 3])
def test_rows_that_share_cache_sets(surplus: int) -> None:
    """Rows that are copied apart are the same rows, also as a view of wider ones."""
    x, weight = normal(0, 3 * ROWS + 1, CROWDED // 4), normal(1, NR + 1, CROWDED // 4 - surplus)
    x = x[:, : CROWDED // 4 - surplus]
    assert_product(fk.linear(x, weight, out=poisoned(3 * ROWS + 1, NR + 1)), x, weight)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 70), st.integers(1, 70), st.integers(1, 70), st.sampled_from([np.float32, np.float64]),
    st.sampled_from(sorted(LAYOUTS)), st.sampled_from(sorted(LAYOUTS)),
)  # fmt: skip
def test_matmul_is_the_product(rows: int, depth: int, columns: int, dtype: type, of_a: str, of_b: str) -> None:
    a, b = normal(rows, rows, depth, dtype=dtype), normal(columns, depth, columns, dtype=dtype)
    result = fk.matmul(LAYOUTS[of_a](a), LAYOUTS[of_b](b), out=poisoned(rows, columns, dtype=dtype))
    assert_product(result, a, b.T)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("rows", "depth", "columns"),
    [(30, 2 * MOST_DEPTH + 5, 40), (17, 20, MAX_COLUMNS + 33), (300, MOST_DEPTH + 1, 2 * NR + 1), (1, 5000, 3000)],
)
def test_matmul_in_slabs(rows: int, depth: int, columns: int, dtype: type) -> None:
    a, b = normal(0, rows, depth, dtype=dtype), normal(1, depth, columns, dtype=dtype)
    assert_product(fk.matmul(a, b, out=poisoned(rows, columns, dtype=dtype)), a, b.T)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layout", sorted(LAYOUTS))
@pytest.mark.parametrize("few", range(1, FEW_ROWS + 2))
@pytest.mark.parametrize(("depth", "length"), [(1, 1), (3, 700), (1030, 37), (2050, 130), (10, 9000), (16400, 9)])
def test_few_rows_and_few_columns(few: int, layout: str, dtype: type, depth: int, length: int) -> None:
    rows, matrix = normal(few, few, depth, dtype=dtype), normal(1, depth, length, dtype=dtype)
    laid = LAYOUTS[layout](matrix)
    assert_product(fk.matmul(rows, laid, out=poisoned(few, length, dtype=dtype)), rows, matrix.T)
    assert_product(fk.matmul(laid.T, rows.T, out=poisoned(length, few, dtype=dtype)), matrix.T, rows)


@pytest.mark.parametrize("scale", [1e-18, 1.0, 1e18])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_error_bound_holds_for_huge_tiny_and_cancelling_data(scale: float, dtype: type) -> None:
    for rows in (3, 50):
        a, b = normal(rows, rows, 999, dtype=dtype), normal(2, 999, 70, dtype=dtype)
        a, b = (a * dtype(scale)).astype(dtype), b
        assert_product(fk.matmul(a, b), a, b.T)
        cancelling = np.concatenate([a, -a + np.roll(a, 1, axis=0) * dtype(1e-6)], axis=1)
        twice = np.concatenate([b, b])
        assert_product(fk.matmul(cancelling, twice), cancelling, twice.T)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rows", [2, 40])
@pytest.mark.parametrize("columns", [3, 90])
def test_matmul_propagates_as_numpy_does(rows: int, columns: int, dtype: type, value: float) -> None:
    a, b = normal(0, rows, 50, dtype=dtype), normal(1, 50, columns, dtype=dtype)
    a[1, 7] = value
    b[9, 2] = value
    b[11, 1] = 0
    with np.errstate(invalid="ignore"):
        expected = a @ b
    result = fk.matmul(a, b)
    np.testing.assert_array_equal(np.isnan(result), np.isnan(expected))
    np.testing.assert_array_equal(np.isposinf(result), np.isposinf(expected))
    np.testing.assert_array_equal(np.isneginf(result), np.isneginf(expected))


def test_matmul_takes_any_strides_and_batches() -> None:
    a, b = normal(0, 3, 1, 9, 20)[..., ::2], normal(1, 4, 7, 10).swapaxes(-1, -2)
    result = fk.matmul(a, b)
    assert result.shape == (3, 4, 9, 7)
    np.testing.assert_allclose(result, a.astype(np.float64) @ b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(0, 4, 3), (4, 0, 3), (4, 3, 0)])
def test_matmul_of_nothing(shape: tuple[int, int, int]) -> None:
    rows, depth, columns = shape
    result = fk.matmul(np.ones((rows, depth), np.float32), np.ones((depth, columns), np.float32))
    np.testing.assert_array_equal(result, np.zeros((rows, columns), np.float32))


@pytest.mark.parametrize("activation", [None, "gelu", "gelu_tanh", "silu"])
@pytest.mark.parametrize("parts", ["", "bias", "gate", "residual", "bias gate residual"])
def test_every_epilogue(activation: str | None, parts: str) -> None:
    batch, length, inputs, outputs = 3, ROWS + 2, 19, NR + 5
    x, weight = normal(0, batch, length, inputs), normal(1, outputs, inputs)
    values = {
        "bias": normal(2, outputs),
        "gate": normal(3, batch, 1, outputs),
        "residual": normal(4, batch, length, outputs),
    }
    chosen = {name: values[name] for name in parts.split()}
    result = fk.linear(x, fk.pack(weight), activation=activation, out=poisoned(batch, length, outputs), **chosen)
    np.testing.assert_allclose(result, reference.linear(x, weight, activation=activation, **chosen), atol=2e-5)


@pytest.mark.parametrize("gate_shape", [(37,), (1, 37), (2, 1, 37), (1, 6, 37), (2, 6, 37), (6, 1), (2, 1, 1)])
def test_gate_broadcasts(gate_shape: tuple[int, ...]) -> None:
    x, weight, gate = normal(0, 2, 6, 8), normal(1, 37, 8), normal(2, *gate_shape)
    np.testing.assert_allclose(fk.linear(x, weight, gate=gate), reference.linear(x, weight, gate=gate), atol=1e-5)


def test_residual_may_be_the_output() -> None:
    x, weight, residual = normal(0, 50, 2 * MOST_DEPTH), normal(1, 40, 2 * MOST_DEPTH), normal(2, 50, 40)
    expected = fk.linear(x, weight, residual=residual)
    fk.linear(x, weight, residual=residual, out=residual)
    np.testing.assert_array_equal(residual, expected)


def test_bits_depend_on_neither_threads_nor_neighbours(one_thread) -> None:
    x, weight = normal(0, 300, 400), fk.pack(normal(1, 200, 400))
    both = fk.linear(x, weight, activation="gelu")
    with one_thread():
        np.testing.assert_array_equal(fk.linear(x, weight, activation="gelu"), both)
    for first, last in ((0, 1), (3, 20), (250, 300)):
        np.testing.assert_array_equal(fk.linear(x[first:last], weight, activation="gelu"), both[first:last])


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 5), st.integers(1, 300), st.sampled_from([np.float32, np.float64]))
def test_bits_do_not_depend_on_how_a_product_is_cut_up(tiles: int, depth: int, dtype: type) -> None:
    a, b = normal(0, 150, 600, dtype=dtype), normal(1, 600, 130, dtype=dtype)
    expected = fk.matmul(a, b)
    with use(Limits(tiles, depth)):
        np.testing.assert_array_equal(fk.matmul(a, b, out=poisoned(150, 130, dtype=dtype)), expected)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_propagate(value: float) -> None:
    x, weight = normal(0, 20, 30), np.abs(normal(1, 40, 30)) + 1
    x[7, 3] = value
    result = fk.linear(x, weight)
    np.testing.assert_array_equal(result[7], np.full(40, value, np.float32))
    assert np.isfinite(np.delete(result, 7, axis=0)).all()


def test_packed_weight_is_read_only_and_padded_with_zeros() -> None:
    packed = fk.pack(normal(0, NR + 1, 6))
    assert packed.shape == (NR + 1, 6) and packed.nbytes == packed.panels.nbytes
    assert not packed.panels.flags.writeable
    assert not packed.panels[1, :, 1:].any()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"x": np.ones((2, 3))}, "x has dtype float64"),
        ({"x": np.ones((2, 4), np.float32)}, "x has shape (2, 4), must be [..., 3]"),
        ({"bias": np.ones(4, np.float32)}, "bias has shape (4,), must be (5,)"),
        ({"gate": np.ones((3, 5), np.float32)}, "gate has shape (3, 5)"),
        ({"residual": np.ones((1, 5), np.float32)}, "residual has shape (1, 5)"),
        ({"activation": "relu"}, "activation is 'relu'"),
        ({"out": np.empty((2, 4), np.float32)}, "out is float32 (2, 4)"),
        ({"out": np.empty((5, 2), np.float32).T}, "out must have adjacent elements in a row"),
        ({"weight": fk.pack(np.ones((5, 3)), "float64")}, "weight is packed as float64"),
    ],
)
def test_linear_refuses(arguments: dict, words: str) -> None:
    good = {"x": np.ones((2, 3), np.float32), "weight": np.ones((5, 3), np.float32)}
    with pytest.raises(ValueError) as caught:
        fk.linear(**{**good, **arguments})
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_padded_rows_pass_from_product_to_product(dtype: str) -> None:
    x, up, down = normal(0, 2, 7, 20), fk.pack(normal(1, 1024, 20), dtype), fk.pack(normal(2, 20, 1024), dtype)
    hidden = fk.padded_empty((2, 7, 1024))
    assert hidden.strides[-2] % 4096 == 64 and fk.padded_empty((7, 1000)).flags.c_contiguous
    hidden.fill(np.nan)
    fk.linear(x, up, activation="gelu", out=hidden)
    np.testing.assert_array_equal(hidden, fk.linear(x, up, activation="gelu"))
    np.testing.assert_array_equal(fk.linear(hidden, down), fk.linear(hidden.copy(), down))
    kept = hidden.copy()
    fk.linear(x, up, residual=hidden, out=hidden)
    np.testing.assert_array_equal(hidden, fk.linear(x, up, residual=kept))
    with pytest.raises(ValueError, match="equally far apart"):
        fk.linear(x, up, out=np.empty((2, 9, 1024), np.float32)[:, :7])
    with pytest.raises(ValueError, match=r"shape is \(\), allowed"):
        fk.padded_empty(())


def test_overlapping_output_is_refused() -> None:
    x = np.ones((4, 4), np.float32)
    with pytest.raises(ValueError, match="out overlaps"):
        fk.linear(x, np.ones((4, 4), np.float32), out=x)
    with pytest.raises(ValueError, match="out overlaps"):
        fk.matmul(x, x, out=x)


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        (np.ones((2, 3)), np.ones((3, 2), np.float32), "must be equal"),
        (np.ones((2, 3)), np.ones((2, 3)), "must be"),
        (np.ones(3), np.ones((3, 2)), "must be"),
        (np.ones((2, 2, 3)), np.ones((3, 3, 2)), "do not broadcast"),
        (np.ones((2, 3), int), np.ones((3, 2)), "a has dtype"),
    ],
)
def test_matmul_refuses(a: np.ndarray, b: np.ndarray, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        fk.matmul(a, b)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 64), st.integers(1, 10_000), st.integers(1, 10_000), st.integers(1, 2_000))
def test_plan_gives_every_thread_a_part(threads: int, rows: int, depth: int, panels: int) -> None:
    grid_rows, grid_panels, block, slab, group = plan(threads, rows, depth, panels, np.dtype(np.float32))
    assert 1 <= grid_rows <= rows and 1 <= grid_panels <= panels
    assert grid_rows * grid_panels <= threads or rows // grid_rows >= ENOUGH_ROWS
    assert block % ROWS == 0 and block >= ROWS and group >= 1
    assert slab == depth if rows <= ROWS else 1 <= slab <= min(depth, MOST_DEPTH)
    if threads <= rows and rows * depth * panels * NR > 1 << 20:
        assert grid_rows * grid_panels % threads == 0
