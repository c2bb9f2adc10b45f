"""Sampling with SEDD small: a step against the published code's, in PyTorch; a run against OpenVINO's forward alone.

The step is the first, in which all positions are masks. A run of 128 steps counts by the step: later ones have fewer
masks, for which alone the head, the draw and the last block's MLP run. The peak of the run's memory is that of its
process, from its start on.
"""

from __future__ import annotations

from collections.abc import Callable

import contest
import engines
import numpy as np
import pytest

MODEL = "SEDD small"

# Of the run's process: what it may take beside the weights.
MAX_MEMORY = 600 << 20


@pytest.mark.skipif(not engines.installed("torch"), reason="PyTorch, of the extra `engines`, is not installed")
def bench_step(record: Callable[..., None]) -> None:
    made = {name: engines.Process([name, MODEL, 1, "float32", "step"]) for name in (contest.OURS, "PyTorch eager")}
    try:
        ours, theirs = (np.count_nonzero(made[name].result() != engines.MODELS[MODEL].tokens) for name in made)
        # Both are binomial, and few of many: their difference has the variance of their sum.
        assert abs(ours - theirs) <= 6 * np.sqrt(ours + theirs + 1), f"{ours} positions unmasked, and {theirs}"
        work = engines.flops(engines.MODELS[MODEL], 1)
        record(made, contest.peak("float32"), work, kind="generate", task="step", model=MODEL, batch=1, dtype="float32")
    finally:
        for process in made.values():
            process.close()


@pytest.mark.skipif("OpenVINO" not in engines.available("float32"), reason="OpenVINO and PyTorch are not installed")
def bench_run(record: Callable[..., None]) -> None:
    made = {
        contest.OURS: engines.Process([contest.OURS, MODEL, 1, "float32", "run"]),
        "OpenVINO": engines.Process(["OpenVINO", MODEL, 1, "float32"]),
    }
    try:
        config = engines.MODELS[MODEL]
        text = made[contest.OURS].result()
        assert text.shape == (1, config.length) and text.max() < config.tokens
        record(
            made, contest.peak("float32"), engines.flops(config, 1), rounds=0, kind="generate", task="run", model=MODEL,
            batch=1, dtype="float32",
        )  # fmt: skip
        assert made[contest.OURS].peak_memory() <= 4 * config.parameters + MAX_MEMORY
    finally:
        for process in made.values():
            process.close()
