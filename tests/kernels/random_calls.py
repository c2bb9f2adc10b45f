"""Random calls of the kernels, each against float64: `python random_calls.py --first 0 --count 1000`.

A number is a call: it decides the kernel, shapes at the edges of tiles, panels, slabs and Strassen's blocks, dtypes,
layouts, values, threads, and whether the call is plain, recorded and replayed, or made from an njit function. Memory
around inputs is NaN and must not be read into a result; outputs lie in memory that must not be written beside them;
inputs must stay as they are. A call that fails is one line, with the command that makes it again.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from typing import Any

import fastsedd_kernels as fk
import numba
import numpy as np
from fastsedd_kernels.attention import reference as attention
from fastsedd_kernels.gemm import reference as gemm
from fastsedd_kernels.gemm.microkernel import ROWS
from fastsedd_kernels.gemm.tuned_blocks import Limits, use
from fastsedd_kernels.norm import reference as norm
from fastsedd_kernels.rotary import reference as rotation
from fastsedd_kernels.sampling import reference as sampling
from fastsedd_kernels.sampling.api import Law
from random_arguments import PANEL, Call, exact_product, jitted, kind_of, magnitudes, put_special, require, writable

EPS = {np.float32: 2.0**-23, np.float64: 2.0**-52}
TINY = {np.float32: 1e-40, np.float64: 0.0}  # what some products may lose among subnormals
BFLOAT16 = 2.0**-7  # of a product of two factors, each rounded by 2^-8 of itself at most
SLOPE = 1.13  # the steepest that an activation gets


def matmul(call: Call) -> None:
    dtype = call.pick(np.float32, np.float64)
    lead = () if call.way == "njit" else call.pick((), (), (2,), (2, 1))
    m, k, n = call.size(ROWS), call.size(16, 8), call.size()
    a, b = call.array("a", *lead, m, k, dtype=dtype), call.array("b", *call.pick((), lead), k, n, dtype=dtype)
    put_special(call, b)
    out = call.out(*lead, m, n, dtype=dtype) if call.rng.random() < 0.7 else None
    if call.way == "njit":
        kind = numba.from_dtype(np.dtype(dtype))
        function = jitted(
            f"matmul {kind}", lambda a, b, out: fk.matmul(a, b, out=out), kind_of(2, kind), kind_of(2, kind),
            kind_of(2, kind, "C"),
        )  # fmt: skip
        target = np.full((m, n), np.nan, dtype) if out is None else out
        result = call.run(lambda: function(writable(a), writable(b), target))
    else:
        result = call.run(lambda: fk.matmul(a, b, out=out))
    call.close(result, exact_product(a, b), (k + 2) * EPS[dtype] * (magnitudes(a) @ magnitudes(b)) + TINY[dtype])


def strassen(call: Call) -> None:
    dtype, levels = call.pick(np.float32, np.float64), call.pick(1, 2, 2, 2, None)
    m, k = max(1, call.size(4 * ROWS)), max(1, call.pick(call.size(16, 8), call.size(64)))
    n = max(1, call.pick(call.size(PANEL, 8), call.size(16, 40)))
    a, b = call.array("a", m, k, dtype=dtype), call.array("b", k, n, dtype=dtype, favoured=("C", "F"))
    call.words.append(f"levels={levels}")
    result = call.run(lambda: fk.strassen_matmul(a, b, levels, call.out(m, n, dtype=dtype)))
    call.close(result, exact_product(a, b), strassen_error(a, b, levels or 0, EPS[dtype]) + TINY[dtype])


def strassen_error(a: np.ndarray, b: np.ndarray, levels: int, eps: float) -> float:
    """The worst case over the depth of a block: roundings are of either sign, and 12 per level is far from what is met.

    The worst case itself, which the product's own tests hold, is above many a value of a product.
    """
    return gemm.strassen_bound(a, b, levels, eps) / (-(-a.shape[1] // 2**levels) if levels else 1)


def linear(call: Call) -> None:
    stored, levels = call.pick(("float32", 0), ("float32", 1), ("float32", 2), ("bfloat16", 0), ("int8", 0), ("", 0))
    if call.way == "njit" and (stored == "" or levels):
        stored, levels = "float32", 0
    m, k, n = call.size(ROWS), max(1, call.size(16, 8)), max(1, call.size(16, 40) if levels else call.size())
    x, weight = call.array("x", m, k), call.array("weight", n, k, favoured=("C", "F"))
    activation = call.pick(None, "gelu", "gelu_tanh", "silu")
    parts = {"bias": call.array("bias", n), "gate": call.array("gate", n), "residual": call.array("residual", m, n)}
    used = {name: part for name, part in parts.items() if call.way == "njit" or call.rng.random() < 0.5}
    call.words.append(f"{stored} strassen={levels} {activation} {'+'.join(used)}")
    out = call.out(m, n, rows_apart=0 if call.way == "njit" else call.pick(0, 0, 3, 16))
    packed = fk.pack(weight, stored, strassen=levels) if stored else weight
    if call.way == "njit":
        activation = "gelu"
        one, two = kind_of(1), kind_of(2)
        function = jitted(
            f"linear {stored}",
            lambda x, w, bias, gate, residual, out: fk.linear(x, w, bias, "gelu", gate, residual, out),
            two, numba.typeof(packed), one, one, two, kind_of(2, layout="C"),
        )  # fmt: skip
        given = [writable(part) for part in (x, *used.values())]
        result = call.run(lambda: function(given[0], packed, *given[1:], out))
    else:
        result = call.run(lambda: fk.linear(x, packed, activation=activation, out=out, **used))
    size_x, size_w = np.abs(x.astype(np.float64)), np.abs(weight.astype(np.float64))
    product, eps = size_x @ size_w.T, EPS[np.float32]
    error = (k + 2) * eps * (product + np.abs(used.get("bias", 0.0))) + TINY[np.float32]
    if levels and m:
        error = error + strassen_error(x, weight.T, levels, eps)
    error = error + shortened(stored, x, weight)
    plain = gemm.linear(x, weight, used.get("bias"), activation)
    exact = gemm.linear(x, weight, activation=activation, **used)
    error = SLOPE * error + (1.2e-7 if activation else 0) + 2 * eps * np.abs(plain)
    error = np.abs(used.get("gate", 1.0)) * (error + eps * np.abs(plain))
    call.close(result, exact, error + eps * (np.abs(exact) + np.abs(used.get("residual", 0.0))) + TINY[np.float32])


def shortened(stored: str, x: np.ndarray, weight: np.ndarray) -> Any:
    """The error of a product whose operands are rounded to bfloat16 or int8; else 0."""
    size_x, size_w = np.abs(x.astype(np.float64)), np.abs(weight.astype(np.float64))
    product, k = size_x @ size_w.T, x.shape[1]
    if stored == "bfloat16":
        return BFLOAT16 * product + 1e-38 * k * (1 + size_x.max(initial=0) + size_w.max(initial=0))
    if stored == "int8":
        step_x, step_w = size_x.max(1, keepdims=True) / 254, size_w.max(1, keepdims=True) / 254
        return 1.01 * (step_x * size_w.sum(1) + size_x.sum(1, keepdims=True) * step_w.T + k * step_x * step_w.T)
    return 0.0


def gated(call: Call) -> None:
    """A pair of weights: the bound of each factor of the product times the other's size."""
    stored, m, k, n = call.pick("float32", "bfloat16", "int8"), call.size(ROWS), max(1, call.size(16, 8)), call.size()
    n = max(1, n)
    x, weights = call.array("x", m, k, scale=1.0), [call.array(name, n, k, scale=1.0) for name in ("gate", "up")]
    bias = call.array("bias", 2 * n) if call.way == "njit" or call.rng.random() < 0.5 else np.zeros(2 * n, np.float32)
    activation = call.pick(None, "gelu", "gelu_tanh", "silu")
    call.words.append(f"{stored} {activation}")
    packed, out = fk.pack(weights, stored), call.out(m, n, rows_apart=0 if call.way == "njit" else call.pick(0, 3))
    if call.way == "njit":
        activation, one, two = "silu", kind_of(1), kind_of(2)
        function = jitted(
            f"gated {stored}", lambda x, w, bias, out: fk.linear(x, w, bias, "silu", out=out), two,
            numba.typeof(packed), one, kind_of(2, layout="C"),
        )  # fmt: skip
        given = writable(x), writable(bias)
        result = call.run(lambda: function(given[0], packed, given[1], out))
    else:
        result = call.run(lambda: fk.linear(x, packed, bias, activation, out=out))
    exact, error = [], []
    for weight, added, name in zip(weights, np.split(bias, 2), (activation, None), strict=True):
        exact.append(gemm.linear(x, weight, added, name))
        bound = (k + 2) * EPS[np.float32] * (np.abs(x) @ np.abs(weight.T) + np.abs(added)) + shortened(
            stored, x, weight
        )
        error.append(SLOPE * bound + (1.2e-7 + 2 * EPS[np.float32] * np.abs(exact[-1]) if name else 0))
    bound = error[0] * np.abs(exact[1]) + error[1] * np.abs(exact[0]) + error[0] * error[1]
    call.close(result, exact[0] * exact[1], bound + EPS[np.float32] * np.abs(exact[0] * exact[1]) + 1e-30)


