"""Fitted grids of small models: fitted, stored, read again, used, and refused where something is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import fastsedd
from fastsedd import checkpoint, cli
from fastsedd.checkpoint import grid_json
from fastsedd.config import FittedTimes


@pytest.fixture(params=[("ddit", "absorb"), ("annotated", "uniform")], ids="-".join)
def folder(request, make_config, write_checkpoint) -> Path:
    return write_checkpoint(make_config(*request.param))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, [*map(str, arguments)])


def test_it_is_fitted_stored_and_used(folder) -> None:
    result = run("fit-grid", folder, "--texts", 3, "--nodes", 6, "--batch-size", 2, "--seed", 4, "--quiet")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"{folder / 'grid.json'} holds 7 times\n"
    model = fastsedd.load(folder)
    fitted = model.fit_grid(num_texts=3, nodes=6, seed=4)
    assert model.fitted is not None and model.fitted.times == pytest.approx(fitted.times, rel=1e-6)
    by_name = model.generate(steps=5, seed=1, grid="fitted").texts
    assert by_name == model.generate(steps=5, seed=1, grid=model.fitted).texts
    quiet = run("generate", "--model", folder, "--steps", 5, "--seed", 1, "--grid", "fitted", "--quiet")
    assert quiet.stdout == by_name[0] + "\n"


def test_every_grid_makes_as_many_steps(folder) -> None:
    model = fastsedd.load(folder)
    for grid in ("uniform", "log-sigma", FittedTimes((1.0, 0.3, 0.0))):
        seen: list[int] = []
        model.generate(steps=4, seed=0, grid=grid, on_step=lambda step, steps, tokens, seen=seen: seen.append(steps))
        assert seen == [5] * 5
    assert model.generate(steps=4, seed=0).texts == model.generate(steps=4, seed=0, grid="uniform").texts


def test_progress_ends_at_all_network_runs(folder) -> None:
    seen: list[tuple[int, int]] = []
    fastsedd.load(folder).fit_grid(
        num_texts=3, nodes=4, batch_size=2, progress=lambda done, total: seen.append((done, total))
    )
    assert seen[-1] == (3 * (129 + 4),) * 2 and seen == sorted(seen)


def test_conversion_takes_it_along(folder, tmp_path) -> None:
    grid = FittedTimes((1.0, 0.4, 0.1, 0.0))
    grid_json.write(folder / "grid.json", grid)
    assert checkpoint.read(fastsedd.convert(folder, tmp_path / "converted")).grid == grid


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "grid.json"),
        ("{}", "times"),
        ('{"times": [1.0, "a"]}', "times"),
        ('{"times": [1.0]}', "their number is 1, allowed: 2 to 4096"),
        ('{"times": [0.9, 0.0]}', "times run from 0.9 to 0.0, allowed: from 1 to 0"),
        ('{"times": [1.0, 0.5, 0.5, 0.0]}', "times has 0.5 after 0.5, allowed: falling values"),
        ('{"times": [1.0, NaN, 0.0]}', "grid.json"),
        ('{"times": [1.0, 1e999, 0.0]}', "grid.json"),
        (json.dumps({"times": [1.0] * 5000}), "their number is 5000"),
        (" " * (1 << 18), "has more than 131072 bytes"),
    ],
)
def test_a_bad_grid_is_one_line(folder, content: str, words: str) -> None:
    (folder / "grid.json").write_text(content)
    with pytest.raises(fastsedd.CheckpointError) as caught:
        fastsedd.load(folder)
    assert words in str(caught.value) and str(folder) in str(caught.value) and "\n" not in str(caught.value)


def test_errors_of_fitting(folder) -> None:
    model = fastsedd.load(folder)
    with pytest.raises(ValueError, match="grid is 'fitted', but no grid was fitted to this model"):
        model.stream(grid="fitted")
    with pytest.raises(ValueError, match="grid is 'cosine', allowed"):
        model.stream(grid="cosine")
    for arguments, words in [
        ({"nodes": 1}, "nodes is 1"),
        ({"num_texts": 0}, "num_texts is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
    ]:
        with pytest.raises(ValueError, match=words):
            model.fit_grid(**arguments)
    assert run("fit-grid").exit_code == run("fit-grid", "owner/name").exit_code == 2
    failed = run("generate", "--model", folder, "--grid", "fitted", "--quiet")
    assert (failed.exit_code, failed.stdout, failed.stderr.count("\n")) == (1, "", 1)


def test_the_shipped_model_has_one() -> None:
    assert checkpoint.read(Path(fastsedd.__file__).parent / "assets").grid is not None
