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

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
