"""`fastsedd bench`: every layer and every part of a forward is measured, and printed or given as JSON."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from click.testing import CliRunner

import fastsedd
from fastsedd import bench
from fastsedd.cli import main


def printed(*options: str) -> str:
    result = CliRunner().invoke(main, ["bench", *options], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def fields(measured: Any) -> dict[str, Any]:
    """The fields of a measurement after a way through JSON, which turns tuples into lists."""
    return json.loads(json.dumps(dataclasses.asdict(measured)))


def test_every_layer_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, by the command for tables; that for an object is given the same."""
    found: list[bench.Measurements] = []
    steps: list[tuple[int, int]] = []
    run = bench.run

    def measure(model: fastsedd.Model, seconds: float, progress: Any) -> bench.Measurements:
        assert seconds == 0.01
        if not found:
            found.append(run(model, seconds, lambda *step: (steps.append(step), progress(*step))))
        return found[0]

    monkeypatch.setattr(bench, "run", measure)
    tables = printed("--seconds", "0.01")
    assert "of the peak" in tables and "256 x 384 -> 1152" in tables
    (measured,) = found
    assert [(layer.tokens, layer.inputs, layer.outputs) for layer in measured.layers] == list(bench.LAYERS)
    assert steps[-1] == (len(bench.LAYERS), len(bench.LAYERS))
    assert measured.peak_gflops > 0 and measured.bandwidth_gbs > 0 and measured.forward_ms > 0
    assert all(layer.gflops > 0 and layer.numpy_over_ours > 0 for layer in measured.layers)
    assert json.loads(printed("--seconds", "0.01", "--json")) == fields(measured)


def test_a_profile_accounts_for_the_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    found = bench.profile(fastsedd.load(None, "bfloat16"))
    assert list(found.parts) == ["GEMM", "attention", "norm", "rest"] and all(ms > 0 for ms in found.parts.values())
    assert found.forward > 0 and found.length == 256
    asked: list[str] = []
    monkeypatch.setattr(bench, "profile", lambda model: asked.append(model.dtype) or found)
    tables = printed("--profile", "--dtype", "bfloat16")
    assert "of the kernels' time" in tables and "256 tokens" in tables
    assert json.loads(printed("--profile", "--json")) == fields(found)
    assert asked[0] == "bfloat16"
