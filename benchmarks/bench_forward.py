"""A whole forward of the article's model and of SEDD small, against every engine of the same dtype that is here."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import contest
import engines
import numpy as np
import pytest

# How far log scores may be from our float32's, relative to their norm; PyTorch's int8 has one scale for all of a batch.
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.03, "int8": 0.06}
OTHERS = {**TOLERANCE, "int8": 0.3}

CASES = [("annotated", 1), ("annotated", 4), ("annotated", 16), ("SEDD small", 1)]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("model", "batch"), CASES)
def bench_forward(model: str, batch: int, dtype: str, record: Callable[..., None]) -> None:
    config = engines.MODELS[model]
    exact = engines.prepare(contest.OURS, config, batch, "float32")()
    made: dict[str, engines.Process] = {}
    try:
        for name in (contest.OURS, *engines.available(dtype)):
            try:
                made[name] = engines.Process([name, model, batch, dtype])
            except RuntimeError as error:  # OpenVINO's bfloat16 where its instructions are forbidden, say
                if name == contest.OURS:
                    raise
                warnings.warn(f"{name} is left out: {str(error).splitlines()[-1]}", stacklevel=1)
                continue
            error = np.linalg.norm(made[name].result() - exact) / np.linalg.norm(exact)
            assert error <= (TOLERANCE if name == contest.OURS else OTHERS)[dtype], f"{name} is wrong: {error:.1e}"
        work = engines.flops(config, batch)
        record(made, contest.peak("float32"), work, kind="forward", model=model, batch=batch, dtype=dtype)
    finally:
        for process in made.values():
            process.close()
