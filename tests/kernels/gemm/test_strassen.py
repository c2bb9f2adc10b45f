"""Strassen's product against the float64 reference: every edge of its blocks, its error bound, its refusals."""

from __future__ import annotations

import dataclasses
import itertools

import fastsedd_kernels as fk
import numpy as np
import pytest
from fastsedd_kernels.gemm import reference
from fastsedd_kernels.gemm.dot_products import COLUMNS
from fastsedd_kernels.gemm.microkernel import ROWS
from fastsedd_kernels.gemm.strassen import crossover
from fastsedd_kernels.gemm.strassen import product as strassen
from fastsedd_kernels.gemm.strassen.crossover import levels_that_pay
from fastsedd_kernels.gemm.strassen.kernel import PRODUCTS, STORE
from fastsedd_kernels.gemm.tuned_blocks import Limits, use
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_arrays import LAYOUTS, normal, poisoned

NR = COLUMNS[np.dtype(np.float32)]
DTYPES = [np.float32, np.float64]


def assert_product(result: np.ndarray, a: np.ndarray, b: np.ndarray, levels: int) -> None:
    error = np.abs(result - reference.linear(a, b.T)).max()
    assert error <= reference.strassen_bound(a, b, levels, float(np.finfo(result.dtype).eps))


@pytest.mark.parametrize("levels", [1, 2])
def test_the_products_are_a_product(levels: int) -> None:
    """The tables themselves: of 2**levels x 2**levels matrices of exact numbers, by plain Python."""
    side = 2**levels
    random = np.random.default_rng(levels)
    a, b = (random.integers(-9, 10, (side, side)) for _ in range(2))
    c = np.full((side, side), 10**6)  # what is stored over
    for product, parts in enumerate(strassen._parts_of_c(levels, False)):
        value = _sum(a, product, levels, strassen._SUMS_OF_A) * _sum(b, product, levels, _SUMS_OF_B)
        for row, column, sign in parts:
            c[row, column] = value if sign == STORE else c[row, column] + sign * value
    np.testing.assert_array_equal(c, a @ b)


_SUMS_OF_B = ((0, 3, 1), (0, 0, 0), (1, 3, -1), (2, 0, -1), (3, 0, 0), (0, 1, 1), (2, 3, 1))


