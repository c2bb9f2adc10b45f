"""Every public kernel on arrays of any shape, strides and values, against its float64 reference.

`make test ARGS="-m slow"` tries far more of them. What a kernel does not accept is a ValueError that names the
argument, whatever it is; nothing else is ever raised, and nothing is written that belongs to another array.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import fastsedd_kernels as fk
import numpy as np
import pytest
from fastsedd_kernels.attention import reference as attention
from fastsedd_kernels.gemm import reference as gemm
from fastsedd_kernels.norm import reference as norm
from fastsedd_kernels.rotary import reference as rotation
from fastsedd_kernels.sampling import reference as sampling
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

EPS = float(np.finfo(np.float32).eps)
UNDERFLOW = 1e-40  # of some products: subnormals are a float32's last digits


def unaligned(x: np.ndarray) -> np.ndarray:
    """The same numbers, each a byte beyond a multiple of its size."""
    memory = np.zeros(x.nbytes + 1, np.uint8)
    moved = memory[1:].view(x.dtype).reshape(x.shape)
    moved[...] = x
    return moved


def reversed_axes(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x[(slice(None, None, -1),) * x.ndim])[(slice(None, None, -1),) * x.ndim]


def every_other(x: np.ndarray) -> np.ndarray:
    wide = np.full([2 * size for size in x.shape], np.nan if x.dtype.kind == "f" else 0, x.dtype)
    wide[(slice(None, None, 2),) * x.ndim] = x
    return wide[(slice(None, None, 2),) * x.ndim]


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "rows": np.ascontiguousarray,
    "columns": np.asfortranarray,
    "backwards": reversed_axes,
    "every other": every_other,
    "unaligned": unaligned,
    "read-only": lambda x: np.broadcast_to(x, x.shape),
}
SCALES = (0.0, 1e-30, 1e-3, 1.0, 30.0, 1e12)

sizes = st.one_of(st.integers(1, 9), st.integers(1, 70))
leads = st.lists(st.integers(1, 3), max_size=3)


@st.composite
def arrays(draw: Any, *shape: int, scales: tuple[float, ...] = SCALES) -> np.ndarray:
    """float32 of that shape in any layout: of one magnitude, or of several; never an infinity."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = rng.standard_normal(shape) * draw(st.sampled_from(scales))
    if draw(st.booleans()):
        values *= rng.choice([0.0, 1e-3, 1.0], shape)
    return LAYOUTS[draw(st.sampled_from(sorted(LAYOUTS)))](values.astype(np.float32))


