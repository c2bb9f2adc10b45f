"""Memory that does not outlive a call and is used again by the next: fresh pages cost more than writing to them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastsedd_kernels as fk
from fastsedd_kernels.torch.per_thread import PerThread


class Scratch(PerThread):
    """Arrays by name, each as large as the largest request so far."""

    def array(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """A float32 array of that shape; it holds anything, and is the caller's until it asks for the name again."""
        return self._memory(name, math.prod(shape[:-1]), shape[-1], fk.aligned_empty).reshape(shape)

    def padded(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """The same with padded rows, for what passes from `fk.linear` to `fk.linear`."""
        return self._memory(name, math.prod(shape[:-1]), shape[-1], fk.padded_empty).reshape(shape)

    def _memory(self, name: str, rows: int, width: int, allocate: Callable[..., NDArray[Any]]) -> NDArray[np.float32]:
        """Rows of the memory of that name, if it is as wide and as long, or of new memory."""
        arrays: dict[str, NDArray[np.float32]] = self.mine
        if name not in arrays or len(arrays[name]) < rows or arrays[name].shape[1] != width:
            arrays[name] = allocate((rows, width))
        return arrays[name][:rows]
