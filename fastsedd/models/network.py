"""The protocol of a network, as the forward pass uses it."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fastsedd.architectures.base import ModelConfig
from fastsedd.models.layers import Linear
from fastsedd.models.workspace import Rows, Workspace


class Network(Protocol):
    """An architecture with its weights: immutable once built, so that several threads may run it, each in memory of
    its own. Both methods run kernels alone: they are recorded.

    head : from the width to a logit for each state. What needs the noise itself, or is known by definition, is added
    to logits afterwards (`Forward`).
    """

    @property
    def config(self) -> ModelConfig: ...

    @property
    def head(self) -> Linear: ...

    def trunk(self, scratch: Workspace) -> None:
        """From scratch.tokens and scratch.sinusoids to scratch.x and scratch.attended, in which the last block has
        attended: no position needs another one from there on."""

    def finish(self, scratch: Workspace, rows: Rows) -> NDArray[np.float32]:
        """The rest of the last block and the last norm: what the head multiplies, in rows.normed."""
