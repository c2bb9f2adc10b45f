"""What an object keeps for each thread that uses it: no lock, and nothing that is copied or pickled with it."""

from __future__ import annotations

import threading
from typing import Any


class PerThread:
    """What each thread keeps for itself, by name. A copy starts empty."""

    def __init__(self) -> None:
        self._local = threading.local()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()

    @property
    def mine(self) -> dict[str, Any]:
        """The calling thread's."""
        return self._local.__dict__
