"""How many levels of Strassen's products pay for a product of a given size."""

from __future__ import annotations

from typing import Any

import numpy as np

# A level saves an eighth of the multiplications, which grow with M K N, and costs passes over A, B and C, which do not
# grow with K, M and N: so the least of the three decides. Measured (BENCHMARKS.md), by dtype: for one level, for two.
_LEAST = {np.dtype(np.float32): (1536, 3072), np.dtype(np.float64): (6144, 12288)}


def levels_that_pay(rows: int, depth: int, columns: int, dtype: np.dtype[Any]) -> int:
    """0, 1 or 2 for C [rows, columns] of A [rows, depth]."""
    least = min(rows, depth, columns)
    return sum(least >= size for size in _LEAST[dtype])
