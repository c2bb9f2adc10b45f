"""`Denoising`: a batch that is written step by step, by the steps of whoever asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fastsedd.diffusion.sampler import Batch, StepRecord
from fastsedd.engine import Writing


class Denoising:
    """Texts on their way out of noise. Between two steps some of them may be left out; the others stay what they are.

    batch : the texts that are left, in order; they may be those of several requests, whose writings have one shape
    """

    def __init__(self, writing: Writing[Any], batch: Batch) -> None:
        self.batch = batch
        self._writing = writing
        self._last: StepRecord | None = None
        self._records = writing.sampler.run(writing.networks(len(batch)), batch)

    def step(self) -> StepRecord | None:
        """The next step, None after the last one; its tokens are the sampler's, overwritten by the next step."""
        self._last = next(self._records, None)
        return self._last

    def keep(self, rows: Sequence[int]) -> None:
        """Leave out all texts but these, 0 to B - 1, in this order; at least one."""
        self.batch = self.batch.part(rows)
        networks = self._writing.networks(len(self.batch))
        after = None if self._last is None else replace(self._last, tokens=self._last.tokens[list(rows)])
        self._last = after
        self._records = self._writing.sampler.run(networks, self.batch, after)
