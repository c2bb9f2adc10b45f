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
    """Tensors of a file, which may hold matrices as blocks."""

    def blocks(self, name: str) -> Blocks | None: ...

    def dtype_of(self, name: str) -> str: ...


class Named(Mapping[str, NDArray[np.float32]]):
    """Tensors by the names of `Architecture.network_shapes`; each is read when it is looked up."""

    def __init__(self, config: ModelConfig, tensors: Tensors) -> None:
        self._config, self._tensors = config, tensors
        self._names = config.family.network_shapes(config)

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        if name not in self:
            raise KeyError(name)
        family = self._config.family
        tensor, rows = self._tensors[family.own_name(name)], family.rows(self._config, name)
        if rows is not None:
            tensor = tensor[rows]
        missing = self._names[name][0] - len(tensor)
        return np.pad(tensor, ((0, missing), (0, 0))) if missing else tensor

    def dtype_of(self, name: str) -> str:
        """A tensor's dtype, or type of blocks, as it is stored: float32 of an array."""
        tensors = self._tensors
        return tensors.dtype_of(self._config.family.own_name(name)) if isinstance(tensors, Stored) else "float32"

    def blocks(self, name: str) -> Blocks | None:
        """A tensor as blocks, None where it is not stored as a matrix of them."""
        tensors = self._tensors
        return tensors.blocks(self._config.family.own_name(name)) if isinstance(tensors, Stored) else None

    def blocks_of(self, name: str) -> Blocks:
        """A tensor that is stored as a matrix of blocks."""
        found = self.blocks(name)
        assert found is not None
        return found

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
