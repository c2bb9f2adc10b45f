"""`accelerate` on models of transformers, against the untouched model: eager, and in bfloat16 under autocast.

With weights in int8 and int4, which PyTorch has nothing like, against eager float32.
"""

from __future__ import annotations

from collections.abc import Callable

import accelerated
import contest
import engines
import numpy as np
import pytest

# How far results may be from eager float32's, relative to their norm.
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.03, "int8": 0.1, "int4": 0.5}


@pytest.mark.skipif(
    not (engines.installed("torch") and engines.installed("transformers")), reason="PyTorch or transformers is missing"
)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("case", accelerated.CASES)
def bench_accelerate(case: str, dtype: str, record: Callable[..., None]) -> None:
    made: dict[str, engines.Process] = {}
    exact = accelerated.process(accelerated.EAGER, case, "float32")
    try:
        expected = exact.result()
        exact.close()
        errors = {}
        for name in accelerated.contenders(dtype):
            made[name] = accelerated.process(name, case, dtype)
            errors[name] = float(np.linalg.norm(made[name].result() - expected) / np.linalg.norm(expected))
            assert errors[name] <= TOLERANCE[dtype], f"{name} is wrong: {errors[name]:.1e}"
        work = accelerated.flops(case)
        record(made, contest.peak("float32"), work, kind="accelerate", model=case, dtype=dtype, errors=errors)
    finally:
        for each in (exact, *made.values()):
            each.close()
