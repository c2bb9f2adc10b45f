"""A checkpoint's tensors under the names of Qwen2, Qwen3 and Llama, whatever its authors call them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from fastsedd.architectures.base import ModelConfig
from fastsedd.models.layers import Tensors


class Named(Mapping[str, NDArray[np.float32]]):
    """Tensors by the names of `Architecture.network_shapes`; each is read when it is looked up."""

    def __init__(self, config: ModelConfig, tensors: Tensors) -> None:
        self._own_name, self._tensors = config.family.own_name, tensors
        self._names = dict.fromkeys(config.family.network_shapes(config))

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        if name not in self:
            raise KeyError(name)
        return self._tensors[self._own_name(name)]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
