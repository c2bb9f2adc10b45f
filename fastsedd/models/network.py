"""What the forward pass asks of an architecture."""

from __future__ import annotations

from typing import Protocol

from fastsedd.config import ModelConfig
from fastsedd.models.workspace import Workspace


class Network(Protocol):
    """An architecture with its weights: immutable once built, so that several threads may run it, each in memory of
    its own."""

    @property
    def config(self) -> ModelConfig: ...

    def run(self, scratch: Workspace) -> None:
        """From scratch.tokens and scratch.sinusoids to scratch.log_score, by kernels alone: it is recorded.

        What needs the noise itself, or is zero by definition, is added afterwards (`Forward`).
        """
