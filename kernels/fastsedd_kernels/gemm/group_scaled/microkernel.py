"""The innermost product of weights in groups: one register tile of C from rows of bytes and a slab of a panel.

    C[r, j] += sum over blocks of K   x_scale[r, block] * sum over groups of the block   P[r, group, j]
    P[r, group, j] = scale[group, j] * (sum over its k of A[r, k] * B[k, j]) + minimum[group, j] * sum[r, group]

    A : rows of groups, as `activations` writes them: a group's bytes beside its `start`, its sum, its block's scale
    B : codes, as they lie in the bundle (NIBBLES, BYTES) or widened to bytes (SMALL, of 0 to 15); see `storage`
    scale, minimum : float32 [SLAB, BUNDLE * NR] each, one after the other, in rows as wide as C's (`decoding`); or,
        where `halves`, scale alone, float16 as it lies beside the panels
    C : float32 rows of NR, accumulated in place
    Of few rows (BUNDLE_ROWS), a bundle's panels are multiplied at once, whose columns lie side by side in C and in
    the rows of scales.

The inner sum is of integers and exact (`products`); it begins at `start`, which takes B's zero point back. The sums of
groups, of a block's, and C are float32 in the order of k, whatever the tile and the layout of B: results do not depend
on how work is divided. MR and NR are the machine's `group_tile`; every NR is computed in full.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from llvmlite import ir
from numba import float32, int32, types
from numba.core import cgutils
from numba.core.errors import LoweringError
from numba.extending import intrinsic, register_jitable

from fastsedd_kernels.gemm.group_scaled.products import products_of, words
from fastsedd_kernels.gemm.operands import Rows
from fastsedd_kernels.runtime import scalar
from fastsedd_kernels.runtime.cpu import isa
from fastsedd_kernels.runtime.jit import compile_symbol, is_symbol
from fastsedd_kernels.runtime.machines import CACHE_LINE
from fastsedd_kernels.simd import emit
from fastsedd_kernels.simd.narrow import widened_halves

GROUP = 32  # of K, which share a scale
GROUPS_PER_BLOCK = 4  # of x, which share a scale: 128 inputs
SLAB = 4 * GROUPS_PER_BLOCK  # groups at most: 512 inputs, which fit L1, scales and widened codes
MR, NR = isa().group_tile.rows, isa().group_tile.vectors * isa().lanes
BUNDLE = min(4, MR)  # panels that lie side by side, at most: one stream, for the memory's prefetchers
# Rows whose float32 sums with a bundle leave half of the registers to the rest: its panels are multiplied at once, a
# word of x is broadcast for all of them, and memory is read in its own order.
BUNDLE_ROWS = isa().registers // 2 // (BUNDLE * isa().group_tile.vectors)

WORDS = GROUP // 4  # of a group's bytes
START, SUM, SCALE, STEP = WORDS, WORDS + 1, WORDS + 2, WORDS + 3  # places in A's record of a group, and its size

NIBBLES, SMALL, BYTES = range(3)  # how B lies

_SYMBOL = "fastsedd_group_tile"
_POINTER = ir.IntType(8).as_pointer()
_CHAINS = 8  # of dependent products, at least: a product's latency in cycles times those that begin in one
_MAX_SUMS = 8 if isa().registers > 16 else 2  # of integers, in registers, beside those of float32 of a bundle
_AHEAD = 3 << 10  # words from what is read to what is prefetched, of few rows: by itself memory is read half as fast
_REACH = 5  # rows that x86 reaches from one pointer


class TileShape(NamedTuple):
    """kind : NIBBLES, SMALL or BYTES; rows : 1 to MR; panels : 1 or, of BUNDLE_ROWS at most, not SMALL, BUNDLE
    halves : scales are float16, as they are stored, and there are no minima: of a whole bundle"""

    kind: Any
    rows: Any
    panels: Any
    halves: Any


@register_jitable  # type: ignore[untyped-decorator]
def tile_number(shape: TileShape) -> Any:
    """The number of the tile of that shape, by which `add_group_tile` is told it."""
    layout = (shape.kind * 2 + shape.halves) * (BUNDLE + 1) + shape.panels
    return layout * (MR + 1) + shape.rows


class Codes(NamedTuple):
    """Words of B: pointer to a group's first NR, which the next panel's follow; from there to the group's next, and to
    the next group's."""

    pointer: Any
    word_step: Any
    group_step: Any


class _Operands(NamedTuple):
    """The LLVM values of a call after its tile's number."""

    groups: Any
    a: Any
    lda: Any
    b: Any
    word_step: Any
    group_step: Any
    scales: Any
    minimum: Any
    c: Any


