"""The limits of blocks: what is stored is used, and what is not one is ignored."""

from __future__ import annotations

from pathlib import Path

import fastsedd_kernels as fk
import pytest
from fastsedd_kernels.gemm import tuned_blocks as limits
from fastsedd_kernels.gemm import tuning
from fastsedd_kernels.gemm.tuned_blocks import DEFAULT, Limits
from processes import run_python

SCRIPT = "from fastsedd_kernels.gemm.tuned_blocks import limits; print(limits())"


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FASTSEDD_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(limits, "_current", None)
    return tmp_path


def in_a_process(folder: Path) -> str:
    return run_python(SCRIPT, FASTSEDD_CACHE_DIR=str(folder)).strip()


def test_the_fastest_candidate_is_kept(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = {Limits(depth=512): 1.05, Limits(tiles=16, depth=512): 1.08, Limits(tiles=48, depth=512): 1.2}
    monkeypatch.setattr(tuning, "_speed_over_default", lambda candidate, calls: speeds.get(candidate, 0.9))
    steps: list[tuple[int, int]] = []
    tuned = fk.tune(lambda *step: steps.append(step))
    assert tuned.limits == Limits(48, 512) and tuned.gain == 1.2 and tuned.file.parent == own_folder
    assert steps == [(i, len(steps)) for i in range(1, len(steps) + 1)]
    assert limits.limits() == tuned.limits
    assert in_a_process(own_folder) == str(tuned.limits)


def test_no_better_candidate_means_the_default(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "_speed_over_default", lambda candidate, calls: 1.005)
    assert fk.tune().limits == DEFAULT


def test_candidates_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(tuning, "_ROUNDS", 2)
    ratio = tuning._speed_over_default(Limits(8, 64), [lambda: seen.append(limits.limits())])
    assert ratio > 0 and set(seen) == {DEFAULT, Limits(8, 64)}


@pytest.mark.parametrize(
    "text", ["", "[1]", '{"tiles": 0, "depth": 9}', '{"tiles": 1e400}', '{"tiles": true}', '{"more": 1}', "[" * 10_000]
)
def test_a_file_that_holds_no_limits_is_ignored(own_folder: Path, text: str) -> None:
    limits.store(Limits(3, 4)).write_text(text)
    assert in_a_process(own_folder) == str(DEFAULT)


@pytest.mark.parametrize(("tiles", "depth", "words"), [(0, 1, "tiles is 0"), (1, 1 << 17, "depth is"), (1.5, 1, "1.5")])
def test_limits_out_of_range(tiles: int, depth: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Limits(tiles, depth)