def poisoned(shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
    return np.full(shape, np.nan if dtype is np.float32 else -7, dtype)


def close(result: np.ndarray, exact: np.ndarray, error: np.ndarray | float) -> None:
    assert result.shape == exact.shape and np.all(np.abs(result - exact) <= error)


def check_matmul(draw: Any) -> None:
    m, k, n = draw(sizes), draw(sizes), draw(sizes)
    a, b = draw(arrays(*draw(leads), m, k)), draw(arrays(k, n))
    out = poisoned((*a.shape[:-1], n))
    assert fk.matmul(a, b, out=out) is out
    close(out, a.astype(np.float64) @ b, 2 * k * EPS * (np.abs(a.astype(np.float64)) @ np.abs(b)) + UNDERFLOW)


def check_linear(draw: Any) -> None:
    k, n = draw(sizes), draw(sizes)
    x, weight = draw(arrays(*draw(leads), draw(sizes), k)), draw(arrays(n, k))
    activation = draw(st.sampled_from([None, "gelu", "gelu_tanh", "silu"]))
    shape = (*x.shape[:-1], n)
    parts = {"bias": draw(arrays(n)), "gate": draw(arrays(n, scales=(1.0,))), "residual": draw(arrays(*shape))}
    chosen = {name: part for name, part in parts.items() if draw(st.booleans())}
    result = fk.linear(x, fk.pack(weight), activation=activation, out=poisoned(shape), **chosen)
    exact = gemm.linear(x, weight, activation=activation, **chosen)
    magnitude = np.abs(x.astype(np.float64)) @ np.abs(weight.T) + np.abs(chosen.get("bias", 0.0))
    error = (4 * k + 40) * EPS * magnitude * np.abs(chosen.get("gate", 1.0)) + 8 * EPS * np.abs(exact)
    close(
        result,
        exact,
        error + 4 * EPS * np.abs(chosen.get("residual", 0.0)) + 1e-6 * np.minimum(1, magnitude) + UNDERFLOW,
    )


def check_short_linear(draw: Any) -> None:
    """bfloat16 rounds each factor by 2^-9 at most; int8 by half a step of its row's largest."""
    k, n = draw(sizes), draw(sizes)
    x, weight = draw(arrays(draw(sizes), k, scales=(0.0, 1e-3, 1.0))), draw(arrays(n, k, scales=(0.0, 1e-3, 1.0)))
    exact = gemm.linear(x, weight)
    size_x, size_w = np.abs(x.astype(np.float64)), np.abs(weight.astype(np.float64))
    close(fk.linear(x, fk.pack(weight, "bfloat16")), exact, (2**-7 + 2 * k * EPS) * (size_x @ size_w.T) + 1e-38)
    step_x, step_w = size_x.max(1, keepdims=True) / 254, size_w.max(1, keepdims=True) / 254
    error = step_x * size_w.sum(1) + size_x.sum(1, keepdims=True) * step_w.T + k * step_x * step_w.T
    close(fk.linear(x, fk.pack(weight, "int8")), exact, 1.01 * error + 8 * k * EPS * (size_x @ size_w.T) + 1e-38)


def check_attention(draw: Any) -> None:
    lead, dim = (*draw(leads), draw(st.integers(1, 4))), draw(st.integers(1, 40))
    queries, keys = draw(sizes), draw(sizes)
    causal = draw(st.booleans())
    scales = (0.0, 1e-3, 1.0, 3.0)
    q, k, v = (draw(arrays(*lead, length, dim, scales=scales)) for length in (queries, keys, keys))
    result = fk.attention(q, k, v, causal=causal, out=poisoned(q.shape))
    exact = np.empty(q.shape)
    for place in np.ndindex(*lead[:-1]):
        exact[place] = attention.attention(q[place], k[place], v[place], causal=causal)
    scores = np.abs(q.astype(np.float64)) @ np.abs(k.astype(np.float64)).swapaxes(-1, -2) / math.sqrt(dim)
    error = (4 * dim * scores.max() + 4 * keys + 100) * EPS
    close(result, exact, error * np.abs(v).max(initial=0) + 1e-30)


def check_layer_norm(draw: Any) -> None:
    n = draw(sizes)
    x = draw(arrays(*draw(leads), draw(sizes), n, scales=(0.0, 1e-3, 1.0, 30.0)))
    parts = {name: draw(arrays(n, scales=(1.0,))) if draw(st.booleans()) else None for name in ("weight", "bias")}
    result = fk.layer_norm(x, **parts, out=poisoned(x.shape))
    exact = norm.layer_norm(x, **parts)
    centred = np.abs(x).max(-1, keepdims=True) / np.sqrt(x.astype(np.float64).var(-1, keepdims=True) + 1e-5)
    gain = 1.0 if parts["weight"] is None else np.abs(parts["weight"])
    close(result, exact, (4 * n + 40) * EPS * (centred + 1) ** 2 * gain + 8 * EPS * (1 + np.abs(exact)))


def check_rms_norm(draw: Any) -> None:
    n = draw(sizes)
    x = draw(arrays(*draw(leads), draw(sizes), n, scales=(0.0, 1e-3, 1.0, 30.0)))
    weight, offset = draw(arrays(n, scales=(1.0,))) if draw(st.booleans()) else None, draw(st.sampled_from([0.0, 1.0]))
    result = fk.rms_norm(x, weight, offset=offset, out=poisoned(x.shape))
    exact = norm.rms_norm(x, weight, offset=offset)
    rate = 1 / np.sqrt(np.mean(np.square(x.astype(np.float64)), -1, keepdims=True) + 1e-6)
    gain = 1.0 if weight is None else offset + np.abs(weight)
    close(result, exact, EPS * ((n + 8) * np.abs(exact) + 4 * np.abs(x) * rate * gain) + UNDERFLOW)


def check_softmax(draw: Any) -> None:
    x = draw(arrays(*draw(leads), draw(sizes), scales=(0.0, 1e-3, 1.0, 30.0)))
    result = fk.softmax(x, out=poisoned(x.shape))
    close(result, norm.softmax(x), (40 + 2 * np.abs(x).max()) * EPS)
    np.testing.assert_allclose(result.sum(-1), 1, atol=(x.shape[-1] + 8) * EPS)


def check_activations(draw: Any) -> None:
    x = draw(arrays(*draw(leads), draw(sizes)))
    for name, call in {"gelu": fk.gelu, "gelu_tanh": lambda x, out: fk.gelu(x, "tanh", out), "silu": fk.silu}.items():
        exact = gemm.activate(x.astype(np.float64), name)
        close(call(x, out=poisoned(x.shape)), exact, 2e-7 + 2 * EPS * np.abs(exact))


def check_embedding(draw: Any) -> None:
    rows, width, length = draw(sizes), draw(sizes), draw(sizes)
    table, positions = draw(arrays(rows, width)), draw(arrays(length + draw(st.integers(0, 3)), width))
    dtype = draw(st.sampled_from([np.int8, np.uint16, np.int32, np.int64, np.uint64]))
    tokens = np.random.default_rng(draw(st.integers(0, 99))).integers(0, rows, (*draw(leads), length)).astype(dtype)
    tokens = LAYOUTS[draw(st.sampled_from(sorted(LAYOUTS)))](tokens) if tokens.dtype.kind == "i" else tokens
    np.testing.assert_array_equal(fk.embedding(tokens, table), table[tokens])
    out = fk.embedding(tokens, table, positions, out=poisoned((*tokens.shape, width)))
    np.testing.assert_array_equal(out, table[tokens] + positions[:length])


def check_rotary(draw: Any) -> None:
    x = draw(arrays(*draw(leads), draw(st.integers(1, 4)), draw(sizes), 2 * draw(st.integers(1, 20))))
    interleaved = draw(st.booleans())
    exact = rotation.rotary(x, interleaved=interleaved)
    size = np.abs(x).astype(np.float64)
    half = x.shape[-1] // 2
    pairs = (slice(0, None, 2), slice(1, None, 2)) if interleaved else (slice(half), slice(half, None))
    error = np.empty_like(size)
    for each in pairs:
        error[..., each] = 4 * EPS * (size[..., pairs[0]] + size[..., pairs[1]]) + 1e-44
    close(fk.rotary(x, out=poisoned(x.shape), interleaved=interleaved), exact, error)


def check_sample_categorical(draw: Any) -> None:
    p = np.abs(draw(arrays(draw(sizes), draw(sizes), scales=(1e-3, 1.0, 30.0)))) + np.float32(1e-6)
    p = LAYOUTS[draw(st.sampled_from(sorted(LAYOUTS)))](p)
    seed, offset = draw(st.integers(0, 2**64 - 1)), draw(st.integers(0, 2**62))
    drawn = fk.sample_categorical(p, seed, offset, out=poisoned(p.shape[:1], np.int32))
    np.testing.assert_array_equal(drawn, sampling.sample_categorical(p, seed, offset))


CHECKS = [
    check_matmul, check_linear, check_short_linear, check_attention, check_layer_norm, check_rms_norm,
    check_softmax, check_activations, check_embedding, check_rotary, check_sample_categorical,
]  # fmt: skip


def run(check: Callable[[Any], None], examples: int) -> None:
    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), derandomize=examples < 100)
    @given(st.data())
    def holds(data: Any) -> None:
        check(data.draw)

    holds()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_kernels_agree_with_their_references(check: Callable[[Any], None]) -> None:
    run(check, 40)


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_kernels_agree_with_their_references_at_length(check: Callable[[Any], None]) -> None:
    run(check, 2000)


