"""Layers of GPTQ and AWQ checkpoints: values by their definition, element by element, and products."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fastsedd_kernels as fk
import numpy as np
import pytest
from group_scaled_weights import assert_product
from kernel_arrays import normal, poisoned

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


class Layer:
    """Codes [inputs, outputs], zero points and scales [inputs / group, outputs], at random."""

    def __init__(self, inputs: int, outputs: int, group: int, zero: int | None = None) -> None:
        rng = np.random.default_rng(inputs + outputs)
        self.codes = rng.integers(0, 16, (inputs, outputs))
        shape = inputs // group, outputs
        self.zeros = rng.integers(1, 16, shape) if zero is None else np.full(shape, zero)
        self.scales = rng.normal(scale=0.02, size=shape).astype(np.float16)
        self.group = group

    def values(self) -> np.ndarray:
        """float32 [outputs, inputs]"""
        scales, zeros = (np.repeat(each, self.group, axis=0) for each in (self.scales.astype(np.float32), self.zeros))
        return (scales * (self.codes - zeros).astype(np.float32)).T

    def gptq(self, less: int = 1) -> dict[str, np.ndarray]:
        return {
            "qweight": words(self.codes.T.reshape(self.codes.shape[1], -1, 8)).T.copy(),
            "qzeros": words((self.zeros - less).reshape(len(self.zeros), -1, 8)),
            "scales": self.scales,
        }

    def awq(self) -> dict[str, np.ndarray]:
        order = list(AWQ_ORDER)
        return {
            "qweight": words(self.codes.reshape(len(self.codes), -1, 8)[..., order]),
            "qzeros": words(self.zeros.reshape(len(self.zeros), -1, 8)[..., order]),
            "scales": self.scales,
        }


def words(nibbles: np.ndarray) -> np.ndarray:
    """[..., 8] nibbles, from the lowest bits up, as int32 [...]."""
    shifted = nibbles.astype(np.uint32) << (4 * np.arange(8, dtype=np.uint32))
    return np.bitwise_or.reduce(shifted, axis=-1).view(np.int32)


PACKERS: dict[str, Callable[[Layer], fk.PackedWeight]] = {
    "gptq": lambda layer: fk.pack_gptq(**layer.gptq()),
    "gptq_v2": lambda layer: fk.pack_gptq(**layer.gptq(0), checkpoint_format="gptq_v2"),
    "gptq with g_idx": lambda layer: fk.pack_gptq(
        **layer.gptq(), g_idx=np.arange(len(layer.codes), dtype=np.int32) // layer.group
    ),
    "awq": lambda layer: fk.pack_awq(**layer.awq()),
}
every_packer = pytest.mark.parametrize("name", PACKERS)


@every_packer
@pytest.mark.parametrize(("inputs", "group"), [(32, 32), (128, 64), (512, 128), (384, 384), (1024, 32)])
def test_values_and_products(name: str, inputs: int, group: int) -> None:
    for outputs, zero in ((8, None), (72, None), (72, 8)):
        layer = Layer(inputs, outputs, group, zero)
        packed = PACKERS[name](layer)
        np.testing.assert_array_equal(fk.unpack(packed), layer.values())
        for rows in (1, 20):
            x = normal(rows, rows, inputs)
            assert_product(fk.linear(x, packed, out=poisoned(rows, outputs)), x, packed)


def test_memory() -> None:
    """Symmetric weights take no zero points; scales are stored once for a group of 128."""
    for zero, group, bits in ((8, 32, 4.5), (8, 128, 4.125), (None, 128, 4.375)):
        packed = fk.pack_awq(**Layer(512, 192, group, zero).awq())
        assert 8 * packed.nbytes / (512 * 192) == pytest.approx(bits, rel=0.001)


def test_scales_in_float32_are_float16s_or_refused() -> None:
    layer = Layer(64, 16, 32)
    given = layer.awq()
    exact = fk.pack_awq(given["qweight"], given["qzeros"], layer.scales.astype(np.float32))
    np.testing.assert_array_equal(fk.unpack(exact), layer.values())
    for value in (0.1, 1e9, np.nan):
        scales = layer.scales.astype(np.float32)
        scales[1, 2] = value
        with pytest.raises(ValueError, match="scales holds a value that is no finite float16"):
            fk.pack_awq(given["qweight"], given["qzeros"], scales)


def test_tensors_of_pytorch() -> None:
    torch = pytest.importorskip("torch")
    layer = Layer(64, 16, 32)
    tensors = {name: torch.from_numpy(array) for name, array in layer.gptq().items()}
    np.testing.assert_array_equal(fk.unpack(fk.pack_gptq(**tensors)), layer.values())


GIVEN = Layer(128, 16, 32).gptq()
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"g_idx": np.arange(128)[::-1] // 32}, "g_idx permutes the inputs .act-order, desc_act."),
    ({"g_idx": np.zeros(3, np.int32)}, "g_idx permutes"),
    ({"checkpoint_format": "marlin"}, "checkpoint_format is 'marlin', allowed: 'gptq', 'gptq_v2'"),
    ({"qweight": GIVEN["qweight"].astype(np.int64)}, "qweight has dtype int64, allowed: int32"),
    ({"qweight": GIVEN["qweight"].reshape(-1)}, r"qweight has shape \(256,\), must be two-dimensional"),
    ({"qzeros": GIVEN["qzeros"][:2]}, r"qzeros holds \(2, 16\) zero points, must be as many as scales: \(4, 16\)"),
    ({"scales": GIVEN["scales"][:, :8]}, r"scales has shape \(4, 8\), must be \[inputs / group, 16\]"),
    ({"scales": GIVEN["scales"][:3]}, "scales has 3 groups of 128 inputs, allowed: of a multiple of 32 each"),
    ({"scales": np.repeat(GIVEN["scales"], 2, axis=0)}, "scales has 8 groups of 128 inputs"),
]


@pytest.mark.parametrize(("changed", "message"), WRONG)
def test_mistakes_are_told(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fk.pack_gptq(**{**GIVEN, **changed})