def grouped(call: Call) -> None:
    """A weight in groups of 32 inputs, as it is stored; x is rounded to half a 127th of the largest of 128."""
    stored, minimum = call.pick("int4", "int8g"), bool(call.rng.integers(2))
    m, k, n = call.size(ROWS), max(1, call.size(32, 20)), max(1, call.size())
    x, weight = call.array("x", m, k), call.array("weight", n, k, favoured=("C", "F"))
    bias = call.array("bias", n)
    packed = fk.pack(weight, stored, minimum=minimum)
    call.words.append(f"{stored} minimum={minimum}")
    out = call.out(m, n, rows_apart=0 if call.way == "njit" else call.pick(0, 3))
    if call.way == "njit":
        function = jitted(
            f"grouped {stored}", lambda x, w, bias, out: fk.linear(x, w, bias, out=out), kind_of(2),
            numba.typeof(packed), kind_of(1), kind_of(2, layout="C"),
        )  # fmt: skip
        given = writable(x), writable(bias)
        result = call.run(lambda: function(given[0], packed, given[1], out))
    else:
        result = call.run(lambda: fk.linear(x, packed, bias, out=out))
    values = fk.unpack(packed)
    size_w = np.abs(values.astype(np.float64)) + (2 * np.abs(weight).max() if minimum else 0)
    error = (k + 8) * EPS[np.float32] * (np.abs(x.astype(np.float64)) @ size_w.T + np.abs(bias)) + TINY[np.float32]
    for first in range(0, k, 128):
        block = slice(first, first + 128)
        steps = np.abs(x[:, block].astype(np.float64)).max(1, keepdims=True, initial=0) / 254
        error = error + 1.01 * steps * np.abs(values[:, block].astype(np.float64)).sum(1)
    call.close(result, gemm.linear(x, values, bias), error)


