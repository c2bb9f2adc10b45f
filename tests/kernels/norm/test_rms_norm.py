"""RMS norm, and norms of a sum with a residual, against float64 and against PyTorch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import fastsedd_kernels as fk
import numpy as np
import pytest
from fastsedd_kernels.norm import reference
from fastsedd_kernels.simd.vector import LANES
from kernel_arrays import LAYOUTS, normal, poisoned

EPS = float(np.finfo(np.float32).eps)
WIDTHS = [*range(1, 2 * LANES + 2), 4 * LANES - 1, *range(4 * LANES, 12 * LANES + 2, LANES - 1), 1000, 4096]


def bound(exact: np.ndarray, width: int) -> np.ndarray:
    """The sum of squares is off by less than an eps for each term in a register's chain, its root by half of that."""
    return EPS * (width / 8 + 8) * np.abs(exact) + 1e-40


@pytest.mark.parametrize("width", WIDTHS)
def test_every_width(width: int) -> None:
    x, weight, residual = normal(0, 5, width), normal(1, width), normal(2, 5, width)
    for given in ({}, {"weight": weight}, {"weight": weight, "offset": 1.0}):
        exact = reference.rms_norm(x, **given)
        assert (np.abs(fk.rms_norm(x, out=poisoned(5, width), **given) - exact) <= 2 * bound(exact, width)).all()
        sums, out = poisoned(5, width), poisoned(5, width)
        fk.rms_norm(x, residual=residual, residual_out=sums, out=out, **given)
        np.testing.assert_array_equal(sums, x + residual)
        exact = reference.rms_norm(sums, **given)
        assert (np.abs(out - exact) <= 2 * bound(exact, width)).all()
        np.testing.assert_array_equal(fk.rms_norm(x, residual=residual, **given), out)


def heads_first(x: np.ndarray) -> np.ndarray:
    return x.transpose(0, 2, 1, 3)


ARRANGED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "as they lie": lambda x: x,
    "heads first": heads_first,
    "a part of a projection": lambda x: x[:, :, 1:3],
    "backwards": lambda x: heads_first(x)[::-1, :, ::-1],
    "parts of rows": lambda x: x[..., 3:20],
    "columns": lambda x: x.transpose(3, 1, 2, 0),
    "one head": lambda x: x[0, :, 2],
    "five dimensions": lambda x: heads_first(x).reshape(2, 4, 7, 5, 5)[:, ::2],
    "a row": lambda x: x[0, 0, 0],
    "repeated": lambda x: np.broadcast_to(x[:, :1], x.shape),
}


@pytest.mark.parametrize("arranged", ARRANGED)
def test_rows_of_heads_wherever_they_lie(arranged: str) -> None:
    x, residual = (ARRANGED[arranged](normal(seed, 2, 7, 4, 25)) for seed in (0, 1))
    weight = normal(2, x.shape[-1])
    exact = reference.rms_norm(x, weight, residual=residual)
    out, sums = (ARRANGED[arranged](poisoned(2, 7, 4, 25)) for _ in range(2))
    if arranged in ("columns", "repeated"):  # which are none to write
        out, sums = poisoned(*x.shape), poisoned(*x.shape)
    assert fk.rms_norm(x, weight, residual=residual, out=out, residual_out=sums) is out
    np.testing.assert_allclose(out, exact, atol=1e-5)
    np.testing.assert_array_equal(sums, x + residual)
    np.testing.assert_array_equal(fk.rms_norm(x, weight, residual=residual), out)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout(layout: str) -> None:
    x, residual, weight = normal(0, 33, 70), normal(1, 33, 70), normal(2, 70)
    given = LAYOUTS[layout]
    for norm, exact in ((fk.rms_norm, reference.rms_norm), (fk.layer_norm, reference.layer_norm)):
        result = norm(given(x), weight, residual=given(residual))
        np.testing.assert_allclose(result, exact(x, weight, residual=residual), atol=1e-5)


@pytest.mark.parametrize("norm", [fk.rms_norm, fk.layer_norm])
def test_places_that_are_one(norm: Any) -> None:
    x, residual, weight = normal(0, 40, 300), normal(1, 40, 300), normal(2, 300)
    sums = x + residual
    expected = norm(x, weight, residual=residual)
    for out, kept in (("x", None), ("residual", None), ("x", "residual"), ("residual", "x"), (None, "residual")):
        memory = {"x": x.copy(), "residual": residual.copy(), None: poisoned(40, 300)}
        places = {"residual_out": memory[kept]} if kept else {}
        norm(memory["x"], weight, residual=memory["residual"], out=memory[out], **places)
        np.testing.assert_array_equal(memory[out], expected)
        if kept:
            np.testing.assert_array_equal(memory[kept], sums)


