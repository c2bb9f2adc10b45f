"""A masked language model of 0.6 billion weights: one block behind 512 tokens, against other engines; whole blocks.

llama.cpp's weights are in groups of 32, its head's too; our int8 has a scale for each output, and a head in bfloat16.
"""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import contest
import engines
import language
import language_files
import numpy as np
import pytest

# How far logits may be from our float32's, relative to their norm.
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.05, "int8": 0.15, "int4": 0.6}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FASTSEDD_BENCH_FOLDER keeps the files from run to run: they take minutes and five gigabytes."""
    kept = os.environ.get("FASTSEDD_BENCH_FOLDER")
    place = Path(kept) if kept else tmp_path_factory.mktemp("language")
    kinds = {"": "model.safetensors"}
    if not any(language.available("int8").values()):
        kinds |= {"Q8_0": "Q8_0.gguf", "Q4_0": "Q4_0.gguf"}
    for kind, name in kinds.items():
        if not (place / name).exists():  # in a process of its own, whose memory is not this one's
            subprocess.run([sys.executable, language_files.__file__, str(place), kind], check=True)
    return place


@pytest.fixture(scope="module")
def exact(folder: Path) -> np.ndarray:
    process = language.process(contest.OURS, folder, "float32")
    try:
        return process.result()
    finally:
        process.close()


@pytest.mark.parametrize("dtype", TOLERANCE)
def bench_block(dtype: str, folder: Path, exact: np.ndarray, record: Callable[..., None]) -> None:
    made: dict[str, engines.Process] = {}
    errors, left_out = {}, {}
    try:
        for name, missing in {contest.OURS: "", **language.available(dtype)}.items():
            if missing:
                left_out[name] = f"{missing} is not installed"
                continue
            made[name] = language.process(name, folder, dtype)
            errors[name] = float(np.linalg.norm(made[name].result() - exact) / np.linalg.norm(exact))
            assert errors[name] <= TOLERANCE[dtype], f"{name} is wrong: {errors[name]:.1e}"
        for name, reason in left_out.items():
            warnings.warn(f"{name} is left out: {reason}", stacklevel=1)
        work = language_files.flops()
        record(made, contest.peak("float32"), work, kind="language block", dtype=dtype, errors=errors)
    finally:
        for process in made.values():
            process.close()


@pytest.mark.parametrize("commits", [1, 2, 4])
@pytest.mark.parametrize("dtype", TOLERANCE)
def bench_writing(dtype: str, commits: int, folder: Path, record: Callable[..., None]) -> None:
    """Seconds of a token, where each step commits so many; memory is the process's, from its start on."""
    process = language.process(contest.OURS, folder, dtype, commits)
    try:
        text = process.result()[0]
        np.testing.assert_array_equal(text[: language_files.BEFORE], language_files.tokens()[: language_files.BEFORE])
        work = language_files.flops() // commits
        memory = process.peak_memory()
        record(
            {contest.OURS: process}, contest.peak("float32"), work, rounds=0, kind="language writing", dtype=dtype,
            commits=commits, memory=memory,
        )  # fmt: skip
    finally:
        process.close()
