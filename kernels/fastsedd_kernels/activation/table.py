"""The one table of activations: names, kernels' functions and references follow from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastsedd_kernels.activation import reference
from fastsedd_kernels.activation.vectors import gelu_erf, gelu_tanh, silu_vector
from fastsedd_kernels.runtime.jit import jit


class Activation(NamedTuple):
    """name : as `linear(activation=...)` takes it; vector : its function of a register; reference : in float64"""

    name: str
    vector: Any
    reference: Callable[[NDArray[np.float64]], NDArray[np.float64]]


TABLE = (
    Activation("gelu", gelu_erf, reference.gelu),
    Activation("gelu_tanh", gelu_tanh, reference.gelu_tanh),
    Activation("silu", silu_vector, reference.silu),
)

IDENTITY = 0

# Numbers that kernels know the activations by; None is the identity.
ACTIVATIONS: dict[str | None, int] = {None: IDENTITY, **{each.name: i for i, each in enumerate(TABLE, start=1)}}


def _chosen(number: int) -> Any:
    """A function of kernels (x, activation): the table's activation from that number on, or else the identity."""
    if number > len(TABLE):
        return jit(lambda x, activation: x)
    vector, others = TABLE[number - 1].vector, _chosen(number + 1)

    def choose(x: Any, activation: int) -> Any:
        if activation == number:
            return vector(x)
        return others(x, activation)

    return jit(choose)


# activate(x, number) : the activation of that number, of a vector; any other number is the identity.
activate = _chosen(1)
