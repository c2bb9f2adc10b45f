"""`fastsedd bench`: every layer and every part of a forward is measured, and printed or given as JSON."""

from __future__ import annotations

import json

from click.testing import CliRunner

import fastsedd
from fastsedd import bench
from fastsedd.cli import main


def test_every_layer_is_measured() -> None:
    steps: list[tuple[int, int]] = []
    measured = bench.run(fastsedd.load(), 0.01, lambda *step: steps.append(step))
    assert [(layer.tokens, layer.inputs, layer.outputs) for layer in measured.layers] == list(bench.LAYERS)
    assert steps[-1] == (len(bench.LAYERS), len(bench.LAYERS))
    assert measured.peak_gflops > 0 and measured.bandwidth_gbs > 0 and measured.forward_ms > 0
    assert all(layer.gflops > 0 and layer.numpy_over_ours > 0 for layer in measured.layers)


def test_a_profile_accounts_for_the_forward() -> None:
    found = bench.profile(fastsedd.load(None, "bfloat16"))
    assert list(found.parts) == ["GEMM", "attention", "norm", "rest"] and all(ms > 0 for ms in found.parts.values())
    assert found.forward > 0 and found.length == 256
    result = CliRunner().invoke(main, ["bench", "--profile", "--dtype", "bfloat16"])
    assert result.exit_code == 0 and "of the kernels' time" in result.stdout and "256 tokens" in result.stdout
    result = CliRunner().invoke(main, ["bench", "--profile", "--json"])
    assert json.loads(result.stdout).keys() == {"parts", "forward", "length"}


def test_the_command_prints_tables_or_an_object() -> None:
    result = CliRunner().invoke(main, ["bench", "--seconds", "0.01"])
    assert result.exit_code == 0
    assert "of the peak" in result.stdout and "256 x 384 -> 1152" in result.stdout
    result = CliRunner().invoke(main, ["bench", "--seconds", "0.01", "--json"])
    assert len(json.loads(result.stdout)["layers"]) == len(bench.LAYERS)
