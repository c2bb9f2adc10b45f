"""Forward passes over texts that are written from left to right, with the keys and values of what is final kept.

Scratch memory is rows of numbers: those of the positions of a pass, text after text. Under block-causal attention a
block sees itself and what lies before it; once it is final, so are its keys and values.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import fastsedd_kernels as fk
import numpy as np
from numpy.typing import NDArray

from fastsedd.block_layout import BlockLayout
from fastsedd.models.backbone.network import Backbone, Floats, Layer
from fastsedd.models.forward import Recorded

PREFILL = 256  # positions in one pass, where there are more final ones than that

_ROWS = 32  # positions whose logits are taken at a time, where all of them are
_MAX_RECORDINGS = 8


class Session:
    """The state of one batch of texts. Not for two threads at once.

    batch, length : of the texts; blocks : of block-causal attention, None for full attention
    cached : keys and values of final blocks are kept; else each pass computes them anew, to the same bits
    shift : the logits at position i - 1 are those of token i, and position 0 keeps its own
    window : positions that are asked about at a time, at most; the whole text if None
    """

    def __init__(
        self, network: Backbone, batch: int, length: int, blocks: BlockLayout | None, *, cached: bool = True,
        shift: bool = False, window: int | None = None,
    ) -> None:  # fmt: skip
        sizes = network.sizes
        self._network, self._blocks, self._shift = network, blocks, shift
        self._cached = cached and blocks is not None
        self._batch, self._length = batch, length
        self._final = 0  # positions whose keys and values are final
        self._first = self._last = 0  # of the last pass
        widest = length
        if blocks is not None and window is not None:
            widest = min(length, max(PREFILL, blocks.length) + window + 2 * blocks.length)
        self._queries = network.config.heads * sizes.head_dim
        width, rows = network.config.width, batch * widest
        self._x = fk.aligned_empty((rows, width))
        self._normed = fk.aligned_empty((rows, width))
        self._q = fk.padded_empty((rows, self._queries))
        self._kv = fk.padded_empty((rows, 2 * sizes.kv_heads * sizes.head_dim))
        self._attended = fk.aligned_empty((rows, self._queries))
        self._hidden = fk.padded_empty((rows, sizes.hidden))
        self._caches = [] if blocks is None else caches(network, batch, length)
        self._order, self._row_of = np.arange(length), np.arange(length)  # positions of rows, and rows of positions
        self._table = network.rotary_table(length)
        self._recorded: dict[tuple[int, int], Recorded] = {}
        self._logits = np.empty((0, network.config.vocab_size), np.float32)
        self._boundary = np.zeros((batch, width), np.float32)  # features of the last final position, for the shift

    @property
    def nbytes(self) -> int:
        """Scratch memory and cache."""
        arrays = (self._x, self._normed, self._q, self._kv, self._attended, self._hidden)
        return sum(array.nbytes for array in arrays) + sum(cache.nbytes for cache in self._caches)

    def run(self, tokens: NDArray[np.int32], first: int, last: int) -> None:
        """See `unmasking.sampler.Network`."""
        if self._blocks is None:
            self._pass(tokens, 0, self._length)
            return
        begin = self._blocks.begin(first)
        end = min(self._blocks.end(last - 1), self._length)
        start = self._final if self._cached and self._final <= begin else 0
        while (stop := self._stop(start)) < begin:
            self._pass(tokens, start, stop)
            start = stop
        self._pass(tokens, start, end)
        if self._shift and start < begin:
            self._boundary[...] = self._features(self._places(np.arange(self._batch), np.intp(begin - 1)))
        self._final = begin

    def logits(self, rows: NDArray[np.intp]) -> Floats:
        """See `unmasking.sampler.Network`."""
        text, position = np.divmod(rows, self._length)
        if self._shift:
            position = np.maximum(position - 1, 0)
        before = self._row_of[position] < self._first
        features = self._features(self._places(text, np.where(before, self._order[self._first], position)))
        if before.any():
            features[before] = self._boundary[text[before]]
        if len(self._logits) < len(rows):
            self._logits = fk.aligned_empty((len(rows), self._network.config.vocab_size))
        return self._network.head(features, self._logits[: len(rows)])

    def all_logits(self, tokens: NDArray[np.int32]) -> Floats:
        """Logits of every position of a state, not shifted: float32 [B, L, V]."""
        out = np.empty((self._batch, self._length, self._network.config.vocab_size), np.float32)
        start = 0
        while start < self._length:
            stop = self._length if self._blocks is None else self._stop(start)
            self._pass(tokens, start, stop)
            for first in range(start, stop, _ROWS):
                last = min(first + _ROWS, stop)
                places = self._places(np.arange(self._batch)[:, None], np.arange(first, last)).reshape(-1)
                out[:, first:last] = self._network.head(self._features(places)).reshape(self._batch, last - first, -1)
            start = stop
        return out

    def _stop(self, start: int) -> int:
        """The end of a pass over whole blocks that begins there."""
        assert self._blocks is not None
        stop = self._blocks.begin(start + PREFILL)
        return min(stop if stop > start else self._blocks.end(start), self._length)

    def _places(self, text: NDArray[np.intp], position: NDArray[np.intp] | np.intp) -> NDArray[np.intp]:
        """Rows that positions of texts have in the last pass."""
        return text * (self._last - self._first) + (self._row_of[position] - self._first)

    def _pass(self, tokens: NDArray[np.int32], start: int, stop: int) -> None:
        """All layers of some rows, but for what the last one does after its attention."""
        self._first, self._last = start, stop
        places = self._order[start:stop]
        window = tokens[:, places]
        self._network.embed(window, places, self._x[: window.size])
        if (start, stop) not in self._recorded:
            if len(self._recorded) == _MAX_RECORDINGS:
                self._recorded.clear()
            self._recorded[start, stop] = Recorded(partial(self._trunk, start, stop))
        self._recorded[start, stop]()

    def _trunk(self, start: int, stop: int) -> None:
        network, rows = self._network, self._batch * (stop - start)
        x, normed, attended, hidden = (each[:rows] for each in (self._x, self._normed, self._attended, self._hidden))
        for i, layer in enumerate(network.layers):
            if i > 0:
                network.layers[i - 1].finish(attended, x, normed, hidden)
            layer.take_in(x, normed)
            self._attend(layer, self._caches[i] if self._caches else None, start, stop)

    def _attend(self, layer: Layer, cache: fk.KVCache | None, start: int, stop: int) -> None:
        """Attention of some rows to all that they see, from normed to attended; their keys and values are kept."""
        sizes, rows = self._network.sizes, self._batch * (stop - start)
        layer.queries(self._normed[:rows], self._q[:rows])
        layer.keys_values(self._normed[:rows], self._kv[:rows])
        queries, attended = self._heads(self._q[:rows]), self._heads(self._attended[:rows])
        keys, values = np.split(self._heads(self._kv[:rows]), 2, axis=1)
        if self._table is not None:
            angles = fk.RotaryTable(self._table.cosines[start:stop], self._table.sines[start:stop])
            for each, norm in ((queries, layer.query_norm), (keys, layer.key_norm)):
                fk.rotary(each, table=angles, norm=norm, eps=sizes.eps, out=each)
        if cache is None:
            fk.attention(queries, keys, values, out=attended, dtype=self._network.attention)
            return
        cache.truncate(start)
        for first, last in [(start, stop)] if self._blocks is None else self._blocks.spans(start, stop):
            some = slice(first - start, last - start)
            cache.append(keys[:, :, some], values[:, :, some])
            cache.attend(queries[:, :, some], out=attended[:, :, some], mask=self._seen(first, last))

    def _seen(self, first: int, last: int) -> NDArray[np.bool_] | None:
        """Positions before `last` that the block from `first` on sees: bool [1, 1, 1, last]; None for all of them."""
        begin = 0 if self._blocks is None else self._blocks.first_seen(first)
        return np.arange(last)[None, None, None] >= begin if begin > 0 else None

    def _heads(self, rows: Floats) -> Floats:
        """[texts * positions, heads * dim] as a view [texts, heads, positions, dim]."""
        return rows.reshape(self._batch, len(rows) // self._batch, -1, self._network.sizes.head_dim).swapaxes(1, 2)

    def _features(self, places: NDArray[Any]) -> Floats:
        """Features that the head multiplies, of rows of the last pass: the rest of its last layer, then the norm."""
        network, count = self._network, len(places)
        width = network.config.width
        x = fk.aligned_empty((count, width))
        attended = fk.aligned_empty((count, self._queries))
        fk.embedding(places, self._x.reshape(-1, width), out=x)
        fk.embedding(places, self._attended.reshape(-1, self._queries), out=attended)
        normed = fk.aligned_empty((count, width))
        hidden = fk.padded_empty((count, network.sizes.hidden))
        network.layers[-1].finish(attended, x, normed, hidden)
        return network.last_norm(x, normed)


def caches(network: Backbone, batch: int, length: int) -> list[fk.KVCache]:
    """Empty ones, for each layer, of texts of that length."""
    sizes = network.sizes
    shape = (batch, sizes.kv_heads, sizes.head_dim, length)
    return [fk.KVCache(*shape, dtype=network.attention) for _ in network.layers]
