"""Rotary positions, alone and with the norm before them, against float64 and against transformers' modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fastsedd_kernels as fk
import numpy as np
import pytest
from fastsedd_kernels.norm.rates import MAX_ROWS
from fastsedd_kernels.rotary import reference
from fastsedd_kernels.simd.vector import LANES
from kernel_arrays import normal, poisoned

EPS = float(np.finfo(np.float32).eps)
BASE = 1e6


def frequencies(width: int) -> np.ndarray:
    return BASE ** (-np.arange(0, width, 2) / width)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("half", [*range(1, 2 * LANES + 2), 3 * LANES - 1, 4 * LANES, 5 * LANES + 3])
def test_every_width(half: int, interleaved: bool) -> None:
    table, places = fk.rotary_table(50, 2 * half, BASE), np.array([7, 49, 0])
    for rest in (0, 2, LANES, 2 * LANES + 2):
        x, norm = normal(rest, 2, 3, 2 * half + rest), normal(1, 2 * half + rest)
        for given in ({}, {"norm": norm}, {"norm": norm, "eps": 1e-3, "offset": 1.0}):
            result = fk.rotary(
                x, table=table, positions=places, interleaved=interleaved, out=poisoned(*x.shape), **given
            )
            exact = reference.rotary(
                x, frequencies=frequencies(2 * half), positions=places, interleaved=interleaved, **given
            )
            assert np.abs(result - exact).max() <= EPS * (x.shape[-1] / 8 + 8) * np.abs(exact).max()
        if rest:
            np.testing.assert_array_equal(fk.rotary(x, table=table)[..., 2 * half :], x[..., 2 * half :])


ARRANGED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "as they lie": lambda x: x,
    "heads first": lambda x: x.transpose(0, 2, 1, 3),
    "a part of a projection": lambda x: x[:, :, 1:3].transpose(0, 2, 1, 3),
    "backwards": lambda x: x[::-1, ::-1, ::-1],
    "parts of rows": lambda x: x[..., 3:21],
    "columns": lambda x: x.transpose(3, 1, 0, 2)[..., :4],
    "one sequence": lambda x: x[1],
    "five dimensions": lambda x: x.transpose(0, 2, 1, 3).reshape(2, 2, 2, 7, 24)[:, ::-1],
}


@pytest.mark.parametrize("arranged", ARRANGED)
def test_rows_wherever_they_lie(arranged: str) -> None:
    x = ARRANGED[arranged](normal(0, 2, 7, 4, 24))
    norm, table = normal(1, x.shape[-1]), fk.rotary_table(40, x.shape[-1], BASE)
    places = np.random.default_rng(0).integers(0, 40, (*x.shape[:-3], x.shape[-2]))
    expected = reference.rotary(x, frequencies=frequencies(x.shape[-1]), positions=places, norm=norm)
    result = fk.rotary(x, table=table, positions=places, norm=norm)
    np.testing.assert_allclose(result, expected, atol=1e-5)
    if arranged != "columns":
        assert fk.rotary(x, out=x, table=table, positions=places, norm=norm) is x
        np.testing.assert_array_equal(x, result)


@pytest.mark.parametrize("heads", [1, MAX_ROWS - 1, MAX_ROWS, MAX_ROWS + 1, 3 * MAX_ROWS])
def test_rates_of_any_number_of_rows(heads: int, one_thread: Callable[[], Any]) -> None:
    for dim in (2, 128, 1030, 4100):
        x, norm = normal(heads, heads, 3, dim), normal(1, dim)
        result = fk.rotary(x, norm=norm)
        np.testing.assert_allclose(result, reference.rotary(x, norm=norm), atol=2e-5)
        np.testing.assert_array_equal(fk.rotary(x[heads // 2 :], norm=norm), result[heads // 2 :])
        with one_thread():
            np.testing.assert_array_equal(fk.rotary(x, norm=norm), result)


def test_positions() -> None:
    x, table = normal(0, 3, 2, 5, 8), fk.rotary_table(20, 8)
    every = fk.rotary(np.broadcast_to(x[:1, :, :1], (1, 2, 20, 8)), table=table)
    places = np.random.default_rng(0).integers(0, 20, (3, 5))
    for dtype in (np.int8, np.uint16, np.int64):
        given = places.astype(dtype)
        same = np.broadcast_to(x[:1, :, :1], x.shape)
        for b in range(3):
            found = fk.rotary(same, table=table, positions=given)[b]
            np.testing.assert_array_equal(found, every[0][:, places[b]])
    for shape in ((5,), (1, 5), (3, 1), (1, 1)):
        given = places[: shape[0], : shape[1]] if len(shape) == 2 else places[0]
        whole = np.broadcast_to(given, (3, 5))
        np.testing.assert_array_equal(
            fk.rotary(x, table=table, positions=given), fk.rotary(x, table=table, positions=whole)
        )
    np.testing.assert_array_equal(fk.rotary(x, table=table), fk.rotary(x))
    np.testing.assert_array_equal(fk.rotary(x, table=table, positions=np.arange(5)), fk.rotary(x))


def test_a_replay_checks_its_positions_again() -> None:
    x, table, places, out = normal(0, 2, 5, 8), fk.rotary_table(6, 8), np.arange(5), poisoned(2, 5, 8)
    recording = fk.record(lambda: fk.rotary(x, table=table, positions=places, out=out))
    places[...] = 5
    recording.replay()
    np.testing.assert_array_equal(out, fk.rotary(x, table=table, positions=np.full(5, 5)))
    places[2] = 6
    with pytest.raises(ValueError, match="positions has 6, allowed: 0 to 5"):
        recording.replay()


def test_values_that_are_not_finite_stay_in_their_row() -> None:
    x = normal(0, 1, 4, 16)
    x[0, 1, 3], x[0, 2, 5] = np.nan, np.inf
    result = fk.rotary(x)
    assert np.isfinite(result[0, [0, 3]]).all()
    np.testing.assert_array_equal(np.isfinite(result[0, 1:3]).sum(-1), [14, 14])
    assert np.isnan(fk.rotary(x, norm=np.ones(16, np.float32))[0, 1]).all()


def test_empty_arrays() -> None:
    for shape in ((2, 0, 4), (0, 3, 4), (2, 3, 0), (0, 2, 3, 4)):
        assert fk.rotary(np.empty(shape, np.float32)).shape == shape


def config_of(kind: str, dim: int, **numbers: Any) -> Any:
    llama = pytest.importorskip("transformers.models.llama.configuration_llama")
    rope = {"rope_type": kind, "rope_theta": BASE, **numbers}
    return llama.LlamaConfig(head_dim=dim, rope_parameters=rope, max_position_embeddings=8192)


SCALINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "linear": ("linear", {"factor": 4.0}),
    "llama3": (
        "llama3",
        {
            "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    ),
    "yarn": ("yarn", {"factor": 4.0, "original_max_position_embeddings": 32768}),
    "yarn with its options": (
        "yarn",
        {
            "factor": 40.0, "original_max_position_embeddings": 4096, "beta_fast": 30, "beta_slow": 2, "mscale": 1.0,
            "mscale_all_dim": 0.7,
        },
    ),
    "yarn with a factor": (
        "yarn",
        {"factor": 2.5, "original_max_position_embeddings": 2048, "attention_factor": 1.25, "truncate": False},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SCALINGS)
@pytest.mark.parametrize("dim", [64, 128])
def test_scalings_are_those_of_transformers(name: str, dim: int) -> None:
    rope = pytest.importorskip("transformers.modeling_rope_utils")
    kind, numbers = SCALINGS[name]
    inverse, factor = rope.ROPE_INIT_FUNCTIONS[kind](config_of(kind, dim, **numbers))
    table = fk.rotary_table(512, dim, BASE, {"rope_type": kind, **numbers})
    angles = np.arange(512)[:, None] * inverse.numpy().astype(np.float64)
    for found, exact in zip(table, (np.cos(angles), np.sin(angles)), strict=True):
        np.testing.assert_allclose(found, factor * exact, atol=1e-4)  # of their frequencies in float32
    older = fk.rotary_table(512, dim, BASE, {"type": kind, "rope_theta": BASE, **numbers})
    np.testing.assert_array_equal(older.cosines, table.cosines)


def test_the_default_is_no_scaling() -> None:
    table = fk.rotary_table(9, 8)
    angles = np.arange(9)[:, None] * 10000.0 ** (-np.arange(4) / 4)
    np.testing.assert_array_equal(table.cosines, np.cos(angles).astype(np.float32))
    np.testing.assert_array_equal(table.sines, np.sin(angles).astype(np.float32))
    np.testing.assert_array_equal(fk.rotary_table(9, 8, scaling={"rope_type": "default"}).sines, table.sines)
    assert not table.cosines.flags.writeable


def test_queries_of_qwen3() -> None:
    torch, qwen = pytest.importorskip("torch"), pytest.importorskip("transformers.models.qwen3.modeling_qwen3")
    rng = np.random.default_rng(0)
    x, weight = normal(0, 2, 9, 4, 32), normal(1, 32)
    places = rng.integers(0, 100, (2, 9))
    config = qwen.Qwen3Config(head_dim=32, rope_parameters={"rope_type": "default", "rope_theta": BASE})
    norm = qwen.Qwen3RMSNorm(32, eps=1e-6)
    with torch.no_grad():
        norm.weight.copy_(torch.from_numpy(weight))
        q = norm(torch.from_numpy(x)).transpose(1, 2)
        cosines, sines = qwen.Qwen3RotaryEmbedding(config)(q, torch.from_numpy(places))
        expected, _ = qwen.apply_rotary_pos_emb(q, q, cosines, sines)
    table = fk.rotary_table(100, 32, BASE)
    found = fk.rotary(x.transpose(0, 2, 1, 3), table=table, positions=places, norm=weight)
    np.testing.assert_allclose(found, expected.numpy(), atol=2e-5)


def test_neighbours_of_gpt_j_and_a_partial_width() -> None:
    torch, gptj = pytest.importorskip("torch"), pytest.importorskip("transformers.models.gptj.modeling_gptj")
    x = normal(0, 2, 9, 4, 32)
    sines, cosines = gptj.create_sinusoidal_positions(9, 16).split(8, dim=-1)
    turned = gptj.apply_rotary_pos_emb(torch.from_numpy(x[..., :16]), sines[None], cosines[None])
    expected = np.concatenate((turned.numpy(), x[..., 16:]), -1)
    found = fk.rotary(x.transpose(0, 2, 1, 3), table=fk.rotary_table(9, 16), interleaved=True)
    np.testing.assert_allclose(found.transpose(0, 2, 1, 3), expected, atol=1e-5)


X = np.ones((2, 3, 8), np.float32)
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "an odd dim": ({"x": X[..., :7]}, "x has shape"),
    "a base": ({"base": 0}, "base is 0"),
    "positions without a table": ({"positions": [0, 1, 2]}, "positions need a table"),
    "positions of another length": ({"positions": [0, 1]}, "positions has shape"),
    "a position": ({"positions": [0, 1, 9]}, "positions has 9, allowed: 0 to 8"),
    "positions that are no integers": ({"positions": [0.0, 1.0, 2.0]}, "positions is float64"),
    "a table that is too short": ({"table": fk.rotary_table(2, 8)}, "table has 2 positions"),
    "a table that is too wide": ({"table": fk.rotary_table(3, 10)}, "table has"),
    "no table": ({"table": X}, "table is of type ndarray"),
    "a norm": ({"norm": np.ones(4, np.float32)}, "norm has shape"),
    "a flag": ({"interleaved": "yes"}, "interleaved is of type str"),
    "an out": ({"out": poisoned(2, 8, 3).transpose(0, 2, 1)}, "out must have adjacent"),
    "an out that is the norm": ({"norm": X[0, 0], "x": X.copy(), "out": X}, "out overlaps norm"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses(name: str) -> None:
    arguments, words = REFUSED[name]
    if words.startswith(("positions has", "positions is")):
        arguments = {"table": fk.rotary_table(9, 8), **arguments}
    with pytest.raises(ValueError, match=words):
        fk.rotary(**{"x": X, **arguments})


YARN = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 64}
REFUSED_TABLES: dict[str, tuple[dict[str, Any], str]] = {
    "a length": ({"length": 0}, "length is 0"),
    "a dim": ({"dim": 7}, "dim is 7"),
    "a size": ({"length": 1 << 30}, "dim is 8"),
    "no mapping": ({"scaling": 2.0}, "scaling is of type float"),
    "a kind": ({"scaling": {"rope_type": "dynamic", "factor": 2.0}}, "rope_type 'dynamic', allowed: 'default'"),
    "a missing number": ({"scaling": {"rope_type": "linear"}}, "lacks or does not know 'factor'"),
    "an unknown number": ({"scaling": {**YARN, "alpha": 1.0}}, "lacks or does not know 'alpha'"),
    "a factor": ({"scaling": {**YARN, "factor": 0}}, r"scaling\['factor'\] is 0"),
    "a word": ({"scaling": {**YARN, "beta_fast": "32"}}, r"scaling\['beta_fast'\] is of type str"),
    "another base": ({"scaling": {**YARN, "rope_theta": 5e5}}, "rope_theta 500000.0, but base is 10000.0"),
    "factors the wrong way round": (
        {
            "scaling": {
                "rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 1,
                "original_max_position_embeddings": 64,
            }
        },
        "above low_freq_factor",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED_TABLES)
def test_tables_refuse(name: str) -> None:
    arguments, words = REFUSED_TABLES[name]
    with pytest.raises(ValueError, match=words):
        fk.rotary_table(**{"length": 4, "dim": 8, **arguments})