_KINDS = (
    types.intp, types.CPointer(int32), types.intp, types.CPointer(int32), types.intp, types.intp,
    types.CPointer(float32), types.boolean, types.CPointer(float32),
)  # fmt: skip


@intrinsic  # type: ignore[untyped-decorator]
def add_group_tile(
    typing_context: Any, tile: Any, groups: Any, a: Any, b: Any, scales: Any, minimum: Any, c: Any
) -> Any:
    """Add a tile's products with a slab of so many groups to C: see the module.

    tile : `tile_number`; a : Rows of int32; b : Codes; scales, c : pointers to float32
    minimum : whether there is one. A slab begins with a block. A kernel that calls it must name `link_group_tile`.
    """

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        if not is_symbol(_SYMBOL):
            raise LoweringError("a kernel that calls add_group_tile must say link=link_group_tile")
        number, count, of_a, of_b, *rest = arguments
        flat = [count, *cgutils.unpack_tuple(builder, of_a), *cgutils.unpack_tuple(builder, of_b), *rest]
        operands = cgutils.pack_struct(builder, flat)
        place = builder.bitcast(cgutils.alloca_once_value(builder, operands), _POINTER)
        called = ir.FunctionType(ir.VoidType(), [number.type, place.type])
        function = cgutils.get_or_insert_function(builder.module, called, _SYMBOL)
        builder.call(function, [number, place])
        return context.get_dummy_value()

    rows = types.NamedTuple((types.CPointer(int32), types.intp), Rows)
    codes = types.NamedTuple((types.CPointer(int32), types.intp, types.intp), Codes)
    return types.void(types.intp, types.intp, rows, codes, *_KINDS[6:]), codegen


def link_group_tile() -> None:
    """Compile the tiles, or load them, once per process: `add_group_tile` calls them by name."""
    compile_symbol(_SYMBOL, _all_tiles, (types.intp, types.CPointer(int32)))


def _all_tiles(tile: int, operands: Any) -> None:
    """The function behind `add_group_tile`; operands : address of an `_Operands`."""
    _choose_tile(tile, operands)


def _shapes() -> Iterator[TileShape]:
    """The shape of every tile. Codes that are widened serve more rows than one tile's."""
    for kind in (NIBBLES, SMALL, BYTES):
        for rows in range(1, MR + 1):
            yield TileShape(kind, rows, 1, False)
            if kind != SMALL and rows <= BUNDLE_ROWS:
                yield TileShape(kind, rows, BUNDLE, False)
                yield TileShape(kind, rows, BUNDLE, True)