def _sum(x: np.ndarray, product: int, levels: int, table: tuple[tuple[int, int, int], ...]) -> int:
    """The product's sum of blocks of x, level by level, the outermost first."""
    for level in reversed(range(levels)):
        half = len(x) // 2
        blocks = x[:half, :half], x[:half, half:], x[half:, :half], x[half:, half:]
        first, second, sign = table[product // PRODUCTS**level % PRODUCTS]
        x = blocks[first] + sign * blocks[second]
    return int(x[0, 0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("levels", [1, 2])
@pytest.mark.parametrize("rows", [*range(1, 10), 4 * ROWS - 1, 4 * ROWS, 4 * ROWS + 1, 8 * ROWS + 3, 300])
def test_every_height(rows: int, levels: int, dtype: type) -> None:
    a, b = normal(rows, rows, 33, dtype=dtype), normal(1, 33, NR + 3, dtype=dtype)
    out = poisoned(rows, NR + 3, dtype=dtype)
    assert fk.strassen_matmul(a, b, levels, out) is out
    assert_product(out, a, b, levels)


@pytest.mark.parametrize("levels", [1, 2])
@pytest.mark.parametrize("columns", [*range(1, 8), *(side * NR + d for side in (1, 2, 4, 8) for d in (-1, 0, 1, 17))])
def test_every_width(columns: int, levels: int) -> None:
    a, b = normal(columns, 21, 17), normal(2, 17, columns)
    assert_product(fk.strassen_matmul(a, b, levels, poisoned(21, columns)), a, b, levels)


@pytest.mark.parametrize("levels", [1, 2])
@pytest.mark.parametrize("depth", [1, 2, 3, 5, 63, 64, 65, 127, 260, 400])
def test_every_depth_in_slabs(depth: int, levels: int) -> None:
    a, b = normal(depth, 19, depth), normal(3, depth, 70)
    with use(Limits(depth=32)):
        assert strassen.blocks_of(levels, 400, 70, a.dtype).slabs > 1
        assert_product(fk.strassen_matmul(a, b, levels, poisoned(19, 70)), a, b, levels)


@pytest.mark.parametrize("dtype", DTYPES)
def test_slabs_of_columns(dtype: type) -> None:
    a, b = normal(0, 9, 40, dtype=dtype), normal(1, 40, strassen.MAX_COLUMNS + 77, dtype=dtype)
    assert_product(fk.strassen_matmul(a, b, 1, poisoned(9, b.shape[1], dtype=dtype)), a, b, 1)


@pytest.mark.parametrize("of_b", sorted(LAYOUTS))
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_layout_where_blocks_end_in_panels_of_padding(dtype: type, of_b: str) -> None:
    """The last block may begin, or have whole panels, beyond the last column of B."""
    nr = COLUMNS[np.dtype(dtype)]
    for columns in (side * nr + d for side in (1, 2, 4, 8, 16, 32) for d in (-1, 1, nr // 2 - 1, nr - 1)):
        a, b = normal(columns, 9, 40, dtype=dtype), normal(2, 40, columns, dtype=dtype)
        for levels in (1, 2):
            result = fk.strassen_matmul(a, LAYOUTS[of_b](b), levels, poisoned(9, columns, dtype=dtype))
            assert_product(result, a, b, levels)
            if dtype == np.float32:
                packed = fk.pack(LAYOUTS[of_b](b).T, strassen=levels)
                assert_product(fk.linear(a, packed, out=poisoned(9, columns)), a, b, levels)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 150), st.integers(1, 150), st.integers(1, 250), st.sampled_from(DTYPES), st.integers(0, 2),
    st.sampled_from(sorted(LAYOUTS)), st.sampled_from(sorted(LAYOUTS)), st.integers(1, 2),
)  # fmt: skip
def test_any_product(
    rows: int, depth: int, columns: int, dtype: type, levels: int, of_a: str, of_b: str, threads: int
) -> None:
    a, b = normal(rows, rows, depth, dtype=dtype), normal(columns, depth, columns, dtype=dtype)
    before = fk.get_num_threads()
    fk.set_num_threads(min(threads, before))
    try:
        result = fk.strassen_matmul(LAYOUTS[of_a](a), LAYOUTS[of_b](b), levels, poisoned(rows, columns, dtype=dtype))
    finally:
        fk.set_num_threads(before)
    assert_product(result, a, b, levels)


@pytest.mark.parametrize("scale", [1e-15, 1.0, 1e15])
@pytest.mark.parametrize("levels", [1, 2])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_bound_holds_for_huge_tiny_and_cancelling_data(dtype: type, levels: int, scale: float) -> None:
    a, b = normal(0, 50, 600, dtype=dtype) * dtype(scale), normal(1, 600, 70, dtype=dtype)
    assert_product(fk.strassen_matmul(a, b, levels), a, b, levels)
    cancelling = np.concatenate([a, -a + np.roll(a, 1, axis=0) * dtype(1e-6)], axis=1)
    twice = np.concatenate([b, b])
    assert_product(fk.strassen_matmul(cancelling, twice, levels), cancelling, twice, levels)


def test_each_level_costs_accuracy_and_keeps_the_bound() -> None:
    a, b = normal(0, 512, 512), normal(1, 512, 512)
    exact = reference.linear(a, b.T)
    errors = [np.abs(fk.strassen_matmul(a, b, levels) - exact).max() for levels in range(3)]
    assert errors[0] < errors[1] < errors[2]
    for levels in range(3):
        assert_product(fk.strassen_matmul(a, b, levels), a, b, levels)


@pytest.mark.parametrize("levels", [1, 2])
def test_threads_do_not_change_a_bit(levels: int) -> None:
    a, b = normal(0, 333, 222), normal(1, 222, 444)
    before = fk.get_num_threads()
    results = []
    for threads in range(1, before + 1):
        fk.set_num_threads(threads)
        results.append(fk.strassen_matmul(a, b, levels))
    fk.set_num_threads(before)
    assert all(np.array_equal(each, results[0]) for each in results)


@pytest.mark.parametrize("levels", [None, 0, 1, 2])
def test_batches_and_nothing(levels: int | None) -> None:
    a, b = normal(0, 3, 1, 20, 30), normal(1, 2, 30, 40)
    result = fk.strassen_matmul(a, b, levels)
    for i, j in itertools.product(range(3), range(2)):
        assert_product(result[i, j], a[i, 0], b[j], levels or 0)
    assert fk.strassen_matmul(a[:, :, :0], b, levels).shape == (3, 2, 0, 40)
    assert not fk.strassen_matmul(a[..., :0], b[:, :0], levels, poisoned(3, 2, 20, 40)).any()


@pytest.mark.parametrize("cpu", ["znver4", "any other"])
def test_the_level_chosen_grows_with_each_of_the_sizes(cpu: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crossover, "cpu_info", lambda: dataclasses.replace(fk.cpu_info(), name=cpu))
    for axis in range(4):  # 3: all of them
        sizes = [[n if axis in (i, 3) else 16_384 for i in range(3)] for n in range(0, 16_385, 512)]
        chosen = [levels_that_pay(*size) for size in sizes]
        assert chosen == sorted(chosen)
        assert (chosen[0], chosen[-1]) == (0, strassen.MAX_LEVELS)


def test_none_is_the_level_that_pays() -> None:
    a, b = normal(0, 64, 64), normal(1, 64, 64)
    assert levels_that_pay(64, 64, 64) == 0
    np.testing.assert_array_equal(fk.strassen_matmul(a, b), fk.matmul(a, b))


@pytest.mark.parametrize("levels", [1, 2])
@pytest.mark.parametrize("rows", [1, 16, 17, 100])
def test_a_packed_layer_with_everything(rows: int, levels: int) -> None:
    x, weight, bias = normal(0, 2, rows, 130), normal(1, 75, 130), normal(2, 75)
    gate, residual = normal(3, 2, 1, 75), normal(4, 2, rows, 75)
    packed = fk.pack(weight, strassen=levels)
    exact = reference.linear(x.reshape(-1, 130), weight).reshape(2, rows, 75)
    bound = reference.strassen_bound(x.reshape(-1, 130), weight.T, levels, float(np.finfo(np.float32).eps))
    assert np.abs(fk.linear(x, packed, out=poisoned(2, rows, 75)) - exact).max() <= bound
    complete = fk.linear(x, packed, bias, "silu", gate, residual, out=poisoned(2, rows, 75))
    hidden = exact + bias
    expected = residual + gate * hidden / (1 + np.exp(-hidden))
    tolerance = bound * np.abs(gate).max() * 1.2 + 1e-5  # the steepest that silu gets is 1.1
    assert np.abs(complete - expected).max() <= tolerance
    in_place = residual.copy()
    fk.linear(x, packed, bias, "silu", gate, in_place, out=in_place)
    np.testing.assert_array_equal(in_place, complete)


def test_memory_of_a_packed_layer() -> None:
    weight = normal(0, 16 * NR, 256)  # whole panels and cache lines at each level
    assert fk.pack(weight, strassen=1).nbytes == fk.pack(weight).nbytes * 7 // 4
    assert fk.pack(weight, strassen=2).nbytes == fk.pack(weight).nbytes * 49 // 16


def test_refusals() -> None:
    a, b = normal(0, 4, 4), normal(1, 4, 4)
    for levels in (3, -1, 0.5):
        with pytest.raises(ValueError, match=r"levels is .*, allowed: None, 0 to 2"):
            fk.strassen_matmul(a, b, levels)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="out overlaps"):
        fk.strassen_matmul(a, b, 1, out=a)
    with pytest.raises(ValueError, match="equal"):
        fk.strassen_matmul(a, b.astype(np.float64), 1)
    with pytest.raises(ValueError, match="strassen is 3"):
        fk.pack(a, strassen=3)
    with pytest.raises(ValueError, match="strassen is 1 for bfloat16"):
        fk.pack(a, "bfloat16", strassen=1)
