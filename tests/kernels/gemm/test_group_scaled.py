"""Weights in groups of 32: what they are rounded to, and their products with x rounded alike, on every instruction set.

Sums of a group are exact, so errors are those of a few float32 roundings.
"""

from __future__ import annotations

import platform
from pathlib import Path

import fastsedd_kernels as fk
import numpy as np
import pytest
from fastsedd_kernels.gemm import reference as epilogues
from fastsedd_kernels.gemm.group_scaled.microkernel import BUNDLE, MR, NR
from fastsedd_kernels.gemm.packed_weight import from_groups
from group_scaled_weights import FORMS, assert_product, stored_weights
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_arrays import LAYOUTS, normal, poisoned
from processes import run_together

every_form = pytest.mark.parametrize(("dtype", "minimum"), FORMS)


@every_form
def test_every_height_and_width(dtype: str, minimum: bool) -> None:
    heights = [*range(1, 2 * MR + 2), 15, 16, 17, 32 * MR + 1]
    widths = [*range(1, 2 * NR + 2), *(BUNDLE * NR + change for change in (-1, 0, 1)), 9 * NR + 5]
    shapes = [*((m, 7) for m in heights), *((3, n) for n in widths), *((1, n) for n in widths), (MR + 1, NR + 1)]
    for m, n in shapes:
        x, packed = normal(m, m, 70), fk.pack(normal(n, n, 70), dtype, minimum=minimum)
        assert_product(fk.linear(x, packed, out=poisoned(m, n)), x, packed)


@pytest.mark.parametrize("depth", [1, 31, 32, 33, 127, 128, 129, 160, 511, 512, 513, 640, 1025, 4100])
@every_form
def test_every_depth(dtype: str, minimum: bool, depth: int) -> None:
    """Tails of groups, of blocks that share a scale of x, and of slabs; at the last depth more rows than a block."""
    packed = fk.pack(normal(1, 50, depth), dtype, minimum=minimum)
    for rows in (1, 19, 150 if depth == 4100 else 2):
        x = normal(depth, rows, depth)
        assert_product(fk.linear(x, packed, out=poisoned(rows, 50)), x, packed)


@pytest.mark.parametrize("layout", LAYOUTS)
@every_form
def test_every_layout(dtype: str, minimum: bool, layout: str) -> None:
    x, weight = normal(0, 9, 100), normal(1, 37, 100)
    given = LAYOUTS[layout]
    result = fk.linear(given(x), fk.pack(given(weight), dtype, minimum=minimum))
    packed = fk.pack(weight, dtype, minimum=minimum)
    np.testing.assert_array_equal(result, fk.linear(x, packed))
    assert_product(result, x, packed)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 90), st.integers(1, 300), st.integers(1, 150), st.sampled_from(FORMS))
def test_any_shape(m: int, k: int, n: int, form: tuple[str, bool]) -> None:
    x, packed = normal(m, m, k), fk.pack(normal(n, n, k), form[0], minimum=form[1])
    assert_product(fk.linear(x, packed, out=poisoned(m, n)), x, packed)


def test_every_form_of_scales() -> None:
    for weight in stored_weights():
        packed = from_groups([weight])
        np.testing.assert_array_equal(fk.unpack(packed), weight.values())
        for rows in (1, 2, 20):
            x = normal(rows, rows, weight.inputs)
            assert_product(fk.linear(x, packed, out=poisoned(rows, len(weight.codes))), x, packed)


@pytest.mark.parametrize("activation", [None, "gelu", "gelu_tanh", "silu"])
@every_form
def test_every_epilogue(dtype: str, minimum: bool, activation: str | None) -> None:
    batch, length, inputs, outputs = 3, 35, 40, 53
    x, weight = normal(0, batch, length, inputs), normal(1, outputs, inputs)
    parts = {
        "bias": normal(2, outputs),
        "gate": normal(3, batch, 1, outputs),
        "residual": normal(4, batch, length, outputs),
    }
    packed = fk.pack(weight, dtype, minimum=minimum)
    bare = fk.linear(x, packed).astype(np.float64)
    for chosen in [{}, *({name: part} for name, part in parts.items()), parts]:
        expected = epilogues.activate(bare + chosen.get("bias", 0.0), activation)
        expected = expected * chosen.get("gate", 1.0) + chosen.get("residual", 0.0)
        result = fk.linear(x, packed, activation=activation, out=poisoned(batch, length, outputs), **chosen)
        np.testing.assert_allclose(result, expected, atol=1e-4, rtol=1e-5)
    out = parts["residual"].copy()
    fk.linear(x, packed, residual=out, out=out)
    np.testing.assert_allclose(out, bare + parts["residual"], atol=1e-4, rtol=1e-5)


