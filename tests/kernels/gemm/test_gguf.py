"""Blocks of GGUF files, bit for bit as the gguf package reads them, and multiplied."""

from __future__ import annotations

from typing import Any

import fastsedd_kernels as fk
import numpy as np
import pytest
from group_scaled_weights import assert_product
from kernel_arrays import normal, poisoned

BYTES = {"Q4_0": 18, "Q4_1": 20, "Q8_0": 34, "Q4_K": 144}
INPUTS = {"Q4_0": 32, "Q4_1": 32, "Q8_0": 32, "Q4_K": 256}
every_type = pytest.mark.parametrize("name", BYTES)


def random_blocks(name: str, outputs: int, count: int, seed: int = 0) -> np.ndarray:
    """Any bytes, but for halves, which are finite numbers of any size and sign."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (outputs, count, BYTES[name]), np.uint8)
    halves = 2 if name in ("Q4_1", "Q4_K") else 1
    exponents = rng.integers(-24, 3, (outputs, count, halves))  # subnormal ones, too
    values = (rng.uniform(-2, 2, exponents.shape) * 2.0**exponents).astype(np.float16)
    blocks[..., : 2 * halves] = values.view(np.uint8)
    return blocks


@every_type
def test_values_are_those_of_the_gguf_package(name: str) -> None:
    gguf = pytest.importorskip("gguf")
    kind = gguf.GGMLQuantizationType[name]
    for outputs, count in ((1, 1), (37, 9), (130, 3)):
        blocks = random_blocks(name, outputs, count)
        shape = outputs, count * INPUTS[name]
        expected = gguf.quants.dequantize(blocks.reshape(outputs, -1), kind)
        for given in (blocks, blocks.tobytes(), memoryview(blocks.reshape(-1)), np.asfortranarray(blocks)):
            for named in (name, kind, int(kind)):
                values = fk.unpack(fk.pack_gguf(given, named, shape))
                np.testing.assert_array_equal(values.view(np.uint32), expected.view(np.uint32))


@every_type
def test_products(name: str) -> None:
    for outputs, count in ((1, 1), (70, 9)):
        shape = outputs, count * INPUTS[name]
        packed = fk.pack_gguf(random_blocks(name, outputs, count), name, shape)
        assert packed.dtype == ("int8g" if name == "Q8_0" else "int4") and packed.shape == shape
        for rows in (1, 3, 20):
            x = normal(rows, rows, shape[1])
            assert_product(fk.linear(x, packed, out=poisoned(rows, outputs)), x, packed)


@every_type
def test_pairs(name: str) -> None:
    blocks, shape = [random_blocks(name, 40, 2, seed) for seed in (0, 1)], (40, 2 * INPUTS[name])
    x = normal(0, 5, shape[1]) / 100
    gate, up = (fk.pack_gguf(each, name, shape) for each in blocks)
    result = fk.linear(x, fk.pack_gguf(blocks, name, shape), activation="silu")
    np.testing.assert_array_equal(result, fk.linear(x, gate, activation="silu") * fk.linear(x, up))


@pytest.mark.parametrize(("name", "dtype", "minimum"), [("Q4_0", "int4", False), ("Q4_1", "int4", True)])
def test_weights_are_rounded_as_ggml_rounds_them(name: str, dtype: str, minimum: bool) -> None:
    """All but the codes that its rounding, by the scale before that is a float16, puts on the other side of a tie."""
    gguf = pytest.importorskip("gguf")
    weight = normal(0, 64, 512)
    blocks = gguf.quants.quantize(weight, gguf.GGMLQuantizationType[name])
    ours, theirs = fk.unpack(fk.pack(weight, dtype, minimum=minimum)), fk.unpack(fk.pack_gguf(blocks, name, (64, 512)))
    assert (ours == theirs).mean() > 0.995
    assert np.linalg.norm(ours - weight) <= np.linalg.norm(theirs - weight)


def test_memory() -> None:
    for name, bits in (("Q4_0", 4.5), ("Q4_1", 5.0), ("Q8_0", 8.5), ("Q4_K", 4.625)):
        packed = fk.pack_gguf(random_blocks(name, 192, 4), name, (192, 4 * INPUTS[name]))
        assert 8 * packed.nbytes / np.prod(packed.shape) == pytest.approx(bits, rel=0.002)


BLOCKS = random_blocks("Q4_0", 4, 2)
WRONG: list[tuple[tuple[Any, ...], str]] = [
    ((BLOCKS, "Q5_0", (4, 64)), "type is 'Q5_0', allowed: 'Q4_0', 'Q4_1', 'Q8_0', 'Q4_K'"),
    ((BLOCKS, 7, (4, 64)), "type is 7, allowed"),
    ((BLOCKS, "Q4_0", (4, 60)), r"shape is \(4, 60\), must be .* a multiple of 32 for Q4_0"),
    ((BLOCKS, "Q4_K", (4, 64)), "a multiple of 256 for Q4_K"),
    ((BLOCKS, "Q4_0", (4, 2, 32)), "must be .outputs, inputs."),
    ((BLOCKS, "Q4_0", (5, 64)), "blocks has 144 bytes, must be 180 for Q4_0"),
    ((BLOCKS.astype(np.float32), "Q4_0", (4, 64)), "blocks has dtype float32, allowed: uint8"),
    ((np.full_like(BLOCKS, 255), "Q4_0", (4, 64)), "blocks holds a scale that is not finite"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_mistakes_are_told(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fk.pack_gguf(*arguments)
