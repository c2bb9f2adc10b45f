"""`sample_categorical` inside njit functions; see `runtime/inside_numba`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import register_jitable

from fastsedd_kernels.runtime.inside_numba import caller, constant, implements, or_new, require, require_out
from fastsedd_kernels.sampling.api import METHODS, sample_categorical
from fastsedd_kernels.sampling.categorical import draw_rows, tasks_for

_draw = caller(draw_rows)

register_jitable(tasks_for)


@implements(sample_categorical)
def _sample(probabilities: Any, seed: Any, offset: Any = 0, method: Any = "exact", out: Any = None) -> Any:
    require("probabilities", probabilities, (2,))
    require_out(out, (1,), types.int32)
    official = constant("method", method, METHODS) == "official"
    target = or_new(out, np.int32)

    def implementation(
        probabilities: Any, seed: Any, offset: Any = 0, method: Any = "exact", out: Any = None
    ) -> Any:  # fmt: skip
        rows = probabilities.shape[0]
        if probabilities.shape[1] == 0:
            raise ValueError("probabilities must be [rows, V] with V at least 1")
        drawn = target(out, (rows,))
        streams, seeds = np.empty(rows, np.uint64), np.empty(1, np.uint64)
        seeds[0] = np.uint64(seed)
        for row in range(rows):
            streams[row] = np.uint64(offset) + np.uint64(row)
        _draw(tasks_for(rows), (np.ascontiguousarray(probabilities), seeds, streams, official, drawn))
        for row in range(rows):
            if drawn[row] < 0:
                raise ValueError("probabilities has a row without a positive weight")
        return drawn

    return implementation
