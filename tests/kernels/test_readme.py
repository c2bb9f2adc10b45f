"""The README's examples run, one after the other, as its reader would type them."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

README = Path(__file__).parents[2] / "kernels" / "README.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def run(example: str, names: dict[str, Any]) -> dict[str, Any]:
    exec(compile(example, str(README), "exec"), names)
    return names


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    """What the first example leaves to the others."""
    return run(EXAMPLES[0], {})


def test_there_are_five_and_one_of_a_cache() -> None:
    assert len(EXAMPLES) == 6


def test_a_linear_layer(names: dict[str, Any]) -> None:
    assert names["hidden"].shape == (128, 3072) and names["x"].shape == (128, 768)


def test_products_attention_and_draws(names: dict[str, Any]) -> None:
    found = run(EXAMPLES[1], dict(names))
    np.testing.assert_allclose(found["c"], found["x"] @ found["weight"].T, rtol=1e-4, atol=0.5)
    assert found["mixed"].shape == (2, 12, 256, 64) and found["draws"].shape == (128,)


def test_a_cache(names: dict[str, Any]) -> None:
    found = run(EXAMPLES[5], run(EXAMPLES[1], dict(names)))
    assert len(found["cache"]) == 256
    keys, values = (
        np.concatenate([found[whole][:, :3], found[block]], 2) for whole, block in (("k", "block_k"), ("v", "block_v"))
    )
    np.testing.assert_array_equal(found["mixed"], found["fk"].attention(found["block_q"], keys, values))


def test_a_recording(names: dict[str, Any]) -> None:
    found = run(EXAMPLES[2], dict(names))
    fk = found["fk"]
    np.testing.assert_array_equal(found["x"], fk.layer_norm(fk.linear(found["hidden"], found["back"])))


def test_inside_numba(names: dict[str, Any]) -> None:
    if names["fk"].threading_layer() == "pool":
        pytest.skip("Numba has no safe threading layer here for the reader's own prange")
    found = run(EXAMPLES[3], dict(names))
    out = np.full((4, 16, 3072), np.nan, np.float32)
    found["layers"](np.ones((4, 16, 768), np.float32), found["w"], out)
    np.testing.assert_allclose(out.sum(axis=-1), 1, rtol=1e-5)


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")
def test_inside_pytorch(
    names: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastsedd_kernels.torch import trial

    monkeypatch.setattr(trial, "gain", lambda *calls: 2.0)  # whatever else the machine does
    run(EXAMPLES[4], dict(names))
    assert "1 Sequential (Linear + GELU)" in capsys.readouterr().out
