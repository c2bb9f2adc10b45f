"""`accelerate` on models of transformers, against the untouched model: eager, and in bfloat16 under autocast.

With weights in int8 and int4, which PyTorch has nothing like, against eager float32; of more families in float32 alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import accelerated
import contest
import engines
import numpy as np
import pytest

# How far results may be from eager float32's, relative to their norm.
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.03, "int8": 0.1, "int4": 0.5}

RUNS = [(case, dtype) for case in accelerated.CASES for dtype in TOLERANCE]
RUNS += [(case, "float32") for case in accelerated.FAMILIES]


@dataclass
class Untouched:
    """A case's model as it is, in float32, in a process that all dtypes share; and what it returns."""

    case: str
    process: engines.Process
    result: np.ndarray


@pytest.fixture(scope="module")
def untouched(request: pytest.FixtureRequest) -> Iterator[Untouched]:
    process = accelerated.process(accelerated.EAGER, request.param, "float32")
    try:
        yield Untouched(request.param, process, process.result())
    finally:
        process.close()


@pytest.mark.skipif(
    not (engines.installed("torch") and engines.installed("transformers")), reason="PyTorch or transformers is missing"
)
@pytest.mark.parametrize(("untouched", "dtype"), RUNS, indirect=["untouched"])
def bench_accelerate(untouched: Untouched, dtype: str, record: Callable[..., None]) -> None:
    case = untouched.case
    contenders = {} if dtype == "bfloat16" else {accelerated.EAGER: untouched.process}
    made: dict[str, engines.Process] = {}
    try:
        for name in accelerated.contenders(dtype):
            if name not in contenders:
                contenders[name] = made[name] = accelerated.process(name, case, dtype)
        errors = {name: _error(each.result(), untouched.result) for name, each in contenders.items()}
        for name, error in errors.items():
            assert error <= TOLERANCE[dtype], f"{name} is wrong: {error:.1e}"
        labels = {"model": case, "dtype": dtype, "errors": errors}
        work = accelerated.flops(case)
        record(contenders, contest.peak("float32"), work, rounds=0, kind="accelerate", **labels)
    finally:
        for each in made.values():
            each.close()


def _error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