def attend(call: Call) -> None:
    heads, group, dim = call.pick((2,), (2, 1)), call.pick(1, 1, 2, 3), max(1, call.size(16, 4))
    if call.way == "njit":
        heads = (2, 1)
    queries, keys = max(1, call.size(ROWS, 8)), max(1, call.size(PANEL, 7))
    dtype, causal = call.pick("float32", "bfloat16"), bool(call.rng.integers(2))
    q, k, v = (
        call.array(name, *heads[:-1], several * heads[-1], length, dim, scale=call.pick(0.0, 1e-3, 1.0, 3.0))
        for name, several, length in (("q", group, queries), ("k", 1, keys), ("v", 1, keys))
    )
    out = call.out(*q.shape, rows_apart=0 if call.way == "njit" else call.pick(0, 3))
    rule: dict[str, Any] = {"causal": causal}
    if call.way == "njit":
        four = kind_of(4)
        text = {"float32": _attend_float32, "bfloat16": _attend_bfloat16}[dtype]
        function = jitted(f"attend {dtype}", text, four, four, four, numba.boolean, kind_of(4, layout="C"))
        given = [writable(part) for part in (q, k, v)]
        result = call.run(lambda: function(*given, causal, out))
    else:
        rule |= _limits(call, (*q.shape[:-1], keys), causal)
        if len(heads) == 2 and call.rng.random() < 0.4:
            cache = _cache_of(call, k, v, dtype)
            result = call.run(lambda: cache.attend(q, out=out, **{"start": 0, **rule}))
        else:
            result = call.run(lambda: fk.attention(q, k, v, out=out, dtype=dtype, **rule))
    call.words.append(
        f"{dtype} { ({name: value for name, value in rule.items() if not isinstance(value, np.ndarray)}) }"
    )
    exact = attention.attention(q, k, v, **rule)
    sizes = (np.abs(part.astype(np.float64)) for part in (q, np.repeat(k, group, axis=-3)))
    scores = next(sizes) @ next(sizes).swapaxes(-1, -2) / math.sqrt(dim)
    largest = float(scores.max(initial=0)) + (10 if "mask" in rule else 0)
    error = (4 * dim * largest + 4 * keys + 100) * EPS[np.float32]
    if dtype == "bfloat16":
        error += 2 * np.expm1(2 * BFLOAT16 * largest) + 2 * BFLOAT16
    call.close(result, exact, error * np.abs(v).max(initial=0) + 1e-30)


