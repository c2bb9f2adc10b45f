"""Memory for what does not outlive a call, used again by the next: fresh pages cost more than writing to them."""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastsedd_kernels as fk


class Scratch:
    """Arrays by name, a set for each thread, each as large as was ever asked for. A copy starts empty."""

    def __init__(self) -> None:
        self._local = threading.local()

    def __reduce__(self) -> tuple[Any, ...]:
        return Scratch, ()

    def array(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """A float32 array of that shape; it holds anything, and is the caller's until it asks for the name again."""
        arrays: dict[str, NDArray[np.float32]] = self._local.__dict__
        count = math.prod(shape)
        if name not in arrays or arrays[name].size < count:
            arrays[name] = fk.aligned_empty((count,))
        return arrays[name][:count].reshape(shape)
