"""Draws from a product that is not kept: step by step, in distribution, and whatever the others in the call are."""

from __future__ import annotations

import math
import platform
from typing import Any

import fastsedd_kernels as fk
import numpy as np
import pytest
from fastsedd_kernels.gemm.dot_products import COLUMNS
from fastsedd_kernels.sampling import reference
from kernel_arrays import poisoned
from other_cpus import LESSER, Kernels
from processes import run_together

NR = COLUMNS[np.dtype(np.float32)]
DEPTH = 24

ROWS, SEED = 70, 2**40 + 7
STREAMS = np.arange(2**33, 2**33 + ROWS)

# By what they exercise; of N columns. A is of order N.
LAWS: dict[str, Any] = {
    "jump": lambda n: fk.Law(),
    "scaled": lambda n: fk.Law(log_scale=-3.0, stay=0.1 * n, slope=1.0),
    "stay or jump": lambda n: fk.Law(stay=4.0 * n, slope=1.0),
    "stay not less for the scores": lambda n: fk.Law(stay=0.0, slope=-0.5),
    "sharpened": lambda n: fk.Law(stay=4.0 * n, slope=1.0, sharpness=1.7),
    "flattened": lambda n: fk.Law(sharpness=0.4),
    "floor": lambda n: fk.Law(floor=0.6 / n, stay=0.3 * n, slope=0.1),
    "floor, sharpened": lambda n: fk.Law(floor=0.6 / n, stay=0.3 * n, sharpness=1.7),
    "relative": lambda n: fk.Law(stay=2.0, relative=1.0),
    "relative, sharpened": lambda n: fk.Law(log_scale=0.3, stay=0.7 * n, slope=0.1, sharpness=1.7, relative=1.0),
    "greatest": lambda n: fk.Law(stay=2.0 * n, slope=1.0, sharpness=math.inf),
}


