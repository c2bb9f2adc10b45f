"""The results of requests: texts, and bounds on how likely a text is."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Sample:
    """One generated text.

    tokens : int32 [L]; index : its number in the request; steps : as requested, the denoiser's not counted
    seconds : its share of the time of its batch's steps
    """

    text: str
    tokens: NDArray[np.int32]
    seed: int
    index: int
    steps: int
    seconds: float


@dataclass(frozen=True)
class Result:
    """All samples of a request, in order. tokens : int32 [B, L]."""

    texts: list[str]
    tokens: NDArray[np.int32]
    seed: int


@dataclass(frozen=True)
class Evaluation:
    """A bound on a text's -log p, in nats per token, with standard errors over windows: None where there is only one.

    by_window : float64 [windows], whose mean is `nats`
    ends : share of `nats` that the noise outside the schedule adds, which the published code leaves out
    tokens, left_out : how many the windows hold, and how many a rest too short for one
    characters : of the windows' text
    times : at how many times each window was noised
    """

    by_window: NDArray[np.float64]
    ends: float
    tokens: int
    characters: int
    left_out: int
    times: int
    seed: int

    @property
    def windows(self) -> int:
        """Number of windows."""
        return len(self.by_window)

    @property
    def nats(self) -> float:
        """Upper bound on -log p, in nats per token."""
        return float(self.by_window.mean())

    @property
    def nats_error(self) -> float | None:
        """Standard error of `nats`."""
        return float(self.by_window.std(ddof=1)) / math.sqrt(self.windows) if self.windows > 1 else None

    @property
    def nats_per_character(self) -> float:
        """Upper bound on -log p, in nats per character: comparable between models of different tokens."""
        return self.nats * self.tokens / self.characters

    @property
    def nats_per_character_error(self) -> float | None:
        """Standard error of `nats_per_character`."""
        return None if self.nats_error is None else self.nats_error * self.tokens / self.characters

    @property
    def bits(self) -> float:
        """Upper bound on -log2 p, in bits per token."""
        return self.nats / math.log(2.0)

    @property
    def bits_error(self) -> float | None:
        """Standard error of `bits`."""
        return None if self.nats_error is None else self.nats_error / math.log(2.0)

    @property
    def perplexity(self) -> float:
        """Upper bound on the perplexity per token, e^nats."""
        return float(np.exp(self.nats))

    @property
    def perplexity_error(self) -> float | None:
        """Standard error of `perplexity`, to first order."""
        return None if self.nats_error is None else self.perplexity * self.nats_error