# What may come where an array is meant.
WRONG = st.sampled_from([
    None, "x", object(), 3, 2.5, True, [], [[1.0], [1.0, 2.0]], ["a"], 1j, np.float64(2), np.ones(3, bool),
    np.ones((2, 2), np.float16), np.ones((2, 2), object), np.ones((2, 2), ">f4"), np.ones((2, 2), complex),
    np.empty((0, 2), np.float32), np.empty((2, 0), np.float32), np.float32(1), np.ones((1,) * 20, np.float32),
    np.full((2, 2), np.nan, np.float32), np.full((2, 2), -(2**63)), np.full((2, 2), 2**63, np.uint64), -1, 1 << 70,
    np.broadcast_to(np.float32(1), (2, 2)), np.ones((2, 2), np.float32), np.ones((2, 2, 2), np.float32), float("nan"),
    np.ones((2, 2), "datetime64[s]"), np.zeros((2, 2), [("a", "f4")]), np.ma.ones((2, 2), np.float32),
])  # fmt: skip

SQUARE = np.ones((2, 2), np.float32)
CUBE = np.ones((2, 2, 2), np.float32)
CALLS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "matmul": (fk.matmul, {"a": SQUARE, "b": SQUARE, "out": None}),
    "linear": (
        fk.linear,
        {"x": SQUARE, "weight": SQUARE, "bias": None, "gate": None, "residual": None, "out": None},
    ),
    "pack": (fk.pack, {"weight": SQUARE}),
    "attention": (fk.attention, {"q": CUBE, "k": CUBE, "v": CUBE, "scale": None, "out": None}),
    "layer_norm": (
        fk.layer_norm,
        {
            "x": SQUARE,
            "weight": None,
            "bias": None,
            "shift": None,
            "scale": None,
            "eps": 1e-5,
            "out": None,
            "residual": SQUARE,
            "residual_out": None,
        },
    ),
    "rms_norm": (
        fk.rms_norm,
        {
            "x": SQUARE,
            "weight": None,
            "eps": 1e-6,
            "residual": SQUARE,
            "out": None,
            "residual_out": None,
            "offset": 0.0,
        },
    ),
    "softmax": (fk.softmax, {"x": SQUARE, "out": None}),
    "gelu": (fk.gelu, {"x": SQUARE, "out": None}),
    "silu": (fk.silu, {"x": SQUARE, "out": None}),
    "embedding": (fk.embedding, {"tokens": np.ones((2, 2), int), "table": SQUARE, "positions": None, "out": None}),
    "rotary": (
        fk.rotary,
        {
            "x": CUBE,
            "base": 10000.0,
            "out": None,
            "table": fk.rotary_table(2, 2),
            "positions": None,
            "interleaved": False,
            "norm": None,
            "eps": 1e-6,
            "offset": 0.0,
        },
    ),
    "rotary_table": (fk.rotary_table, {"length": 3, "dim": 4, "base": 10000.0, "scaling": None}),
    "sample_categorical": (fk.sample_categorical, {"probabilities": SQUARE, "seed": 0, "offset": 0, "out": None}),
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", CALLS)
def test_anything_else_is_refused_by_name(name: str) -> None:
    function, good = CALLS[name]

    @settings(max_examples=150, deadline=None)
    @given(st.data())
    def holds(data: Any) -> None:
        argument = data.draw(st.sampled_from(sorted(good)))
        value = data.draw(WRONG)
        if isinstance(value, np.ndarray) and value.flags.writeable and argument == "out":
            value = value.copy()
        refused = ""
        try:
            function(**{**good, argument: value})
        except ValueError as error:
            refused = str(error)
        assert not refused or (argument in refused and "\n" not in refused)

    holds()