def operands(columns: int, rows: int = ROWS, spread: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x [rows, DEPTH], weight [columns, DEPTH] and bias [columns], of logits of order `spread`."""
    rng = np.random.default_rng(columns)
    weight = rng.standard_normal((columns, DEPTH), np.float32) * np.float32(spread / math.sqrt(DEPTH))
    return rng.standard_normal((rows, DEPTH), np.float32), weight, rng.standard_normal(columns, np.float32) / 4


@pytest.mark.parametrize("columns", [1, 2, NR - 1, NR, NR + 1, 2 * NR + 1, 5 * NR + 17])
@pytest.mark.parametrize("name", LAWS)
def test_draws_are_those_of_the_reference(columns: int, name: str) -> None:
    """In float64 and step by step: a distribution that differed would make some of these draws differ."""
    law = LAWS[name](columns)
    x, weight, bias = operands(columns)
    current = np.random.default_rng(0).integers(-1, columns + 1, ROWS).astype(np.int32)
    if columns == 1:
        current[:] = -1
    packed = fk.pack(weight)
    out = np.full(ROWS, -7, np.int32)
    sums = poisoned(fk.sums_needed(packed, ROWS))
    drawn = fk.sample_linear(
        x, packed, bias, law=law, seed=SEED, streams=STREAMS, current=current, sums=sums, out=out
    )  # fmt: skip
    assert drawn is out
    logits = x.astype(np.float64) @ weight.T + bias
    if law.sharpness == math.inf:
        probabilities = reference.law_probabilities(logits, current, law)
        best = probabilities[:, :-1].argmax(axis=-1)
        assert ((drawn == best) | (drawn == current)).all()
    else:
        expected = reference.sample_law(logits, current, law, SEED, STREAMS)
        # A float32 logit moves a boundary by some eps: among so few draws hardly one lies between the two.
        assert (drawn != expected).mean() <= 0.02


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("own", [-1, 5])
def test_distribution(name: str, own: int) -> None:
    columns, n = 2 * NR + 5, 60_000
    law = LAWS[name](columns)
    x, weight, bias = operands(columns, 1, spread=2.0)
    current = np.full(n, own, np.int32)
    drawn = fk.sample_linear(
        np.repeat(x, n, axis=0), fk.pack(weight), bias, law=law, seed=3, streams=np.arange(n), current=current
    )  # fmt: skip
    probabilities = reference.law_probabilities(x.astype(np.float64) @ weight.T + bias, current[:1], law)[0]
    counts = np.bincount(drawn, minlength=columns + 1)[: columns + 1] if own >= 0 else None
    if counts is None:
        with_stay = np.where(drawn < 0, columns, drawn)
        counts = np.bincount(with_stay, minlength=columns + 1)
    else:
        counts[-1], counts[own] = counts[own], 0
    assert not counts[probabilities == 0.0].any()
    large = n * probabilities > 5.0
    expected = n * probabilities[large]
    statistic = float(((counts[large] - expected) ** 2 / expected).sum())
    freedom = max(1, int(large.sum()) - 1)
    spread = 2.0 / (9.0 * freedom)
    # Wilson and Hilferty: one chance in ten thousand.
    assert statistic < freedom * (1.0 - spread + 3.72 * math.sqrt(spread)) ** 3


@pytest.mark.parametrize("name", ["floor", "floor, sharpened"])
def test_the_sweep_draws_where_rejection_is_hopeless(name: str) -> None:
    """A floor that leaves a ten-thousandth of the mean; and rows whose every score is nearly the same."""
    columns, n = NR + 3, 20_000
    law = LAWS[name](columns)._replace(floor=0.9999 / columns, stay=0.05, slope=0.0)
    x, weight, _ = operands(columns, 1, spread=1e-2)
    own = np.zeros(n, np.int32)
    drawn = fk.sample_linear(
        np.repeat(x, n, axis=0), fk.pack(weight), law=law, seed=4, streams=np.arange(n), current=own
    )  # fmt: skip
    probabilities = reference.law_probabilities(x.astype(np.float64) @ weight.T, own[:1], law)[0]
    expected = n * probabilities[:-1]
    expected[0] = n * probabilities[-1]
    counts = np.bincount(drawn, minlength=columns)
    assert (np.abs(counts - expected) <= 5.0 * np.sqrt(expected) + 5.0).all()


@pytest.mark.parametrize("name", LAWS)
def test_a_draw_depends_on_its_own_row_alone(name: str, one_thread) -> None:
    columns = 3 * NR + 1
    law, (x, weight, bias) = LAWS[name](columns), operands(columns)
    current = np.random.default_rng(1).integers(-1, columns, ROWS).astype(np.int32)
    packed = fk.pack(weight)

    def draw(rows: Any, seed: Any = SEED) -> np.ndarray:
        return fk.sample_linear(
            x[rows], packed, bias, law=law, seed=seed, streams=STREAMS[rows], current=current[rows]
        )  # fmt: skip

    whole = draw(slice(None))
    np.testing.assert_array_equal(draw(slice(10, 11)), whole[10:11])
    order = np.random.default_rng(1).permutation(ROWS)
    np.testing.assert_array_equal(draw(order), whole[order])
    with one_thread():
        np.testing.assert_array_equal(draw(slice(None)), whole)
    if law.sharpness != math.inf:
        assert (draw(slice(None), seed=1) != whole).any()
    seeds = np.arange(ROWS, dtype=np.uint64) % np.uint64(3) + np.uint64(2**63)
    each = [draw(slice(row, row + 1), seed=int(seeds[row]))[0] for row in range(ROWS)]
    np.testing.assert_array_equal(draw(slice(None), seed=seeds), each)


def test_only_the_first_columns_are_drawn_from() -> None:
    x, weight, bias = operands(2 * NR)
    packed, law = fk.pack(weight), fk.Law(stay=10.0, slope=1.0)
    for columns in (1, NR, NR + 1, 2 * NR):
        drawn = fk.sample_linear(x, packed, bias, law=law, seed=5, streams=STREAMS, columns=columns)
        alone = fk.sample_linear(
            x, fk.pack(weight[:columns]), bias[:columns], law=law, seed=5, streams=STREAMS
        )  # fmt: skip
        np.testing.assert_array_equal(drawn, alone)
        assert drawn.max() < columns


def test_bfloat16_weights() -> None:
    x, weight, bias = operands(2 * NR + 3)
    packed = fk.pack(weight, "bfloat16")
    logits = fk.linear(x, packed, bias).astype(np.float64)
    drawn = fk.sample_linear(x, packed, bias, law=fk.Law(), seed=6, streams=STREAMS)
    expected = reference.sample_law(logits, np.full(ROWS, -1), fk.Law(), 6, STREAMS)
    assert (drawn != expected).mean() <= 0.02


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rows_of_any_strides(dtype: str) -> None:
    x, weight, bias = operands(2 * NR + 5)
    packed, streams = fk.pack(weight, dtype), np.arange(len(x))
    arguments: dict[str, Any] = {"law": fk.Law(), "seed": 3, "streams": streams}
    expected = fk.sample_linear(x, packed, bias, **arguments)
    wide = np.full((2 * len(x), 3 * x.shape[1]), np.nan, np.float32)
    wide[::2, ::3] = x
    for same in (np.asfortranarray(x), wide[::2, ::3], np.ascontiguousarray(x[:, ::-1])[:, ::-1]):
        np.testing.assert_array_equal(fk.sample_linear(same, packed, bias, **arguments), expected)


def test_a_product_of_many_slabs_is_the_same() -> None:
    rng = np.random.default_rng(7)
    x, weight = rng.standard_normal((9, 3000), np.float32), rng.standard_normal((NR + 2, 3000), np.float32) / 50
    drawn = fk.sample_linear(x, fk.pack(weight), law=fk.Law(), seed=7, streams=np.arange(9))
    logits = x.astype(np.float64) @ weight.T
    expected = reference.sample_law(logits, np.full(9, -1), fk.Law(), 7, np.arange(9))
    np.testing.assert_array_equal(drawn, expected)


def test_scores_too_large_or_too_small_for_a_float_are_drawn_from() -> None:
    x = np.array([[1.0], [-1.0]], np.float32)
    weight = np.array([[900.0], [901.0], [0.0]], np.float32)
    law = fk.Law(stay=1.0, slope=1.0)
    drawn = fk.sample_linear(x, fk.pack(weight), law=law, seed=1, streams=np.arange(2))
    assert drawn[0] in (0, 1)
    far = fk.sample_linear(x[1:] * 5, fk.pack(weight[:2]), law=fk.Law(), seed=1, streams=np.array([3]))
    assert far[0] == 0  # e^-4500 against e^-4505


def test_a_replay_reads_law_seed_and_streams_again() -> None:
    x, weight, bias = operands(NR + 1)
    packed, streams = fk.pack(weight), STREAMS.astype(np.uint64)
    law, seed, out = np.array(fk.Law()), np.array([1], np.uint64), np.empty(ROWS, np.int32)
    recording = fk.record(
        lambda: fk.sample_linear(x, packed, bias, law=law, seed=seed, streams=streams, out=out)
    )  # fmt: skip
    for stay, number in ((0.0, 2), (50.0, 3)):
        law[2], seed[0] = stay, number
        streams += np.uint64(ROWS)
        recording.replay()
        expected = fk.sample_linear(x, packed, bias, law=fk.Law(stay=stay), seed=number, streams=streams)
        np.testing.assert_array_equal(out, expected)
    law[4] = 2.0  # whose sums the recording does not make
    with pytest.raises(ValueError, match="no positive weight"):
        recording.replay()


def test_uniform_numbers_are_the_references() -> None:
    streams = np.arange(2**40, 2**40 + 9000)
    numbers = fk.uniform(9, streams.reshape(3, -1)).reshape(-1)
    assert [reference.uniform_number(9, int(s), 0) for s in streams[:20]] == numbers[:20].tolist()
    seeds = np.arange(9000, dtype=np.uint64)
    own = [reference.uniform_number(int(seed), int(s), 0) for seed, s in zip(seeds[-20:], streams[-20:], strict=True)]
    assert fk.uniform(seeds.reshape(3, -1), streams.reshape(3, -1)).reshape(-1)[-20:].tolist() == own
    assert numbers.min() >= 0.0 and numbers.max() < 1.0
    assert abs(numbers.mean() - 0.5) < 5.0 / math.sqrt(12 * numbers.size)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"x": np.ones((3, 5), np.float32)}, "x has shape"),
        ({"x": np.full((3, 4), np.nan, np.float32)}, "no positive weight in row 0"),
        ({"weight": fk.pack(np.ones((6, 4), np.float32), "int8")}, "packed as int8"),
        ({"bias": np.ones(5, np.float32)}, "bias has shape"),
        ({"columns": 7}, "columns is 7"),
        ({"columns": 0}, "columns is 0"),
        ({"current": np.zeros(2, np.int32)}, "current is"),
        ({"streams": np.arange(4)}, "streams is"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": np.array([1])}, "seed is int64"),
        ({"seed": np.zeros(2, np.uint64)}, "seed is uint64"),
        ({"law": np.ones(4)}, "law has shape"),
        ({"sums": np.empty(3, np.float32)}, "sums has 3 values"),
    ],
)
def test_refusals(arguments: dict, words: str) -> None:
    good = {
        "x": np.ones((3, 4), np.float32), "weight": fk.pack(np.ones((6, 4), np.float32)), "law": fk.Law(), "seed": 0,
        "streams": np.arange(3),
    }  # fmt: skip
    with pytest.raises(ValueError, match=words):
        fk.sample_linear(**{**good, **arguments})


DRAWS = """
import math
import numpy as np
import fastsedd_kernels as fk

columns, rows = 131, 3000
rng = np.random.default_rng(0)
x, weight = rng.integers(-8, 9, (rows, 24)).astype(np.float32), rng.integers(-8, 9, (columns, 24)).astype(np.float32)
weight /= 256  # every product is exact: whoever adds in whatever order has the same logits
current = rng.integers(-1, columns, rows).astype(np.int32)
n = columns
for law in (
    fk.Law(), fk.Law(stay=4.0 * n, slope=1.0), fk.Law(stay=4.0 * n, sharpness=1.7), fk.Law(floor=0.6 / n, stay=0.3 * n),
    fk.Law(floor=0.9999 / n, stay=0.05), fk.Law(floor=0.9999 / n, stay=0.05, sharpness=1.7),
    fk.Law(floor=0.6 / n, stay=0.3 * n, sharpness=1.7), fk.Law(sharpness=math.inf),
):
    for dtype in ("float32", "bfloat16"):
        packed = fk.pack(weight, dtype)
        drawn = fk.sample_linear(x, packed, law=law, seed=5, streams=np.arange(rows), current=current)
        print(*drawn)
"""


def test_draws_do_not_depend_on_the_instruction_set(kernels_of_other_cpus: Kernels) -> None:
    """Nor on the width of panels with it: 48, 16, 12 or 8 columns. Sums round otherwise, which hardly one draw sees."""
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("names of x86-64 CPUs")
    targets: list[dict[str, str]] = [{}]
    for name in LESSER:
        cache = kernels_of_other_cpus.cache(name)
        targets.append({"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": "", "FASTSEDD_CACHE_DIR": cache})
    own, *others = (printed.split("\n") for printed in run_together([(DRAWS, target) for target in targets]))
    for other in others:
        for one, two in zip(own, other, strict=True):
            draws, theirs = np.array(one.split(), int), np.array(two.split(), int)
            assert (draws != theirs).mean() <= 1e-3 if draws.size else not theirs.size


@pytest.mark.parametrize("columns", [8, 3 * NR + 5])
def test_a_sharpness_may_be_anything(columns: int) -> None:
    """Draws take the greatest from 1e30 on and are nearly even close to 0; what is not above 0 is refused by name."""
    x, weight, bias = operands(columns)
    packed = fk.pack(weight)

    def drawn(sharpness: float, **others: Any) -> np.ndarray:
        law = fk.Law(sharpness=sharpness, **others)
        return fk.sample_linear(x, packed, bias, law=law, seed=SEED, streams=STREAMS)

    greatest = (x @ weight.T + bias).argmax(axis=1)
    for sharpness in (1e29, 1e30, 1e39, 1e300, math.inf):
        np.testing.assert_array_equal(drawn(sharpness), greatest)
    for sharpness in (1e-50, 1e-30, 5e-324):
        few = drawn(sharpness)
        assert few.min() >= 0 and few.max() < columns and len(np.unique(few)) > min(columns, 20) // 2
    for sharpness in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="has no positive weight in row 0"):
            drawn(sharpness)
        with pytest.raises(ValueError, match="has no positive weight in row 0"):
            drawn(sharpness, floor=0.6 / columns)


def test_outputs_that_overlap_inputs_are_refused() -> None:
    x, weight, bias = operands(100)
    packed = fk.pack(weight)
    numbers = np.random.default_rng(0).integers(0, 100, ROWS + 1).astype(np.int32)
    arguments: dict[str, Any] = {"law": fk.Law(stay=3.0), "seed": SEED, "streams": STREAMS}
    with pytest.raises(ValueError, match="out overlaps current"):
        fk.sample_linear(x, packed, bias, current=numbers[:-1], out=numbers[1:], **arguments)
    sums = np.zeros(max(x.size, fk.sums_needed(packed, ROWS)), np.float32)
    inside = sums[: x.size].reshape(x.shape)
    inside[...] = x
    with pytest.raises(ValueError, match="sums overlaps x"):
        fk.sample_linear(inside, packed, bias, sums=sums, **arguments)
    itself = numbers[:-1].copy()
    expected = fk.sample_linear(x, packed, bias, current=itself.copy(), **arguments)
    np.testing.assert_array_equal(fk.sample_linear(x, packed, bias, current=itself, out=itself, **arguments), expected)