@every_form
def test_pairs(dtype: str, minimum: bool) -> None:
    """Gate and up in one product: the same, to the last bit, as by two."""
    for rows, outputs in ((1, 1), (1, 7 * NR), (3, NR // 2), (20, NR + 3)):
        x, weights = normal(0, rows, 100), [normal(seed, outputs, 100) / 10 for seed in (1, 2)]
        gate, up = (fk.pack(weight, dtype, minimum=minimum) for weight in weights)
        both = fk.pack(weights, dtype, minimum=minimum)
        result = fk.linear(x, both, activation="silu", out=poisoned(rows, outputs))
        np.testing.assert_array_equal(result, fk.linear(x, gate, activation="silu") * fk.linear(x, up))
        np.testing.assert_array_equal(fk.unpack(both), [fk.unpack(gate), fk.unpack(up)])


@every_form
def test_bits_depend_on_neither_threads_nor_neighbours(one_thread, dtype: str, minimum: bool) -> None:
    x, weight = normal(0, 300, 400), fk.pack(normal(1, 300, 400), dtype, minimum=minimum)
    every = fk.linear(x, weight, activation="gelu")
    with one_thread():
        np.testing.assert_array_equal(fk.linear(x, weight, activation="gelu"), every)
    for first, last in ((0, 1), (1, 3), (3, 20), (250, 300)):
        np.testing.assert_array_equal(fk.linear(x[first:last], weight, activation="gelu"), every[first:last])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@every_form
def test_values_that_are_not_finite_show(dtype: str, minimum: bool, value: float) -> None:
    x, packed = normal(0, 40, 300), fk.pack(normal(1, 40, 300), dtype, minimum=minimum)
    x[7, 3] = value
    result = fk.linear(x, packed)
    assert np.isnan(result[7]).all() and np.isfinite(np.delete(result, 7, axis=0)).all()


@every_form
def test_zeros_and_extremes(dtype: str, minimum: bool) -> None:
    x, weight = normal(0, 5, 200), normal(1, 6, 200)
    x[2], x[3], x[4], weight[3] = 0, 1e-39 * x[3], 1e30 * x[4], 0
    packed = fk.pack(weight, dtype, minimum=minimum)
    result = fk.linear(x, packed)
    assert not result[2:4].any() and not result[:, 3].any() and result[0, 0] != 0
    assert_product(result, x, packed)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e9])
@every_form
def test_weights_must_be_finite(dtype: str, minimum: bool, value: float) -> None:
    weight = normal(0, 4, 40)
    weight[1, 2] = value
    with pytest.raises(ValueError, match=f"weight holds a NaN, an infinity or .* which {dtype} cannot"):
        fk.pack(weight, dtype, minimum=minimum)


STEPS = {("int4", False): 8, ("int4", True): 15, ("int8g", False): 127, ("int8g", True): 254}


@every_form
def test_weights_are_rounded_to_half_a_step(dtype: str, minimum: bool) -> None:
    weight = normal(0, 30, 320) * np.exp(normal(1, 30, 1)) + normal(2, 30, 1)
    values = fk.unpack(fk.pack(weight, dtype, minimum=minimum))
    groups, stored = weight.reshape(30, -1, 32), values.reshape(30, -1, 32)
    spread = np.ptp(groups, axis=2) if minimum else np.abs(groups).max(axis=2)
    step = spread / STEPS[dtype, minimum]
    error = np.abs(stored - groups).max(axis=2)
    # The float16 of a step is off by 2^-11 of itself, as often as there are steps; that of a minimum alike.
    rounding = (spread + np.abs(groups).max(axis=2)) * 2.0**-11
    most = 1.0 if (dtype, minimum) == ("int4", False) else 0.5  # 8 steps below 0, 7 above
    assert (error <= most * step + rounding).all()


def test_int4_by_hand() -> None:
    weight = np.zeros((1, 32), np.float32)
    weight[0, :5] = [4.0, -1.0, 0.74, 0.76, -3.5]  # steps of -0.5: the largest is -8 of them
    expected = [4.0, -1.0, 0.5, 1.0, -3.5]
    np.testing.assert_array_equal(fk.unpack(fk.pack(weight, "int4"))[0, :5], expected)
    with_minimum = fk.unpack(fk.pack(weight, "int4", minimum=True))[0, :5]  # steps of 0.5 from -3.5
    np.testing.assert_array_equal(with_minimum, [4.0, -1.0, 0.5, 1.0, -3.5])


ERRORS = {("int4", False): 0.1, ("int4", True): 0.09, ("int8g", False): 0.01, ("int8g", True): 0.01}


