"""The cost of bfloat16 and int8 for the shipped model: its likelihood bound on a file, and its speed, dtype by dtype.

    python benchmarks/quality.py FILE      held out of training; writes quality.json to benchmarks/results/<CPU>/

The same noise is used for each dtype, so that their differences are known far better than the bounds themselves.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import environment
import numpy as np
import result_files

import fastsedd

DTYPES = ("float32", "bfloat16", "int8")
TEXTS = 5


def measure(text: str, times: int) -> list[dict[str, Any]]:
    """One entry per dtype."""
    entries: list[dict[str, Any]] = []
    exact: np.ndarray | None = None
    for dtype in DTYPES:
        model = fastsedd.load(None, dtype)
        bound = fastsedd.evaluate(model, text, times=times, seed=0)
        exact = bound.by_window if exact is None else exact
        apart = bound.by_window - exact
        entries.append(
            {
                "kind": "quality",
                "dtype": dtype,
                "nats": bound.nats,
                "error": bound.nats_error,
                "difference": float(apart.mean()),
                "difference_error": float(apart.std() / np.sqrt(len(apart))),
                "seconds_per_text": _seconds_per_text(model),
            }
        )
    return entries


def _seconds_per_text(model: fastsedd.Model) -> float:
    model.generate(steps=2, seed=0)
    taken = []
    for seed in range(TEXTS):
        start = time.perf_counter()
        model.generate(seed=seed)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="The likelihood bound and the speed of the shipped model's dtypes.")
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--times", type=int, default=8, help="noise levels per window (8)")
    options = parser.parse_args(arguments)
    entries = measure(options.file.read_text(encoding="utf-8"), options.times)
    result_files.store("quality", environment.describe(), entries)
    print(json.dumps(entries, indent=1))


if __name__ == "__main__":
    main()
