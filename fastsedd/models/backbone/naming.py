"""A checkpoint's tensors under the names of Qwen2, Qwen3 and Llama, whatever its authors call them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from fastsedd.architectures.base import ModelConfig
from fastsedd.models.layers import Tensors


class Blocks(Protocol):
    """A matrix as a GGUF file has it. data : uint8 [outputs, bytes of a row]; shape : of the numbers"""

    @property
    def type(self) -> str: ...

    @property
    def data(self) -> NDArray[np.uint8]: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    def rows(self, numbers: NDArray[Any]) -> NDArray[np.float32]:
        """Rows in float32 [n, inputs]; numbers : integers [n]"""


@runtime_checkable
class Stored(Protocol):
    """Tensors of a file, of which some rows are read at a time, and which may hold matrices as blocks."""

    def rows(self, name: str, first: int, last: int) -> NDArray[np.float32]: ...

    def blocks(self, name: str, first: int, last: int) -> Blocks | None: ...

    def dtype_of(self, name: str) -> str: ...


class Named(Mapping[str, NDArray[np.float32]]):
    """Tensors by the names of `Architecture.network_shapes`; each is read when it is looked up."""

    def __init__(self, config: ModelConfig, tensors: Tensors) -> None:
        self._config, self._tensors = config, tensors
        self._names, self._stored = config.family.network_shapes(config), config.tensor_shapes

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        if name not in self:
            raise KeyError(name)
        return self.rows(name, 0, self.shape(name)[0])

    def shape(self, name: str) -> tuple[int, ...]:
        return self._names[name]

    def rows(self, name: str, first: int, last: int) -> NDArray[np.float32]:
        """Some rows of a tensor; of the others next to nothing is read, where they lie row by row in a file."""
        own, chosen = self._config.family.own_name(name), self._config.family.rows(self._config, name)
        if chosen is not None:
            numbers = np.array(chosen[first:last])
            least = int(numbers.min())
            fused = self._read(own, least, int(numbers.max()) + 1)
            return np.take(fused, numbers - least, axis=0)
        end = min(last, self._stored[own][0])
        tensor = self._read(own, min(first, end), end)
        missing = last - first - len(tensor)
        return np.pad(tensor, ((0, missing), (0, 0))) if missing else tensor

    def _read(self, own: str, first: int, last: int) -> NDArray[np.float32]:
        tensors = self._tensors
        return tensors.rows(own, first, last) if isinstance(tensors, Stored) else tensors[own][first:last]

    def dtype_of(self, name: str) -> str:
        """A tensor's dtype, or type of blocks, as it is stored: float32 of an array."""
        tensors = self._tensors
        return tensors.dtype_of(self._config.family.own_name(name)) if isinstance(tensors, Stored) else "float32"

    def blocks(self, name: str, first: int, last: int) -> Blocks | None:
        """Rows of a tensor as blocks, None where it is not stored as a matrix of them."""
        tensors = self._tensors
        own = self._config.family.own_name(name)
        return tensors.blocks(own, first, last) if isinstance(tensors, Stored) else None

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
