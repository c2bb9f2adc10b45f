"""Partition of a product with weights in groups (`kernel`): rectangles of out, and rows of x for a share of L2."""

from __future__ import annotations

from numba.extending import register_jitable

from fastsedd_kernels.gemm.blocking import task_grid
from fastsedd_kernels.gemm.group_scaled.microkernel import MR, NR, STEP
from fastsedd_kernels.runtime.cpu import cpu_info

_SHARE = 2  # of L2: one part in so many is for rows of x, and the sums of a panel


def partition(threads: int, rows: int, groups: int, panels: int) -> tuple[int, int, int]:
    """`kernel.GroupPartition` for so many rows of x, groups of K, and panels."""
    return *task_grid(threads, rows, groups * 8, panels, NR), block_rows(groups, l2_words())


def l2_words() -> int:
    """32-bit words of a core's L2."""
    return cpu_info().l2 // 4


def block_rows(groups: int, words: int) -> int:
    """MC: whole tiles; words : of a core's L2"""
    return max(1, words // _SHARE // (groups * STEP + NR) // MR) * MR


register_jitable(block_rows)
