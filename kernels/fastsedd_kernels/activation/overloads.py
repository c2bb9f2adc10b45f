"""`gelu` and `silu` inside njit functions; see `runtime/inside_numba`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.extending import register_jitable

from fastsedd_kernels.activation.api import GELU_FORMS, gelu, silu
from fastsedd_kernels.activation.kernel import CHUNK, activate_chunks
from fastsedd_kernels.activation.table import ACTIVATIONS
from fastsedd_kernels.runtime.inside_numba import caller, constant, implements, or_new, require, require_out

_activate = caller(activate_chunks)


def _elementwise(x: Any, out: Any, name: str) -> Any:
    """An njit function of (x, out), for the activation of that name."""
    number = ACTIVATIONS[name]
    require("x", x, (1, 2, 3, 4))
    require_out(out, (x.ndim,))
    target = or_new(out, np.float32)

    @register_jitable
    def computed(x: Any, out: Any) -> Any:
        result = target(out, x.shape)
        tasks = -(-result.size // CHUNK)
        _activate(tasks, (np.ascontiguousarray(x).reshape(-1), np.intp(number), result.reshape(-1)))
        return result

    return computed


@implements(gelu)
def _gelu(x: Any, approximate: Any = "none", out: Any = None) -> Any:
    computed = _elementwise(x, out, GELU_FORMS[constant("approximate", approximate, tuple(GELU_FORMS))])

    def implementation(x: Any, approximate: Any = "none", out: Any = None) -> Any:
        return computed(x, out)

    return implementation


@implements(silu)
def _silu(x: Any, out: Any = None) -> Any:
    computed = _elementwise(x, out, "silu")

    def implementation(x: Any, out: Any = None) -> Any:
        return computed(x, out)

    return implementation
