"""A session whose texts have a token before them that its caller does not see."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastsedd.models.backbone.session import Session


@dataclass(frozen=True)
class Started:
    """A network for `unmasking`; length : of the texts without their start; start : int32 [1], or [0] for none"""

    session: Session
    length: int
    start: NDArray[np.int32]

    @property
    def nbytes(self) -> int:
        return self.session.nbytes

    def run(self, tokens: NDArray[np.int32], first: int, last: int) -> None:
        before = np.broadcast_to(self.start, (len(tokens), len(self.start)))
        more = len(self.start)
        self.session.run(np.concatenate([before, tokens], axis=1), first + more, last + more)

    def logits(self, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        text, position = np.divmod(rows, self.length)
        more = len(self.start)
        return self.session.logits(text * (self.length + more) + position + more)