@every_form
def test_error_beside_float32(dtype: str, minimum: bool) -> None:
    """Stated in the docstring of `pack`: of the product's norm, for normal weights and activations."""
    x, weight = normal(0, 64, 1024), normal(1, 256, 1024)
    exact = epilogues.linear(x, weight)
    error = np.linalg.norm(fk.linear(x, fk.pack(weight, dtype, minimum=minimum)) - exact) / np.linalg.norm(exact)
    assert error < ERRORS[dtype, minimum]


def test_memory() -> None:
    """Bits per weight, for a layer whose sides need no padding."""
    weight = normal(0, 12 * NR, 768)
    bits = {form: 8 * fk.pack(weight, form[0], minimum=form[1]).nbytes / weight.size for form in FORMS}
    for form, expected in zip(FORMS, (4.5, 5.0, 8.5, 9.0), strict=True):
        assert bits[form] == pytest.approx(expected, rel=0.001)


@pytest.mark.parametrize(("dtype", "strassen"), [("float32", 0), ("float64", 0), ("bfloat16", 0), ("int8", 0)])
def test_unpack_gives_the_weight_that_is_multiplied(dtype: str, strassen: int) -> None:
    weight = normal(0, 70, 50, dtype=np.float64 if dtype == "float64" else np.float32)
    values = fk.unpack(fk.pack(weight, dtype))
    if dtype == "int8":
        largest = (2 if fk.cpu_info().int8 == "pmaddubsw" else 1) * np.abs(weight).max()  # of sums of neighbours
        np.testing.assert_allclose(values, weight, atol=0.5 * largest / 127)
        np.testing.assert_allclose(fk.linear(np.eye(50, dtype=np.float32), fk.pack(weight, dtype)), values.T, rtol=1e-6)
    else:
        rounded = epilogues.bfloat16(weight) if dtype == "bfloat16" else weight
        np.testing.assert_array_equal(values, rounded)
        assert values.dtype == (np.float64 if dtype == "float64" else np.float32)


def test_mistakes_are_told() -> None:
    with pytest.raises(ValueError, match="minimum is True for int8, allowed: for 'int8g' or 'int4' only"):
        fk.pack(normal(0, 4, 4), "int8", minimum=True)
    with pytest.raises(ValueError, match="strassen is 1 for int4"):
        fk.pack(normal(0, 4, 4), "int4", strassen=1)
    with pytest.raises(ValueError, match="packed with strassen=1"):
        fk.unpack(fk.pack(normal(0, 4, 4), strassen=1))


def test_a_recording_takes_other_rows() -> None:
    x, packed = normal(0, 3, 40), fk.pack(normal(1, 50, 40), "int4")
    out, other = poisoned(3, 50), normal(2, 3, 40)
    step = fk.record(lambda: fk.linear(x, packed, activation="silu", out=out), x)
    step.replay(other)
    np.testing.assert_array_equal(out, fk.linear(other, packed, activation="silu"))


OTHER_CPU = """
import numpy as np, fastsedd_kernels as fk
import sys
sys.path.insert(0, {folder!r})
from fastsedd_kernels.gemm.packed_weight import from_groups
from group_scaled_weights import FORMS, assert_product, stored_weights
from kernel_arrays import normal, poisoned
assert fk.cpu_info().isa == {isa!r}, fk.cpu_info()
for dtype, minimum in FORMS:
    for m, k, n in ((1, 1, 1), (1, 700, 300), (2, 100, 33), (4, 513, 40), (40, 300, 70)):
        x, packed = normal(m, m, k), fk.pack(normal(n, n, k), dtype, minimum=minimum)
        assert_product(fk.linear(x, packed, out=poisoned(m, n)), x, packed)
        np.testing.assert_array_equal(fk.linear(x[:1], packed)[0], fk.linear(x, packed)[0])
for weight in stored_weights():
    x, packed = normal(0, 5, weight.inputs), from_groups([weight])
    np.testing.assert_array_equal(fk.unpack(packed), weight.values())
    assert_product(fk.linear(x, packed), x, packed)
"""

# Registers of 128 and 256 bits, of 512 bits without dot products, and without instructions for bytes.
OTHERS = {"generic": "portable", "haswell": "avx2", "skylake-avx512": "avx512", "knl": "avx512"}


@pytest.mark.slow  # random calls on them are not
def test_other_cpus() -> None:
    """The same numbers by the instructions of lesser CPUs; those that this one lacks cannot be run."""
    if platform.machine() != "x86_64" or fk.cpu_info().isa != "avx512":
        pytest.skip("this CPU is none of these or better")
    folder = str(Path(__file__).parents[2])
    run_together(
        [
            (OTHER_CPU.format(isa=isa, folder=folder), {"NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": ""})
            for cpu, isa in OTHERS.items()
        ]
    )
