"""The table of machines: one row per instruction set, with all that kernels are tuned by.

A new instruction set is a row here and its probe in `cpu.isa`. The sizes of the caches, which a row does not know, are
read from the system (`cpu.cpu_info`); `fk.tune` may replace the block limits for one CPU.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple


class Shape(NamedTuple):
    """A register tile: rows of A, and registers of B's columns."""

    rows: int
    vectors: int


class Blocks(NamedTuple):
    """Targets of the blocks: at most `tiles` register tiles in MC and `depth` elements in KC. Of a core's L2, a block
    of A (MC x KC) gets one part in `share_of_a`, sums that wait between slabs (MC x NC) one in `share_of_c`."""

    tiles: int = 32
    depth: int = 1024
    share_of_a: int = 4
    share_of_c: int = 8


@dataclass(frozen=True)
class Gemv:
    """Constants of GEMV and skinny GEMM.

    dot_rows : rows whose sums with four columns fit the registers
    few_rows : with more, B is reused so often that packing it pays
    deep : rows of B read side by side; span : columns whose sums, and the rows of B that come next, wait in L2
    rows_ahead : these rows are prefetched; else they are left to the hardware (twice as fast on Zen 3 with B in L3)
    chunk : elements of four columns that pass while they and those of A are in L1
    tall : elements of a column: L2 holds no more of the four that come next; ahead : prefetch distance beyond that
    """

    dot_rows: int
    few_rows: int = 8
    deep: int = 8
    span: int = 4096
    rows_ahead: bool = True
    chunk: int = 512
    tall: int = 16384
    ahead: int = 1024


class Crossover(NamedTuple):
    """The size from which a level of Strassen's products pays.

    It saves an eighth of the multiply-adds, M K N of them, and passes once more over A, B and, reading and writing, C.
    So the passes cost, relative to all, in proportion to 1 / N, 1 / M and of_c / K: 2 / K where all three cost the
    same, more where C alone comes from memory. Below `limit` the level pays.
    """

    of_c: float
    limit: float


_BLOCKS = Blocks()
_CROSSOVERS = (Crossover(2, 0.003), Crossover(2, 0.0014))  # where in doubt: a level too few costs some percent


@dataclass(frozen=True)
class Machine:
    """A vector instruction set, and the numbers that keep its FMA units busy.

    lanes : float32 values per register; registers : how many there are
    tile : accumulators of a register tile: enough independent chains to hide the latency of FMA, few enough to leave
        registers for a row of B and a broadcast of A. The nearer the two numbers, the fewer loads per FMA.
    wide_tile : for float32, and for bfloat16 with dot instructions: the 64 columns that most heads of attention have
    narrow_tile : for products of pairs of bytes, which take some more
    pairs_tile : for bfloat16 that is multiplied in float32
    widened_tile : for int8 without instructions for it, both of whose operands are unpacked
    group_tile : for weights in groups (`gemm.group_scaled`): int32 sums of a group and float32 sums of groups
    unroll : k, a power of two, in a group of the micro-kernel, which prefetches lines of B with each
    prefetch_depth : k per prefetched row of the result: short enough that a shallow product's tile is in L1 when stored
    widened_from : rows, from which on codes of four bits are widened once per panel, and not by each tile in registers
    crossovers : of Strassen's first level and second; by_cpu : measured on CPUs of that name (BENCHMARKS.md)
    never_widened : CPUs of these names have units for it beside those of the products: registers are as fast
    """

    name: str
    lanes: int
    registers: int
    tile: Shape
    wide_tile: Shape
    narrow_tile: Shape
    pairs_tile: Shape
    widened_tile: Shape
    group_tile: Shape
    gemv: Gemv
    blocks: Blocks = _BLOCKS
    unroll: int = 4
    prefetch_depth: int = 16
    widened_from: int = 16
    crossovers: tuple[Crossover, ...] = _CROSSOVERS
    by_cpu: dict[str, tuple[Crossover, ...]] = field(default_factory=dict)
    never_widened: frozenset[str] = frozenset()


AVX512 = Machine(
    "avx512",
    lanes=16,
    registers=32,
    tile=Shape(8, 3),  # 24 of 32 registers
    wide_tile=Shape(6, 4),
    narrow_tile=Shape(7, 3),
    pairs_tile=Shape(8, 3),
    widened_tile=Shape(8, 3),
    group_tile=Shape(6, 2),
    gemv=Gemv(dot_rows=4),
    # The slower a CPU multiplies beside what its memory gives, the sooner a level pays: Zen 4 has one unit of a
    # register's width where others have two. The defaults are Sapphire Rapids'.
    by_cpu={"znver4": (Crossover(2, 0.006), Crossover(6, 0.0063))},
    never_widened=frozenset({"znver4"}),
)
AVX2 = Machine(
    "avx2",
    lanes=8,
    registers=16,
    tile=Shape(4, 3),  # 12 of 16 registers
    wide_tile=Shape(4, 3),
    narrow_tile=Shape(5, 2),
    pairs_tile=Shape(6, 2),
    widened_tile=Shape(3, 2),
    group_tile=Shape(3, 2),
    # Rows some KiB apart share sets of L1, and a line is used twice: eight of them would evict each other in between.
    gemv=Gemv(dot_rows=2, deep=6, rows_ahead=False),
    unroll=8,
)
NEON = Machine(
    "neon",
    lanes=4,
    registers=32,
    tile=Shape(5, 4),  # 20 of 32 registers; four of B, and one of A for each row
    wide_tile=Shape(5, 4),
    narrow_tile=Shape(6, 3),
    pairs_tile=Shape(6, 3),
    widened_tile=Shape(4, 3),
    group_tile=Shape(6, 2),
    gemv=Gemv(dot_rows=4),
)
PORTABLE = Machine(
    "portable",
    lanes=4,
    registers=16,  # if there are as many
    tile=Shape(6, 2),  # 12 of 16 registers
    wide_tile=Shape(6, 2),
    narrow_tile=Shape(5, 2),
    pairs_tile=Shape(5, 2),
    widened_tile=Shape(3, 2),
    group_tile=Shape(3, 2),
    gemv=Gemv(dot_rows=2),
)

# A tile of Intel's AMX: four tile registers of 16 x 16 sums, of bfloat16 and int8 only (`gemm.amx`).
AMX_TILE = Shape(32, 2)

CACHE_LINE = 64  # bytes; a vector that lies across two lines costs two accesses
CROWDED = 4096  # bytes; rows a multiple of it apart share few sets of L1, where they evict each other
