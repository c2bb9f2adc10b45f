"""bfloat16 and int8 against what they round to, exactly where integers are exact, on each unit that this CPU has."""

from __future__ import annotations

import dataclasses
import pickle
import platform
import sys
from pathlib import Path

import fastsedd_kernels as fk
import kernel_arrays
import numpy as np
import pytest
from fastsedd_kernels.attention import reference as attention_reference
from fastsedd_kernels.gemm import reference
from fastsedd_kernels.gemm.dot_products import COLUMNS, SHAPES
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_arrays import at_page, normal, poisoned
from numba import int32, uint32
from processes import run_python

EPS = float(np.finfo(np.float32).eps)
BFLOAT16_EPS = 2.0**-8  # the relative error of a rounding, twice


def assert_bfloat16_product(result: np.ndarray, x: np.ndarray, weight: np.ndarray) -> None:
    """Of the rounded operands, within the bound of any order of float32 sums."""
    rounded = reference.bfloat16(x), reference.bfloat16(weight)
    error = np.linalg.norm(result - reference.linear(*rounded))
    assert error <= reference.error_bound(*rounded, EPS)


def assert_int8_product(result: np.ndarray, x: np.ndarray, weight: np.ndarray) -> None:
    """The sums are exact, so only the last conversions to float32 may differ."""
    np.testing.assert_allclose(result, reference.int8_linear(x, weight), rtol=1e-5, atol=1e-30)


PRODUCTS = {"bfloat16": (uint32, assert_bfloat16_product), "int8": (int32, assert_int8_product)}


@pytest.mark.parametrize("dtype", PRODUCTS)
def test_every_height_and_width(dtype: str) -> None:
    element, assert_product = PRODUCTS[dtype]
    rows, columns = SHAPES[element].rows, COLUMNS[np.dtype(element.name)]
    heights = [*range(1, 2 * rows + 2), 32 * rows + 1]
    for m, n in [*((m, 7) for m in heights), *((3, n) for n in range(1, 2 * columns + 2)), (rows + 1, columns + 1)]:
        x, weight = normal(m, m, 37), normal(n, n, 37)
        assert_product(fk.linear(x, fk.pack(weight, dtype), out=poisoned(m, n)), x, weight)


@pytest.mark.parametrize("depth", [1, 2, 3, 15, 16, 17, 31, 32, 33, 63, 64, 65, 2047, 2049, 5000])
@pytest.mark.parametrize("dtype", PRODUCTS)
def test_every_depth(dtype: str, depth: int) -> None:
    x, weight = normal(depth, 37, depth), normal(1, 50, depth)
    PRODUCTS[dtype][1](fk.linear(x, fk.pack(weight, dtype), out=poisoned(37, 50)), x, weight)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 90), st.integers(1, 200), st.integers(1, 90), st.sampled_from(sorted(PRODUCTS)), st.booleans())
def test_any_shape_and_layout(m: int, k: int, n: int, dtype: str, transposed: bool) -> None:
    x, weight = normal(m, m, k), normal(n, n, k)
    laid = (np.asfortranarray(x), np.asfortranarray(weight)) if transposed else (x, weight)
    PRODUCTS[dtype][1](fk.linear(laid[0], fk.pack(laid[1], dtype), out=poisoned(m, n)), x, weight)


