"""State of an object for each thread that uses it: without a lock, and neither copied nor pickled with it."""

from __future__ import annotations

import threading
from typing import Any


class PerThread:
    """Values of each thread, by name. A copy starts empty."""

    def __init__(self) -> None:
        self._local = threading.local()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()

    @property
    def mine(self) -> dict[str, Any]:
        """The calling thread's."""
        return self._local.__dict__