@pytest.mark.parametrize("name", CALLS)
def test_an_output_that_overlaps_an_input_is_refused(name: str) -> None:
    """Unless it is one that may be worked on in place; then shifted by one element it is refused."""
    function, good = CALLS[name]
    if "out" not in good:
        pytest.skip("has no output")
    first = next(iter(good))
    memory = np.ones(64, np.float32)
    shape = np.shape(good[first])
    count = math.prod(shape)
    x, shifted = memory[:count].reshape(shape), memory[1 : count + 1].reshape(shape)
    if name == "embedding":
        first, x, shifted = "table", x, memory[1:9].reshape(2, 2, 2)
    if name == "sample_categorical":
        shifted = memory[1:3].view(np.int32)
    with pytest.raises(ValueError, match="out overlaps"):
        function(**{**good, first: x, "out": shifted})


def test_arrays_that_only_interleave_do_not_overlap() -> None:
    both = np.ones((4, 2, 3, 8), np.float32)
    q, out = both[:, 0], both[:, 1]
    expected = fk.attention(q.copy(), q.copy(), q.copy())
    np.testing.assert_array_equal(fk.attention(q, q, q, out=out), expected)


def test_aligned_empty_refuses() -> None:
    for shape, dtype in (((-1,), np.float32), ((2, -3), np.float32), ((2,), object)):
        with pytest.raises(ValueError, match="shape is"):
            fk.aligned_empty(shape, dtype)
