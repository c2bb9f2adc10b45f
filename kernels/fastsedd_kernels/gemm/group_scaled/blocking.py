"""Partition of a product with weights in groups (`kernel`): rectangles of out, and rows of x for a share of L2."""

from __future__ import annotations

import functools

from numba.extending import register_jitable

from fastsedd_kernels.gemm.blocking import task_grid
from fastsedd_kernels.gemm.group_scaled.microkernel import BUNDLE, MR, NR, STEP
from fastsedd_kernels.runtime.cpu import cpu_info

_SHARE = 2  # of L2: one part in so many is for rows of x, and the sums of a bundle


@functools.lru_cache(1024)
def partition(threads: int, rows: int, groups: int, panels: int) -> tuple[int, int, int]:
    """`kernel.GroupPartition` for so many rows of x, groups of K, and panels."""
    grid = task_grid(threads, rows, groups * 8, -(-panels // BUNDLE), BUNDLE * NR)
    return *grid, block_rows(groups, l2_words())


def l2_words() -> int:
    """32-bit words of a core's L2."""
    return cpu_info().l2 // 4


def block_rows(groups: int, words: int) -> int:
    """MC: whole tiles; words : of a core's L2"""
    return max(1, words // _SHARE // (groups * STEP + BUNDLE * NR) // MR) * MR


register_jitable(block_rows)