@intrinsic  # type: ignore[untyped-decorator]
def _choose_tile(typing_context: Any, tile: Any, operands: Any) -> Any:
    """All tiles, and the switch that chooses."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        number, place = arguments
        struct = ir.LiteralStructType([context.get_value_type(kind) for kind in _KINDS])
        given = builder.bitcast(place, struct.as_pointer())
        values = _Operands(*(builder.load(cgutils.gep_inbounds(builder, given, 0, i)) for i in range(len(_KINDS))))
        done = builder.append_basic_block("tile_done")
        switch = builder.switch(number, done)
        for shape in _shapes():
            block = builder.append_basic_block("group_tile")
            switch.add_case(scalar.index(tile_number(shape)), block)
            builder.position_at_end(block)
            _Tile(builder, shape, values).emit()
            builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return types.void(tile, operands), codegen


class _Cursor(NamedTuple):
    """The values that move with k: pointers to B's codes, the scales and every _REACH-th row of A; a block's sums."""

    b: Any
    scales: Any
    bases: list[Any]
    sums: list[Any]

    def flat(self) -> list[Any]:
        return [self.b, self.scales, *self.bases, *self.sums]


class _Tile:
    """Emits the product of one shape."""

    def __init__(self, builder: ir.IRBuilder, shape: TileShape, operands: _Operands) -> None:
        self.builder, self.operands = builder, operands
        kind, self.rows, self.panels, self.halves = shape
        self.products, self.nibbles = products_of(8 if kind == BYTES else 4), kind == NIBBLES
        self.vectors = self.panels * isa().group_tile.vectors
        panels = max(1, min(self.panels, _MAX_SUMS // (self.rows * isa().group_tile.vectors)))
        self.at_once = panels * isa().group_tile.vectors  # registers of a row whose sums of integers are made at once
        self.loads = WORDS // 2 if self.nibbles else WORDS  # words of B per group
        self.words = words()
        self.floats = emit.vector_type(float32, isa().lanes)
        lda = scalar.opaque(builder, operands.lda)
        triple = scalar.opaque(builder, builder.mul(lda, scalar.index(3)))
        twice, fourfold = (builder.mul(lda, scalar.index(times)) for times in (2, 4))
        # Read in memory's own order, a line here and there is enough for the hardware to fetch the others.
        self.prefetched = CACHE_LINE * (4 if self.at_once == self.vectors else 1)  # bytes from line to line
        step = operands.word_step
        if kind == SMALL or self.panels == BUNDLE:
            step = scalar.index(self.panels * NR)
        self.words_below = [builder.mul(step, scalar.index(word)) for word in range(self.loads)]
        self.below = (scalar.index(0), lda, twice, triple, fourfold)

    def emit(self) -> None:
        builder, operands = self.builder, self.operands
        bases = [
            builder.gep(operands.a, [builder.mul(operands.lda, scalar.index(row))])
            for row in range(0, self.rows, _REACH)
        ]
        per_block = scalar.index(GROUPS_PER_BLOCK)
        blocks = builder.sdiv(builder.add(operands.groups, scalar.index(GROUPS_PER_BLOCK - 1)), per_block)

        def block(_: Any, values: list[Any]) -> list[Any]:
            left, *begun = values
            groups = builder.select(builder.icmp_signed("<", left, per_block), left, per_block)
            return [builder.sub(left, groups), *self._block(groups, begun)]

        scalar.repeat(builder, blocks, [operands.groups, operands.b, operands.scales, *bases], block)

    def _block(self, groups: Any, values: list[Any]) -> list[Any]:
        """A block's products, added to C; the pointers after it."""
        zeros = [emit.zeros(self.floats)] * (self.rows * self.vectors)
        values = scalar.repeat(self.builder, groups, [*values, *zeros], self._group)
        cursor = self._cursor(values)
        for row in range(self.rows):
            place = self._of_row(cursor, row, SCALE - STEP, floats=True)
            scale = emit.broadcast(self.builder, self.builder.load(place), self.floats)
            for j in range(self.vectors):
                target = self.builder.gep(self.operands.c, [scalar.index(row * self.panels * NR + j * isa().lanes)])
                before = emit.load(self.builder, target, self.floats)
                total = cursor.sums[row * self.vectors + j]
                after = emit.multiply_add(self.builder, scale, total, before, self.floats)
                emit.store(self.builder, after, target, self.floats)
        return values[: -len(zeros)]

    def _cursor(self, values: list[Any]) -> _Cursor:
        count = self.rows * self.vectors
        return _Cursor(values[0], values[1], values[2:-count], values[-count:])

    def _of_row(self, cursor: _Cursor, row: int, word: int, *, floats: bool = False) -> Any:
        """Pointer to a word of the group's record in a row of A."""
        place = self.builder.gep(cursor.bases[row // _REACH], [self.below[row % _REACH]])
        place = self.builder.gep(place, [scalar.index(word)])
        return self.builder.bitcast(place, ir.FloatType().as_pointer()) if floats else place

    def _group(self, _: Any, values: list[Any]) -> list[Any]:
        """The cursor's values after one group: its sums of integers, scaled."""
        builder, cursor = self.builder, self._cursor(values)
        starts: list[Callable[[], Any]] = [
            functools.partial(self._broadcast, cursor, row, START) for row in range(self.rows)
        ]
        totals = list(cursor.sums)
        for first in range(0, self.vectors, self.at_once):
            registers = range(first, min(first + self.at_once, self.vectors))
            sums = self._sums_of_products(cursor, starts, registers)
            scales = [self._scale(cursor, j) for j in registers]
            for place, so_far in enumerate(sums):
                row, j = divmod(place, len(registers))
                value = builder.sitofp(self.products.finish(builder, so_far, starts[row]), self.floats)
                at = row * self.vectors + registers[j]
                totals[at] = emit.multiply_add(builder, value, scales[j], totals[at], self.floats)
        if not self.halves:
            totals = self._with_minimum(cursor, totals)
        return _Cursor(
            builder.gep(cursor.b, [self.operands.group_step]),
            self._scales_after(cursor),
            [scalar.opaque(builder, builder.gep(base, [scalar.index(STEP)])) for base in cursor.bases],
            totals,
        ).flat()

    def _sums_of_products(self, cursor: _Cursor, starts: list[Callable[[], Any]], registers: range) -> list[Any]:
        """The group's sums in some registers' columns: of few rows in several chains, to hide a product's latency; any
        order is exact."""
        builder = self.builder
        places = self.rows * len(registers)
        chains = max(1, _CHAINS // (self.rows * self.vectors))
        sums = [self.products.begin(builder, starts[place // len(registers)]) for place in range(places)]
        sums += [self.products.begin(builder, lambda: emit.zeros(self.words))] * (places * (chains - 1))
        for count, (k, b) in enumerate(self._quads(cursor, registers)):
            for row in range(self.rows):
                a = self.products.prepare_a(builder, self._broadcast(cursor, row, k))
                for j in range(len(registers)):
                    place = count % chains * places + row * len(registers) + j
                    sums[place] = self.products.add(builder, a, b[j], sums[place])
        return [functools.reduce(builder.add, sums[place::places]) for place in range(places)]

    def _broadcast(self, cursor: _Cursor, row: int, word: int) -> Any:
        return emit.broadcast(self.builder, self.builder.load(self._of_row(cursor, row, word)), self.words)

    def _place(self, j: int) -> tuple[int, int]:
        """The panel, and the column in it, that a register begins at."""
        return j // isa().group_tile.vectors, j % isa().group_tile.vectors * isa().lanes

    def _scale(self, cursor: _Cursor, j: int, row: int = 0) -> Any:
        """A register of scales, or, a slab of rows further, of minima."""
        panel, column = self._place(j)
        if self.halves:
            halves = self.builder.gep(self._halves(cursor), [scalar.index(panel * NR + column)])
            return widened_halves(self.builder, self.floats, halves)
        place = self.builder.gep(cursor.scales, [scalar.index((row * BUNDLE + panel) * NR + column)])
        return emit.load(self.builder, place, self.floats)

    def _halves(self, cursor: _Cursor) -> Any:
        return self.builder.bitcast(cursor.scales, ir.IntType(16).as_pointer())

    def _scales_after(self, cursor: _Cursor) -> Any:
        """Pointer to the scales of the next group; halves are prefetched as far ahead as codes."""
        builder, step = self.builder, self.panels * NR
        if not self.halves:
            return builder.gep(cursor.scales, [scalar.index(step)])
        halves = self._halves(cursor)
        for place in range(0, step, CACHE_LINE // 2):
            emit.prefetch(builder, builder.gep(halves, [scalar.index(_AHEAD // self.loads + place)]))
        return builder.bitcast(builder.gep(halves, [scalar.index(step)]), cursor.scales.type)

    def _with_minimum(self, cursor: _Cursor, totals: list[Any]) -> list[Any]:
        """The sums after `minimum`, where there is one."""
        builder, before = self.builder, self.builder.block
        with builder.if_then(self.operands.minimum):
            minima = [self._scale(cursor, j, SLAB) for j in range(self.vectors)]
            added = []
            for row in range(self.rows):
                value = builder.load(self._of_row(cursor, row, SUM, floats=True))
                of_row = emit.broadcast(builder, value, self.floats)
                added += [
                    emit.multiply_add(builder, of_row, minima[j], totals[row * self.vectors + j], self.floats)
                    for j in range(self.vectors)
                ]
            inside = builder.block
        merged = [builder.phi(self.floats) for _ in totals]
        for phi, without, value in zip(merged, totals, added, strict=True):
            phi.add_incoming(without, before)
            phi.add_incoming(value, inside)
        return merged

    def _quads(self, cursor: _Cursor, registers: range) -> Iterator[tuple[int, list[Any]]]:
        """(word of A, registers of B that it is multiplied with), for all words of the group, emitted one at a time."""
        builder = self.builder
        for word in range(self.loads):
            loaded = [self._codes(cursor, word, j) for j in registers]
            for half in range(2) if self.nibbles else (None,):
                b = loaded if half is None else [widened(builder, each, half) for each in loaded]
                yield word + (half or 0) * WORDS // 2, [self.products.prepare_b(builder, each) for each in b]

    def _codes(self, cursor: _Cursor, word: int, j: int) -> Any:
        panel, column = self._place(j)
        place = self.builder.gep(cursor.b, [self.words_below[word]])
        place = self.builder.gep(place, [scalar.index(panel * NR + column)])
        if self.panels > 1 and (word * BUNDLE * NR + panel * NR + column) * 4 % self.prefetched == 0:
            emit.prefetch(self.builder, self.builder.gep(place, [scalar.index(_AHEAD)]))
        return emit.load(self.builder, place, self.words)


def widened(builder: ir.IRBuilder, b: Any, half: int) -> Any:
    """The lower (0) or upper (1) nibble of each byte, as a byte."""
    low = ir.Constant(b.type, [0x0F0F0F0F] * b.type.count)
    return builder.and_(builder.lshr(b, ir.Constant(b.type, [4] * b.type.count)) if half else b, low)