def _cache_of(call: Call, k: np.ndarray, v: np.ndarray, dtype: str) -> fk.KVCache:
    """A cache that holds k and v, appended in pieces; now and then more was appended, and truncated."""
    batch, heads, keys, dim = k.shape
    cache = fk.KVCache(batch, heads, dim, 2 * keys + 5, dtype)
    if call.rng.random() < 0.5:
        wrong = np.full((batch, heads, keys + 5, dim), np.nan, np.float32)
        cache.append(wrong, wrong)
        cache.truncate(0)
    begun = 0
    while begun < keys:
        end = min(keys, begun + int(call.rng.integers(1, call.pick(4, 40, 400))))
        cache.append(k[:, :, begun:end], v[:, :, begun:end])
        begun = end
    call.words.append("from a cache")
    return cache


def _limits(call: Call, shape: tuple[int, ...], causal: bool) -> dict[str, Any]:
    """What a query sees, by any of the ways to say it, or none; shape : of the scores."""
    *heads, queries, keys = shape
    rule: dict[str, Any] = {}
    if call.rng.random() < 0.5:
        return rule
    rule["start"] = call.pick(0, None, int(call.rng.integers(-queries, keys + 1)))
    if not causal and call.rng.random() < 0.5:
        rule["block"] = call.pick(1, 3, 32, keys)
    if call.rng.random() < 0.5:
        rule["window"] = int(call.rng.integers(1, 1 + call.pick(9, 9, 2 * keys)))
    if call.rng.random() < 0.3:
        rule["lengths"] = call.rng.integers(0, keys + 1, heads[:-1])
    kind, full = call.pick("none", "bool", "float32"), [call.pick(size, size, 1) for size in shape]
    kept = call.rng.random(full) < call.pick(0.02, 0.7)
    if kind == "bool":
        rule["mask"] = call.laid_out("mask", kept)
    elif kind == "float32":
        added = np.clip(call.rng.standard_normal(full), -3, 3)
        rule["mask"] = call.laid_out("mask", np.where(kept, added, -np.inf).astype(np.float32))
    return rule


def _attend_float32(q: Any, k: Any, v: Any, causal: Any, out: Any) -> Any:
    return fk.attention(q, k, v, causal=causal, out=out)


def _attend_bfloat16(q: Any, k: Any, v: Any, causal: Any, out: Any) -> Any:
    return fk.attention(q, k, v, causal=causal, out=out, dtype="bfloat16")


def layer_norm(call: Call) -> None:
    lead, n = call.pick((1,), (3,), (2, 5)), max(1, call.size(16, 9))
    if call.way == "njit":
        lead = (3,)
    x = call.array("x", *lead, n)
    parts = {name: call.array(name, n, scale=1.0) for name in ("weight", "bias")}
    used = {name: part for name, part in parts.items() if call.way == "njit" or call.rng.random() < 0.5}
    if call.way != "njit" and call.rng.random() < 0.4:
        used |= {name: call.array(name, lead[0], *(1,) * (len(lead) - 1), n, scale=1.0) for name in ("shift", "scale")}
    if call.way != "njit" and call.rng.random() < 0.4:
        used["residual"] = call.array("residual", *lead, n, scale=0.0)
    out = call.out(*lead, n)
    if call.way == "njit":
        function = jitted(
            "layer_norm", lambda x, weight, bias, out: fk.layer_norm(x, weight, bias, out=out), kind_of(2), kind_of(1),
            kind_of(1), kind_of(2, layout="C"),
        )  # fmt: skip
        given = [writable(part) for part in (x, *used.values())]
        result = call.run(lambda: function(*given, out))
    else:
        result = call.run(lambda: fk.layer_norm(x, out=out, **used))
    exact = norm.layer_norm(x, **used)
    centred = np.abs(x).max(-1, keepdims=True) / np.sqrt(x.astype(np.float64).var(-1, keepdims=True) + 1e-5)
    gain = np.abs(used.get("weight", 1.0)) * (1 + np.abs(used.get("scale", 0.0)))
    size = 1 + np.abs(exact) + np.abs(used.get("bias", 0.0)) * (1 + np.abs(used.get("scale", 0.0)))
    call.close(result, exact, EPS[np.float32] * ((4 * n + 40) * (centred + 1) ** 2 * gain + 8 * size))


