"""How many levels of Strassen's products pay for a product of a given size."""

from __future__ import annotations

from typing import NamedTuple

from fastsedd_kernels.runtime.cpu import cpu_info


class Crossover(NamedTuple):
    """Where a level begins to pay.

    It saves an eighth of the multiply-adds, M K N of them, and passes once more over A, B and, reading and writing, C.
    So the passes cost, relative to all, in proportion to 1 / N, 1 / M and of_c / K: 2 / K where all three cost the
    same, more where C alone comes from memory. Below `most` the level pays.
    """

    of_c: float
    most: float


# Of the first level and the second, measured (BENCHMARKS.md), by the target's name. The slower a CPU multiplies beside
# what its memory gives, the sooner they pay: Zen 4 has one unit of a register's width where others have two.
_MEASURED = {"znver4": (Crossover(2, 0.006), Crossover(6, 0.0063))}
_OTHERWISE = (Crossover(2, 0.003), Crossover(2, 0.0014))  # on Sapphire Rapids; a level too few costs some percent


def levels_that_pay(rows: int, depth: int, columns: int) -> int:
    """0, 1 or 2 for C [rows, columns] of A [rows, depth]."""
    if min(rows, depth, columns) == 0:
        return 0
    levels = _MEASURED.get(cpu_info().name, _OTHERWISE)
    return sum(1 / rows + 1 / columns + level.of_c / depth < level.most for level in levels)
