"""How many levels of Strassen's products pay for a product of a given size."""

from __future__ import annotations

# A level saves an eighth of the multiply-adds, M K N of them, and passes once more over A, B and, reading and writing,
# C. So the passes cost, relative to all, in proportion to 1 / N, 1 / M and 2 / K. Measured (BENCHMARKS.md): below these
# sums the first level pays, and the second.
_MOST = (0.003, 0.0014)


def levels_that_pay(rows: int, depth: int, columns: int) -> int:
    """0, 1 or 2 for C [rows, columns] of A [rows, depth]."""
    if min(rows, depth, columns) == 0:
        return 0
    passes = 1 / rows + 1 / columns + 2 / depth
    return sum(passes < most for most in _MOST)
