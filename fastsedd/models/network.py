"""What the forward pass asks of an architecture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import fastsedd_kernels as fk
import numpy as np
from numpy.typing import NDArray

from fastsedd.choices import DTYPES, check_one_of
from fastsedd.config import ModelConfig
from fastsedd.models.layers import Linear
from fastsedd.models.workspace import Rows, Workspace


@dataclass(frozen=True)
class Precision:
    """What a network computes in, by part: the linear layers of its blocks, the products of attention, the head.

    The noise embedding, the adaLN layers and norms are float32 always: they are cheap, and scale all the rest.
    Raises ValueError for another dtype than float32, bfloat16 and int8.
    """

    blocks: str = "float32"

    def __post_init__(self) -> None:
        check_one_of("dtype", self.blocks, DTYPES)

    @property
    def attention(self) -> str:
        return "float32" if self.blocks == "float32" else "bfloat16"

    def facts(self) -> list[tuple[str, str]]:
        """What each part is computed in, for a reader."""
        return [
            ("linear layers", f"{self.blocks}, multiplied by {_unit(self.blocks)}"),
            ("attention", self.attention),
            ("head", self.head),
            ("norms and noise", "float32"),
        ]

    @property
    def head(self) -> str:
        """Of int8 the head stays bfloat16: its errors are errors of the scores themselves."""
        return self.attention


def _unit(dtype: str) -> str:
    cpu = fk.cpu_info()
    return {"bfloat16": cpu.bfloat16, "int8": cpu.int8}.get(dtype, cpu.isa)


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
