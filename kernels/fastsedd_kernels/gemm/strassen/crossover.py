"""The number of levels of Strassen's products that pay for a product of a given size."""

from __future__ import annotations

from fastsedd_kernels.runtime.cpu import cpu_info, isa


def levels_that_pay(rows: int, depth: int, columns: int) -> int:
    """0, 1 or 2 for C [rows, columns] of A [rows, depth]; see `machines.Crossover`."""
    if min(rows, depth, columns) == 0:
        return 0
    levels = isa().by_cpu.get(cpu_info().name, isa().crossovers)
    return sum(1 / rows + 1 / columns + level.of_c / depth < level.limit for level in levels)
