"""Gate and up projections in one product (SwiGLU, GeGLU), and norms' weights folded into packed ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fastsedd_kernels as fk
import numpy as np
import pytest
from fastsedd_kernels.gemm import reference
from fastsedd_kernels.gemm.dot_products import COLUMNS, SHAPES
from fastsedd_kernels.gemm.tuned_blocks import Limits, use
from kernel_arrays import LAYOUTS, normal, poisoned
from numba import float32, int32, uint32

EPS = float(np.finfo(np.float32).eps)
ELEMENTS = {"float32": float32, "bfloat16": uint32, "int8": int32}


def pair(outputs: int, inputs: int) -> list[np.ndarray]:
    return [normal(seed, outputs, inputs) / np.float32(np.sqrt(inputs)) for seed in (outputs, outputs + 1)]


def separately(x: np.ndarray, weights: list[np.ndarray], dtype: str, activation: str | None = "silu") -> np.ndarray:
    """The same by two products, and the same to the last bit: sums and scales are those of each column alone."""
    gate, up = (fk.pack(weight, dtype) for weight in weights)
    return fk.linear(x, gate, activation=activation) * fk.linear(x, up)


@pytest.mark.parametrize("dtype", ELEMENTS)
def test_every_height_and_width(dtype: str) -> None:
    element = ELEMENTS[dtype]
    rows, columns = SHAPES[element].rows, COLUMNS[np.dtype(element.name)]
    shapes = [(m, 7) for m in (*range(1, 2 * rows + 2), 32 * rows + 1)] + [(3, n) for n in range(1, 2 * columns + 2)]
    for m, n in shapes:
        x, weights = normal(m, m, 37), pair(n, 37)
        result = fk.linear(x, fk.pack(weights, dtype), activation="silu", out=poisoned(m, n))
        np.testing.assert_array_equal(result, separately(x, weights, dtype))


@pytest.mark.parametrize("depth", [1, 2, 16, 33, 1025, 2500])
@pytest.mark.parametrize("dtype", ELEMENTS)
def test_every_depth(dtype: str, depth: int) -> None:
    x, weights = normal(depth, 37, depth), pair(50, depth)
    expected = separately(x, weights, dtype, "gelu")
    for limits in (Limits(tiles=32, depth=1024), Limits(tiles=1, depth=16)):
        with use(limits):
            result = fk.linear(x, fk.pack(weights, dtype), activation="gelu", out=poisoned(37, 50))
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout(layout: str) -> None:
    x, weights = normal(0, 9, 40), pair(31, 40)
    given = LAYOUTS[layout]
    result = fk.linear(given(x), fk.pack((given(weights[0]), given(weights[1]))), activation="silu")
    np.testing.assert_array_equal(result, separately(x, weights, "float32"))


@pytest.mark.parametrize("activation", [None, "silu", "gelu", "gelu_tanh"])
@pytest.mark.parametrize("dtype", ELEMENTS)
def test_every_epilogue(dtype: str, activation: str | None) -> None:
    batch, length, inputs, outputs = 3, 35, 40, 53
    x, weights = normal(0, batch, length, inputs), pair(outputs, inputs)
    parts = {
        "bias": normal(2, 2 * outputs),
        "gate": normal(3, batch, 1, outputs),
        "residual": normal(4, batch, length, outputs),
    }
    packed = fk.pack(weights, dtype)
    first, second = (fk.linear(x, fk.pack(weight, dtype)).astype(np.float64) for weight in weights)
    for chosen in [{}, *({name: part} for name, part in parts.items()), parts]:
        biases = np.split(chosen.get("bias", np.zeros(2 * outputs)), 2)
        expected = reference.activate(first + biases[0], activation) * (second + biases[1])
        expected = expected * chosen.get("gate", 1.0) + chosen.get("residual", 0.0)
        result = fk.linear(x, packed, activation=activation, out=poisoned(batch, length, outputs), **chosen)
        np.testing.assert_allclose(result, expected, atol=1e-5, rtol=1e-5)
    out = parts["residual"].copy()
    fk.linear(x, packed, residual=out, out=out, activation=activation)
    np.testing.assert_array_equal(out, fk.linear(x, packed, residual=parts["residual"], activation=activation))


def test_float32_is_the_reference_within_its_bound() -> None:
    x, weights, bias = normal(0, 70, 300), pair(131, 300), normal(1, 262)
    packed = fk.pack(weights)
    for activation in (None, "silu", "gelu", "gelu_tanh"):
        exact = reference.gated_linear(x, weights, bias, activation)
        result = fk.linear(x, packed, bias, activation)
        sizes = [np.abs(x) @ np.abs(w.T) + np.abs(b) for w, b in zip(weights, np.split(bias, 2), strict=True)]
        error = (300 + 4) * EPS * 2 * 1.13 * sizes[0] * sizes[1] + 2e-7 * sizes[1]
        assert (np.abs(result - exact) <= error).all()
        assert np.abs(result - exact).max() < 1e-4


def test_bits_depend_on_neither_threads_nor_neighbours(one_thread: Callable[[], Any]) -> None:
    x, weight = normal(0, 300, 400), fk.pack(pair(200, 400))
    every = fk.linear(x, weight, activation="silu")
    with one_thread():
        np.testing.assert_array_equal(fk.linear(x, weight, activation="silu"), every)
    np.testing.assert_array_equal(fk.linear(x[250:263], weight, activation="silu"), every[250:263])


def test_values_that_are_not_finite_show() -> None:
    x, weights = normal(0, 40, 30), pair(70, 30)
    for value in (np.nan, np.inf):
        x[7, 3] = value
        result = fk.linear(x, fk.pack(weights), activation="gelu")
        with np.errstate(invalid="ignore"):
            expected = separately(x, weights, "float32", "gelu")
        np.testing.assert_array_equal(result, expected)
        assert not np.isfinite(result[7]).all() and np.isfinite(np.delete(result, 7, axis=0)).all()


def test_empty_rows() -> None:
    assert fk.linear(np.empty((0, 5), np.float32), fk.pack(pair(3, 5))).shape == (0, 3)


def test_a_replay_gives_the_same() -> None:
    x, packed, out = normal(0, 40, 30), fk.pack(pair(70, 30)), poisoned(40, 70)
    recording = fk.record(lambda: fk.linear(x, packed, activation="silu", out=out))
    expected = out.copy()
    out[...] = np.nan
    recording.replay()
    np.testing.assert_array_equal(out, expected)


def test_the_modules_of_transformers() -> None:
    torch, llama = pytest.importorskip("torch"), pytest.importorskip("transformers.models.llama.modeling_llama")
    gemma = pytest.importorskip("transformers.models.gemma.modeling_gemma")
    x = normal(0, 5, 32)
    kinds = (
        (llama.LlamaMLP(llama.LlamaConfig(hidden_size=32, intermediate_size=77, mlp_bias=True)), "silu"),
        (gemma.GemmaMLP(gemma.GemmaConfig(hidden_size=32, intermediate_size=77)), "gelu_tanh"),
    )
    for module, activation in kinds:
        with torch.no_grad():
            expected = module(torch.from_numpy(x)).numpy()
            gate, up, down = module.gate_proj, module.up_proj, module.down_proj
            biased = gate.bias is not None
            bias = torch.cat([gate.bias, up.bias]) if biased else None
            packed = fk.pack([gate.weight.detach(), up.weight.detach()])
            hidden = fk.linear(x, packed, bias, activation)
            found = fk.linear(hidden, down.weight.detach(), down.bias.detach() if biased else None)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def bfloat16(x: np.ndarray) -> np.ndarray:
    return reference.bfloat16(x).astype(np.float32)


def test_a_norms_weight_in_the_packed_weight() -> None:
    x, weights, scale = normal(0, 20, 64), pair(31, 64), normal(1, 64)
    for dtype in ELEMENTS:
        for weight in (weights[0], weights):
            scaled = [part * scale for part in weight] if isinstance(weight, list) else weight * scale
            found, expected = fk.pack(weight, dtype, scale=scale), fk.pack(scaled, dtype)
            np.testing.assert_array_equal(found.panels, expected.panels)
    normed = fk.rms_norm(x)
    exact = reference.linear(normed.astype(np.float64) * scale, weights[0])
    np.testing.assert_allclose(fk.linear(normed, fk.pack(weights[0], scale=scale)), exact, atol=1e-5)
    np.testing.assert_allclose(fk.linear(fk.rms_norm(x, scale), weights[0]), exact, atol=1e-5)
    strassen = fk.linear(normed, fk.pack(weights[0], strassen=1, scale=scale))
    np.testing.assert_allclose(strassen, exact, atol=1e-4)


def test_a_norms_weight_in_float32_is_exact_for_bfloat16_checkpoints() -> None:
    weight, scale = bfloat16(normal(0, 33, 64)), bfloat16(normal(1, 64))
    exact = weight.astype(np.float64) * scale
    np.testing.assert_array_equal((weight * scale).astype(np.float64), exact)
    units = np.eye(64, dtype=np.float32)
    np.testing.assert_array_equal(fk.linear(units, fk.pack(weight, scale=scale)).T, exact.astype(np.float32))


W = np.ones((4, 3), np.float32)
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "two shapes": ({"weight": [W, W[:3]]}, "weight is a pair of shapes"),
    "one shape transposed": ({"weight": [W, W.T]}, "weight is a pair of shapes"),
    "three weights": ({"weight": [W, W, W]}, "weight has shape"),
    "a pair by Strassen": ({"weight": [W, W], "strassen": 1}, "strassen is 1"),
    "a pair of float64": ({"weight": [W.astype(np.float64)] * 2, "dtype": "float64"}, "dtype is 'float64' for a pair"),
    "a dtype in a pair": ({"weight": [W, W.astype(np.float64)]}, "weight has dtype float64"),
    "a scale": ({"weight": W, "scale": np.ones(4, np.float32)}, "scale has shape"),
    "a scale's dtype": ({"weight": W, "scale": np.ones(3)}, "scale has dtype float64"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_pack_refuses(name: str) -> None:
    arguments, words = REFUSED[name]
    with pytest.raises(ValueError, match=words):
        fk.pack(**arguments)


def test_a_pair_is_refused_where_it_makes_no_sense() -> None:
    x, packed = np.ones((2, 3), np.float32), fk.pack([W, W])
    with pytest.raises(ValueError, match=r"bias has shape \(4,\), must be \(8,\)"):
        fk.linear(x, packed, np.ones(4, np.float32))
    with pytest.raises(ValueError, match="a pair, allowed: one of float32"):
        fk.sample_linear(x, packed, law=fk.Law(), seed=0, streams=np.arange(2))
    assert packed.shape == (4, 3) and packed.paired and not fk.pack(W).paired