@pytest.mark.parametrize("weighed", [False, True])
def test_in_place(weighed: bool) -> None:
    """A row is written while the next is read: rows of heads, too, which lie apart."""
    weight = normal(1, 70) if weighed else None
    for shape, axes in (((40, 70), (0, 1)), ((1, 70), (0, 1)), ((9, 4, 70), (1, 0, 2))):
        x = normal(0, *shape).transpose(axes)
        expected = fk.rms_norm(x, weight)
        np.testing.assert_array_equal(fk.rms_norm(x, weight, out=x), expected)
        np.testing.assert_array_equal(x, expected)


def test_a_residual_that_is_x() -> None:
    x = normal(0, 40, 300)
    expected = fk.rms_norm(x, residual=x.copy())
    np.testing.assert_array_equal(fk.rms_norm(x, residual=x, out=x), expected)


def test_results_do_not_depend_on_threads_or_rows(one_thread: Callable[[], Any]) -> None:
    x = normal(0, 200, 333)
    result = fk.rms_norm(x)
    with one_thread():
        np.testing.assert_array_equal(fk.rms_norm(x), result)
    np.testing.assert_array_equal(fk.rms_norm(x[77]), result[77])


def test_numbers_that_are_not_finite_and_empty_arrays_are_as_in_pytorch() -> None:
    torch = pytest.importorskip("torch")
    x = normal(0, 7, 70)
    x[0, 3], x[1, 69], x[2, 0], x[3, 5] = np.nan, np.inf, -np.inf, 1e30
    x[4], x[5] = 0, 1e-30
    for eps in (0.0, 1e-6):
        expected = torch.nn.functional.rms_norm(torch.from_numpy(x), (70,), eps=eps).numpy()
        np.testing.assert_allclose(fk.rms_norm(x, eps=eps), expected, rtol=1e-5)
    for shape in ((3, 0), (0, 3), (2, 0, 5), (0,)):
        expected = torch.nn.functional.rms_norm(torch.empty(shape), shape[-1:])
        assert fk.rms_norm(np.empty(shape, np.float32)).shape == tuple(expected.shape)


def test_the_modules_of_transformers() -> None:
    torch, qwen = pytest.importorskip("torch"), pytest.importorskip("transformers.models.qwen3.modeling_qwen3")
    gemma = pytest.importorskip("transformers.models.gemma3.modeling_gemma3")
    x, weight = normal(0, 3, 4, 64), normal(1, 64)
    for module, offset in ((qwen.Qwen3RMSNorm(64, eps=1e-6), 0.0), (gemma.Gemma3RMSNorm(64, eps=1e-6), 1.0)):
        with torch.no_grad():
            module.weight.copy_(torch.from_numpy(weight))
            expected = module(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(fk.rms_norm(x, weight, offset=offset), expected, rtol=1e-5, atol=1e-6)


REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "a weight": (fk.rms_norm, {"weight": np.ones(3, np.float32)}, "weight has shape"),
    "a dtype": (fk.rms_norm, {"weight": np.ones(4)}, "weight has dtype float64"),
    "an eps": (fk.rms_norm, {"eps": -1.0}, "eps is -1.0"),
    "an offset": (fk.rms_norm, {"offset": math.inf}, "offset is inf"),
    "a residual": (fk.rms_norm, {"residual": np.ones((2, 3), np.float32)}, "residual has shape"),
    "a residual of layer_norm": (fk.layer_norm, {"residual": np.ones(4, np.float32)}, "residual has shape"),
    "sums of nothing": (fk.rms_norm, {"residual_out": poisoned(2, 4)}, "residual_out takes"),
    "columns": (fk.rms_norm, {"out": poisoned(4, 2).T}, "out must have adjacent"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses(name: str) -> None:
    norm, arguments, words = REFUSED[name]
    with pytest.raises(ValueError, match=words):
        norm(np.ones((2, 4), np.float32), **arguments)


@pytest.mark.parametrize("norm", [fk.rms_norm, fk.layer_norm])
def test_outputs_that_overlap_are_refused(norm: Any) -> None:
    memory = np.ones(20, np.float32)
    x, shifted, other = memory[:8].reshape(2, 4), memory[1:9].reshape(2, 4), memory[12:20].reshape(2, 4)
    with pytest.raises(ValueError, match="residual_out overlaps x"):
        norm(x, residual=other, residual_out=shifted)
    with pytest.raises(ValueError, match="out overlaps residual_out"):
        norm(x, residual=other, out=x, residual_out=x)
