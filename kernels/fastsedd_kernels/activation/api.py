"""`gelu` and `silu`: arguments checked and flattened, then one call down."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastsedd_kernels.activation.kernel import CHUNK, activate_chunks
from fastsedd_kernels.activation.table import ACTIVATIONS
from fastsedd_kernels.runtime.arrays import as_array, check_apart, contiguous, output_like

GELU_FORMS = {"none": "gelu", "tanh": "gelu_tanh"}  # names of activations, by what PyTorch calls `approximate`


def gelu(x: ArrayLike, approximate: str = "none", out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """GELU of every element: x * Phi(x), or its tanh form, as `torch.nn.functional.gelu` names them.

    x : float32, any shape; out : float32 of the same shape, C-contiguous, may be x itself
    approximate : "none" (erf) or "tanh"
    Error, for every x: below 1.2e-7 + 2^-24 |gelu(x)|, half a unit in the last place and two of 1; below 1e-8 for
    x < -4; relative to the result below 1e-6 for x > -1. Exactly 0 from -7.5 ("tanh": -6.25) to minus infinity, whose
    limit it takes (where PyTorch's formula gives NaN); infinity for infinity, NaN for NaN.
    Raises ValueError for another `approximate`, dtype or shape.
    Source: Hendrycks and Gimpel 2016; minimax fits of our own.
    """
    if approximate not in GELU_FORMS:
        raise ValueError(f"approximate is {approximate!r}, allowed: {', '.join(map(repr, GELU_FORMS))}")
    return activate(GELU_FORMS[approximate], x, out)


def silu(x: ArrayLike, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """SiLU of every element: x / (1 + e^-x). x and out as for `gelu`.

    Error, relative to the result: below 2e-7, and below 1e-6 for x < -86. Exactly 0 from -88.73 to minus infinity,
    whose limit it takes (where PyTorch's formula gives NaN): off by 3e-37 at most; infinity and NaN for themselves.
    Raises ValueError for another dtype or shape. Source: Elfwing et al. 2018; exp as in Cephes (Moshier 1992).
    """
    return activate("silu", x, out)


def activate(name: str, x: ArrayLike, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """The activation of that name in `table.ACTIVATIONS`, of every element. x and out as for `gelu`."""
    x = contiguous(as_array("x", x))
    out = output_like("out", out, x.shape)
    check_apart(out, in_place=True, x=x)
    if x.size:
        activate_chunks(-(-x.size // CHUNK), x.reshape(-1), ACTIVATIONS[name], out.reshape(-1))
    return out
