"""`gelu` and `silu`: arguments checked and flattened, then one call down."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastsedd_kernels.activation.kernel import CHUNK, GELU, GELU_TANH, SILU, activate_chunks
from fastsedd_kernels.runtime.arrays import as_array, check_apart, contiguous, output_like


def gelu(x: ArrayLike, approximate: str = "none", out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """GELU of every element: x * Phi(x), or its tanh form, as `torch.nn.functional.gelu` names them.

    x : float32, any shape; out : float32 of the same shape, C-contiguous, may be x itself
    approximate : "none" (erf) or "tanh"
    Error, for every x: below 1.2e-7 + 2^-24 |gelu(x)|, half a unit in the last place and two of 1; below 1e-8 for
    x < -4; relative to the result below 1e-6 for x > -1. Exactly 0 from -7.5 ("tanh": -6.25) to minus infinity, whose
    limit it takes (where PyTorch's formula gives NaN); infinity for infinity, NaN for NaN.
    Raises ValueError for another `approximate`, dtype or shape.
    """
    if approximate not in ("none", "tanh"):
        raise ValueError(f"approximate is {approximate!r}, allowed are 'none' and 'tanh'")
    return _elementwise(GELU if approximate == "none" else GELU_TANH, x, out)


def silu(x: ArrayLike, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """SiLU of every element: x / (1 + e^-x). x and out as for `gelu`.

    Error, relative to the result: below 2e-7, and below 1e-6 for x < -86. Exactly 0 from -88.73 to minus infinity,
    whose limit it takes (where PyTorch's formula gives NaN): off by 3e-37 at most; infinity and NaN for themselves.
    """
    return _elementwise(SILU, x, out)


def _elementwise(activation: int, x: ArrayLike, out: NDArray[np.float32] | None) -> NDArray[np.float32]:
    x = contiguous(as_array("x", x))
    out = output_like("out", out, x.shape)
    check_apart(out, in_place=True, x=x)
    if x.size:
        activate_chunks(-(-x.size // CHUNK), x.reshape(-1), activation, out.reshape(-1))
    return out