def rms_norm(call: Call) -> None:
    """Rows anywhere, as the heads of a projection are; the sums with a residual in memory of their own, or in x."""
    shape = (*call.pick((1,), (3,), (2, 5), (2, 3, 4), (2, 1, 3, 2)), max(1, call.size(16, 9)))
    if call.way == "njit":
        shape = (3, shape[-1])
    x, offset = call.array("x", *shape, scale=1.0, favoured=("axes",)), call.pick(0.0, 1.0)
    weight, residual = call.array("weight", shape[-1], scale=1.0), call.array("residual", *shape, scale=1.0)
    out, sums = call.out(*shape, rows_apart=0 if call.way == "njit" else call.pick(0, 3)), call.out(*shape)
    if call.way == "njit":
        two = kind_of(2, layout="C")
        function = jitted(
            "rms_norm", lambda x, w, r, o, s, off: fk.rms_norm(x, w, 1e-6, r, o, s, off), kind_of(2), kind_of(1),
            kind_of(2), two, two, numba.float64,
        )  # fmt: skip
        given, used = [writable(part) for part in (x, weight, residual)], {"weight": weight, "residual": residual}
        result = call.run(lambda: function(*given, out, sums, offset))
    else:
        used = {name: part for name, part in (("weight", weight), ("residual", residual)) if call.rng.random() < 0.6}
        kept = {"residual_out": sums} if "residual" in used else {}
        result = call.run(lambda: fk.rms_norm(x, out=out, offset=offset, **used, **kept))
    if "residual" in used:
        call.close(sums, (x + residual).astype(np.float64), 0.0)
    exact = norm.rms_norm(x, offset=offset, **used)
    total = np.abs(x) + np.abs(used.get("residual", np.float32(0)))
    rate = 1 / np.sqrt(np.mean(np.square((x + used.get("residual", 0.0)).astype(np.float64)), -1, keepdims=True) + 1e-6)
    lost = 1 + total.max(-1, keepdims=True) * rate  # by the sum, relative to its root mean square
    gain = offset + np.abs(used["weight"]) if "weight" in used else 1.0
    call.close(result, exact, EPS[np.float32] * ((shape[-1] + 8) * np.abs(exact) * lost + 4 * total * rate * gain))


def softmax(call: Call) -> None:
    x = call.array("x", *call.pick((1,), (3,), (7,)), max(1, call.size(16, 9)))
    out = call.out(*x.shape)
    function: Callable[..., np.ndarray] = fk.softmax
    if call.way == "njit":
        function = jitted("softmax", lambda x, out: fk.softmax(x, out=out), kind_of(2), kind_of(2, layout="C"))
    given = writable(x) if call.way == "njit" else x
    exact = norm.softmax(x)
    distance = x.max(-1, keepdims=True).astype(np.float64) - x
    bound = (distance + x.shape[-1] / 8 + 20) * 2.0**-24 * exact + 2.0**-124
    call.close(call.run(lambda: function(given, out)), exact, bound)


def activate(call: Call) -> None:
    """Of numbers of every exponent, infinities and NaN among them."""
    name, n = call.pick("gelu", "gelu_tanh", "silu"), call.size(16, 9)
    bits = call.rng.integers(0, 2**32, (call.pick(1, 3), n), dtype=np.uint32)
    values = bits.view(np.float32) if call.rng.random() < 0.5 else call.rng.uniform(-12, 12, bits.shape)
    x = call.laid_out("x", values.astype(np.float32))
    call.words.append(name)
    plain: dict[str, Callable[..., np.ndarray]] = {
        "gelu": lambda x, out: fk.gelu(x, out=out),
        "gelu_tanh": lambda x, out: fk.gelu(x, "tanh", out),
        "silu": lambda x, out: fk.silu(x, out=out),
    }
    function, given = plain[name], x
    if call.way == "njit":
        function, given = jitted(name, plain[name], kind_of(2), kind_of(2, layout="C")), writable(x)
    exact = gemm.activate(x.astype(np.float64), name)
    size = np.abs(exact)
    bound = 1e-6 * size + 3e-37 if name == "silu" else 1.2e-7 + 2.0**-24 * size
    call.close(call.run(lambda: function(given, call.out(*x.shape))), exact, bound)