@pytest.mark.parametrize("activation", [None, "gelu", "gelu_tanh", "silu"])
@pytest.mark.parametrize("dtype", PRODUCTS)
def test_every_epilogue(dtype: str, activation: str | None) -> None:
    batch, length, inputs, outputs = 3, 35, 40, 53
    x, weight = normal(0, batch, length, inputs), normal(1, outputs, inputs)
    parts = {
        "bias": normal(2, outputs),
        "gate": normal(3, batch, 1, outputs),
        "residual": normal(4, batch, length, outputs),
    }
    packed = fk.pack(weight, dtype)
    bare = fk.linear(x, packed).astype(np.float64)
    for chosen in [{}, *({name: part} for name, part in parts.items()), parts]:
        expected = reference.activate(bare + chosen.get("bias", 0.0), activation)
        expected = expected * chosen.get("gate", 1.0) + chosen.get("residual", 0.0)
        result = fk.linear(x, packed, activation=activation, out=poisoned(batch, length, outputs), **chosen)
        np.testing.assert_allclose(result, expected, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("dtype", PRODUCTS)
def test_bits_depend_on_neither_threads_nor_neighbours(one_thread, dtype: str) -> None:
    x, weight = normal(0, 300, 400), fk.pack(normal(1, 200, 400), dtype)
    every = fk.linear(x, weight, activation="gelu")
    with one_thread():
        np.testing.assert_array_equal(fk.linear(x, weight, activation="gelu"), every)
    for first, last in ((0, 1), (3, 20), (250, 300)):
        np.testing.assert_array_equal(fk.linear(x[first:last], weight, activation="gelu"), every[first:last])


@pytest.mark.parametrize("dtype", PRODUCTS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_show(dtype: str, value: float) -> None:
    x, weight = normal(0, 40, 30), np.abs(normal(1, 40, 30)) + 1
    x[7, 3] = value
    result = fk.linear(x, fk.pack(weight, dtype))
    expected = value if dtype == "bfloat16" else np.nan
    np.testing.assert_array_equal(result[7], np.full(40, expected, np.float32))
    assert np.isfinite(np.delete(result, 7, axis=0)).all()


def test_int8_of_rows_and_weights_that_are_zero() -> None:
    x, weight = normal(0, 5, 20), normal(1, 6, 20)
    x[2], weight[3] = 0, 0
    result = fk.linear(x, fk.pack(weight, "int8"))
    assert not result[2].any() and not result[:, 3].any() and result[0, 0] != 0


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_int8_weights_must_be_finite(value: float) -> None:
    weight = normal(0, 4, 4)
    weight[1, 2] = value
    with pytest.raises(ValueError, match="weight holds a NaN or an infinity"):
        fk.pack(weight, "int8")


def test_rounding_is_to_nearest_even() -> None:
    ones = np.array([[1.0], [1 + 2.0**-9], [1 + 2.0**-8], [1 + 3 * 2.0**-8], [3e38], [2.0**-126]], np.float32)
    result = fk.linear(ones, fk.pack(np.ones((1, 1), np.float32), "bfloat16"))
    np.testing.assert_array_equal(result, reference.bfloat16(ones))
    assert result[1, 0] == 1 and result[2, 0] == 1 and result[3, 0] == 1 + 2.0**-6


@pytest.mark.skipif(sys.platform == "win32", reason="no mprotect")
def test_panels_may_begin_at_the_start_of_memory() -> None:
    """Panels out of another process's memory, or a mapped file, are multiplied without a look before them."""
    x, weight = normal(0, 20, 64), fk.pack(normal(1, 40, 64), "bfloat16")
    expected = fk.linear(x, weight)
    made = dataclasses.replace(weight, panels=at_page(weight.panels))
    buffers: list[pickle.PickleBuffer] = []
    stored = pickle.dumps(weight, protocol=5, buffer_callback=buffers.append)
    loaded = pickle.loads(stored, buffers=[at_page(np.frombuffer(each, np.uint8)) for each in buffers])
    for each in (made, loaded):
        np.testing.assert_array_equal(fk.linear(x, each), expected)


def test_memory_of_packed_weights() -> None:
    """Half and a quarter of float32's, for a layer whose sides need no padding."""
    weight = normal(0, 384, 768)
    full, half, quarter = (fk.pack(weight, dtype) for dtype in ("float32", "bfloat16", "int8"))
    assert half.nbytes == full.nbytes / 2 and quarter.nbytes < 0.26 * full.nbytes
    assert (full.dtype, half.dtype, quarter.dtype) == ("float32", "bfloat16", "int8")


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shape", [(1, 2, 1, 1), (2, 3, 47, 20), (1, 6, 256, 64), (1, 1, 600, 33), (2, 1, 1, 130)])
def test_attention_in_bfloat16(shape: tuple[int, ...], causal: bool) -> None:
    """Values between -1 and 1 leave an error of a few roundings."""
    q, k, v = (np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32) for seed in range(3))
    result = fk.attention(q, k, v, causal=causal, dtype="bfloat16", out=poisoned(*shape))
    expected = attention_reference.attention(q, k, v, causal=causal)
    np.testing.assert_allclose(result, expected, atol=4 * BFLOAT16_EPS)


def test_attention_refuses_other_dtypes() -> None:
    q = normal(0, 1, 2, 3)
    with pytest.raises(ValueError, match="dtype is 'int8', allowed: 'float32', 'bfloat16'"):
        fk.attention(q, q, q, dtype="int8")


OTHER_UNIT = """
import numpy as np, fastsedd_kernels as fk
from fastsedd_kernels.gemm import reference
assert fk.cpu_info().int8 == {unit!r}, fk.cpu_info()
rng = np.random.default_rng(0)
for m, k, n in ((1, 1, 1), (37, 50, 70), (100, 300, 33)):
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in ((m, k), (n, k)))
    np.testing.assert_allclose(fk.linear(x, fk.pack(w, "int8")), reference.int8_linear(x, w), rtol=1e-5, atol=1e-30)
largest = np.where(np.arange(64) // 2 % 2, 1.0, -1.0).astype(np.float32)  # neighbours that add up
x, w = np.stack([largest, -largest, np.ones(64, np.float32)]), np.stack([largest, np.ones(64, np.float32)])
np.testing.assert_allclose(fk.linear(x, fk.pack(w, "int8")), reference.int8_linear(x, w), rtol=1e-5)
np.testing.assert_allclose(fk.linear(x, fk.pack(w, "int8")), x @ w.T, rtol=0.01)
"""
BFLOAT16 = """
for m, k, n in ((1, 1, 1), (37, 50, 70), (100, 300, 33)):
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in ((m, k), (n, k)))
    rounded = reference.bfloat16(x), reference.bfloat16(w)
    error = np.linalg.norm(fk.linear(x, fk.pack(w, "bfloat16")) - reference.linear(*rounded))
    assert error <= reference.error_bound(*rounded, {eps!r})
from dataclasses import replace
from kernel_arrays import at_page
w = fk.pack(w, "bfloat16")
np.testing.assert_array_equal(fk.linear(x, replace(w, panels=at_page(w.panels))), fk.linear(x, w))
q = rng.uniform(-1, 1, (2, 40, 24)).astype(np.float32)
np.testing.assert_allclose(fk.attention(q, q, q, dtype="bfloat16"), fk.attention(q, q, q), atol=0.02)
"""


OTHERS = [
    ("x86-64", "", "pmaddwd", BFLOAT16),
    ("nehalem", "", "pmaddubsw", ""),
    ("haswell", "", "pmaddubsw", BFLOAT16),
    ("skylake-avx512", "", "pmaddubsw", BFLOAT16),
    ("cooperlake", "+avx512bf16,+avx512vnni", "avx512", BFLOAT16),
]


@pytest.mark.slow  # random calls on some of them are not
@pytest.mark.parametrize(("cpu", "features", "unit", "more"), OTHERS)
def test_other_units(cpu: str, features: str, unit: str, more: str) -> None:
    """The same numbers on the units of lesser CPUs; those that this one lacks cannot be run."""
    if platform.machine() != "x86_64" or fk.cpu_info().isa != "avx512":
        pytest.skip("this CPU is none of these or better")
    if "vnni" in features and fk.cpu_info().bfloat16 not in ("amx", "avx512"):
        pytest.skip("this CPU has no dot products of bfloat16")
    code = OTHER_UNIT.format(unit=unit) + more.format(eps=EPS)
    helpers = str(Path(kernel_arrays.__file__).parent)
    run_python(code, NUMBA_CPU_NAME=cpu, NUMBA_CPU_FEATURES=features, PYTHONPATH=helpers)


def test_int8_of_values_too_small_to_scale() -> None:
    """127 over their magnitude is beyond float32: such rows of x count as 0, those of a weight are kept."""
    weight = np.full((3, 64), 3e-37, np.float32)
    np.testing.assert_allclose(fk.unpack(fk.pack(weight, "int8")), weight, rtol=0.02)
    packed = fk.pack(np.ones((3, 64), np.float32), "int8")
    for value in (1e-37, 1e-40, 1e-45):
        assert np.abs(fk.linear(np.full((2, 64), value, np.float32), packed)).max() <= 65 * value
    np.testing.assert_allclose(fk.linear(np.full((2, 64), 2e-36, np.float32), packed), 128e-36, rtol=0.02)


def test_int8_has_as_many_inputs_as_its_sums_allow() -> None:
    many = 132_104
    ones = np.ones((1, many), np.float32)
    np.testing.assert_allclose(fk.linear(ones, fk.pack(ones, "int8")), many, rtol=0.02)
    with pytest.raises(ValueError, match="weight has 132105 inputs, allowed for int8: at most 132104"):
        fk.pack(np.ones((1, many + 1), np.float32), "int8")
