"""A checkpoint's token ids, and the order in which networks and graphs have their states: tokens first, the mask last.

The mask may be any id of the vocabulary (BERT's is 103 of 30,522). Its rows of the embedding and of the head are moved
to the end once, when a model is loaded, and ids are translated where they come in and go out. Where the mask is the
last id, or there is none, nothing is copied.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastsedd.architectures.base import ModelConfig


@dataclass(frozen=True)
class Vocabulary:
    """tokens : number of ids without the mask; mask : its id, None where there is none"""

    tokens: int
    mask: int | None

    @classmethod
    def of(cls, config: ModelConfig) -> Vocabulary:
        return cls(config.tokens, config.mask_id)

    @property
    def _moved(self) -> int | None:
        """The mask's id where it is not the last."""
        return None if self.mask == self.tokens else self.mask

    def to_states(self, ids: NDArray[np.int32]) -> NDArray[np.int32]:
        """States of a checkpoint's ids, int32 of any shape; negative values, which mark free positions, stay."""
        if self._moved is None:
            return ids
        return np.where(ids == self._moved, self.tokens, ids - (ids > self._moved)).astype(np.int32)

    def to_ids(self, states: NDArray[np.int32]) -> NDArray[np.int32]:
        """The checkpoint's ids of states, int32 of any shape."""
        if self._moved is None:
            return states
        return np.where(states == self.tokens, self._moved, states + (states >= self._moved)).astype(np.int32)

    def columns_by_id(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scores [..., V] of states in the order of the checkpoint's ids."""
        if self._moved is None:
            return scores
        return np.concatenate([scores[..., : self._moved], scores[..., -1:], scores[..., self._moved : -1]], axis=-1)

    def rows_by_state(self, tensor: NDArray[np.float32]) -> NDArray[np.float32]:
        """A tensor [V, ...] with a row per id, in the order of the states."""
        if self._moved is None:
            return tensor
        return np.concatenate([tensor[: self._moved], tensor[self._moved + 1 :], tensor[self._moved : self._moved + 1]])


class ByState(Mapping[str, "NDArray[np.float32]"]):
    """A model's tensors; those that have a row per id, `names`, in the order of the states."""

    def __init__(
        self, tensors: Mapping[str, NDArray[np.float32]], names: frozenset[str], vocabulary: Vocabulary
    ) -> None:
        self._tensors, self._names, self._vocabulary = tensors, names, vocabulary

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        tensor = self._tensors[name]
        return self._vocabulary.rows_by_state(tensor) if name in self._names else tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)