def embed(call: Call) -> None:
    rows, width, length = max(1, call.size(8)), call.size(16, 5), call.size(8)
    table, positions = call.array("table", rows, width), call.array("positions", length + call.pick(0, 2), width)
    dtype = call.pick(np.int8, np.uint16, np.int32, np.int64)
    drawn = call.rng.integers(0, min(rows, 127), length).astype(dtype)
    tokens = call.laid_out("tokens", drawn)
    used = {"positions": positions} if call.way == "njit" or call.rng.random() < 0.5 else {}
    out = call.out(length, width)
    exact = table[tokens] + (positions[:length] if used else np.float32(0))
    if call.way == "njit":
        function = jitted("embedding", lambda t, table, positions, out: fk.embedding(t, table, positions, out))
        given = [np.ascontiguousarray(part) for part in (tokens.astype(np.int64), table, positions)]
        call.close(call.run(lambda: function(*given, out)), exact, 0.0)
    else:
        call.close(call.run(lambda: fk.embedding(tokens, table, out=out, **used)), exact, 0.0)


def rotate(call: Call) -> None:
    """A table of any width that the rows have, positions in any order, rows anywhere, with and without a norm."""
    lead, dim = call.pick((), (2,), (1, 2)), 2 * max(1, call.size(8, 5))
    if call.way == "njit":
        lead = (2,)
    x = call.array("x", *lead, 2, max(1, call.size(8)), dim, scale=call.pick(1e-3, 1.0, 30.0), favoured=("axes",))
    width, base = call.pick(dim, dim, 2 * ((dim + 3) // 4)), call.pick(1e4, 1e6)
    length = x.shape[-2] + call.pick(0, 7)
    places = call.laid_out("positions", call.rng.integers(0, length, (*lead, x.shape[-2])))
    parts = {"norm": call.array("norm", dim, scale=1.0), "positions": places}
    used = {name: part for name, part in parts.items() if call.way == "njit" or call.rng.random() < 0.6}
    interleaved, out = bool(call.rng.integers(2)), call.out(*x.shape, rows_apart=call.pick(0, 5))
    table = fk.rotary_table(length, width, base)
    call.words.append(f"width={width} base={base} interleaved={interleaved} {'+'.join(used)}")
    if call.way == "njit":
        if x.strides[3] != x.itemsize:
            x = np.ascontiguousarray(x)
        given = [writable(part) for part in (x, np.ascontiguousarray(places), used["norm"])]
        function = jitted(
            "rotary",
            lambda x, t, p, n, i, out: fk.rotary(x, table=t, positions=p, norm=n, interleaved=i, out=out),
            kind_of(4), numba.typeof(table), kind_of(2, numba.int64, "C"), kind_of(1), numba.boolean, kind_of(4),
        )  # fmt: skip
        result = call.run(lambda: function(given[0], table, given[1], given[2], interleaved, out))
    else:
        result = call.run(lambda: fk.rotary(x, table=table, interleaved=interleaved, out=out, **used))
    frequencies = base ** (-np.arange(0, width, 2) / width)
    exact = rotation.rotary(x, frequencies=frequencies, interleaved=interleaved, **used)
    size = norm.rms_norm(np.abs(x), np.abs(used["norm"])) if "norm" in used else np.abs(x).astype(np.float64)
    error = EPS[np.float32] * (6 + (dim / 8 + 8 if "norm" in used else 0))
    call.close(result, exact, error * sums_of_pairs(size, width, interleaved) + 1e-40)


def sums_of_pairs(size: np.ndarray, width: int, interleaved: bool) -> np.ndarray:
    """The two elements of each pair in the first `width`, added, at both places."""
    pairs = (slice(0, width, 2), slice(1, width, 2)) if interleaved else (slice(width // 2), slice(width // 2, width))
    sums = size.copy()
    for each in pairs:
        sums[..., each] = size[..., pairs[0]] + size[..., pairs[1]]
    return sums


def draw(call: Call) -> None:
    weights = call.rng.gamma(0.3, size=(max(1, call.size(16)), max(1, call.size(16, 5)))).astype(np.float32) + 1e-6
    p = call.laid_out("p", weights.astype(np.float32))
    seed, first = int(call.rng.integers(2**63)), int(call.rng.integers(2**40))
    out = call.out(len(p), dtype=np.int32)
    if call.way == "njit":
        function = jitted(
            "sample_categorical", lambda p, seed, first, out: fk.sample_categorical(p, seed, first, out=out),
            kind_of(2), numba.int64, numba.int64, kind_of(1, numba.int32, "C"),
        )  # fmt: skip
        result = call.run(lambda: function(writable(p), seed, first, out))
    else:
        result = call.run(lambda: fk.sample_categorical(p, seed, first, out=out))
    call.close(result, sampling.sample_categorical(p, seed, first), 0)


def draw_from_product(call: Call) -> None:
    """The greatest logit, within rounding; and at random, what each row draws alone, of adjacent elements."""
    call.way = "plain" if call.way == "njit" else call.way
    m, k, n = max(1, call.size(ROWS)), max(1, call.size(16, 8)), max(1, call.size())
    x, weight = call.array("x", m, k, scale=1.0), call.array("weight", n, k, scale=1.0)
    bias = call.array("bias", n, scale=1.0) if call.rng.random() < 0.5 else None
    stored, columns = call.pick("float32", "bfloat16"), int(call.rng.integers(1, n + 1))
    packed, law = fk.pack(weight, stored), Law(sharpness=call.pick(1.0, np.inf))
    streams = call.rng.integers(0, 2**40, m)
    call.words.append(f"{stored} columns={columns} sharpness={law.sharpness}")
    arguments: dict[str, Any] = {"law": law, "seed": 7, "columns": columns}
    result = call.run(
        lambda: fk.sample_linear(
            x, packed, bias, **arguments, streams=streams, out=call.out(m, dtype=np.int32)
        )
    )  # fmt: skip
    row = int(call.rng.integers(m))
    alone = fk.sample_linear(x[row : row + 1].copy(), packed, bias, **arguments, streams=streams[row : row + 1])
    require(alone[0] == result[row] and result.min() >= 0 and result.max() < columns, f"row {row} alone: {alone}")
    if law.sharpness == np.inf:
        logits = gemm.linear(x, weight, bias)[:, :columns]
        size = np.abs(x.astype(np.float64)) @ np.abs(weight.T.astype(np.float64))
        size += 0 if bias is None else np.abs(bias)
        error = ((k + 4) * EPS[np.float32] + (BFLOAT16 if stored == "bfloat16" else 0)) * size.max(1)
        chosen = np.take_along_axis(logits, result[:, None].astype(np.int64), 1)[:, 0]
        require(bool((chosen >= logits.max(1) - 2 * error - 1e-30).all()), "not the greatest logit")


KERNELS = (
    matmul, matmul, strassen, strassen, strassen, linear, linear, linear, gated, attend, layer_norm, rms_norm, softmax,
    grouped, grouped, activate, embed, rotate, draw, draw_from_product,
)  # fmt: skip


def failure_of(number: int, njit: bool) -> str | None:
    """Make the call of that number; one line if anything is wrong with it."""
    call = Call(number, njit)
    kernel = call.pick(*KERNELS)
    limits = Limits(tiles=call.pick(1, 2, 32), depth=call.pick(8, 32, 1024, 1024))
    threads = fk.get_num_threads()
    fk.set_num_threads(call.pick(1, threads))
    try:
        with use(limits), np.errstate(over="ignore", invalid="ignore"):
            kernel(call)
            call.check_memory()
    except Exception as error:  # whatever goes wrong is told with its number
        words = " ".join(f"{type(error).__name__}: {error}".split())
        flag = "" if njit else " --no-njit"
        return f"{kernel.__name__}({'; '.join(call.words)}; {limits}): {words}   [--first {number} --count 1{flag}]"
    finally:
        fk.set_num_threads(threads)
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--no-njit", dest="njit", action="store_false", help="no calls from njit functions")
    parser.add_argument("--trace", action="store_true", help="print each number before its call")
    options = parser.parse_args()
    failures = 0
    for number in range(options.first, options.first + options.count):
        if options.trace:
            print(number, flush=True)
        failure = failure_of(number, options.njit)
        if failure is not None:
            failures += 1
            print(failure, flush=True)
        if failures == 20:
            break
    print(f"{options.count} calls on {fk.cpu_info().isa}, {failures} wrong", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
