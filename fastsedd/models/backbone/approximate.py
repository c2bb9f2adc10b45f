"""Passes of full attention that take up keys and values of their block's first step: Fast-dLLM's two caches.

Under full attention every key depends on every token, so what is kept is stale as soon as a token is committed to: an
approximation. A block's first step runs over the whole text; its later ones over what follows the tokens whose keys
and values are kept, which are those before the block (the prefix cache) or all outside of it (the dual cache).
Source: Wu et al. 2025, Fast-dLLM, section 3.2.
"""

from __future__ import annotations

import fastsedd_kernels as fk
import numpy as np
from numpy.typing import NDArray

from fastsedd.models.backbone.network import Backbone
from fastsedd.models.backbone.session import Session, caches


class ApproximateSession(Session):
    """A `Session` of full attention that does so.

    dual : whether keys and values behind the block are kept as well as those before it
    """

    def __init__(self, network: Backbone, batch: int, length: int, *, dual: bool, shift: bool = False) -> None:
        super().__init__(network, batch, length, None, shift=shift)
        self._dual = dual
        self._caches = caches(network, batch, length)
        self._natural = self._table
        if self._natural is not None:
            self._table = fk.RotaryTable(self._natural.cosines.copy(), self._natural.sines.copy())
        self._block = (0, 0)  # that the caches are of

    def run(self, tokens: NDArray[np.int32], first: int, last: int) -> None:
        if self._block == (first, last):
            self._pass(tokens, self._length - (last - first) if self._dual else first, self._length)
            return
        if self._dual:
            self._reorder(first, last)
        self._pass(tokens, 0, self._length)
        self._block = (first, last)
        if self._shift and first > 0:
            self._boundary[...] = self._features(self._places(np.arange(self._batch), np.intp(first - 1)))

    def _reorder(self, first: int, last: int) -> None:
        """Put the block's rows behind all others, so that what is kept comes first."""
        self._order[...] = np.r_[:first, last : self._length, first:last]
        self._row_of[self._order] = np.arange(self._length)
        for natural, ordered in zip(self._natural or (), self._table or (), strict=True):
            np.take(natural, self._order, axis=0, out=ordered)
