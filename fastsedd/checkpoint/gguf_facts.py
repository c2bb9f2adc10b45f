"""Metadata of a GGUF file by key, of the type that is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fastsedd.errors import CheckpointError


class Facts:
    """Values by key. Methods return None where a key is missing; `required` raises CheckpointError there. All raise
    CheckpointError, naming the key and its value, for a value of another type."""

    def __init__(self, path: Path, metadata: Mapping[str, Any]) -> None:
        self.path, self._metadata = path, metadata

    def required(self, key: str) -> int:
        value = self.integer(key)
        if value is None:
            raise CheckpointError(f"{self.path}: its metadata lack {key}")
        return value

    def integer(self, key: str) -> int | None:
        value = self._metadata.get(key)
        if value is not None and type(value) is not int:
            raise self._wrong(key, value, "an integer")
        return value

    def number(self, key: str) -> float | None:
        value = self._metadata.get(key)
        if value is not None and type(value) not in (int, float):
            raise self._wrong(key, value, "a number")
        return value

    def boolean(self, key: str) -> bool | None:
        value = self._metadata.get(key)
        if value is not None and not isinstance(value, bool):
            raise self._wrong(key, value, "a bool")
        return value

    def text(self, key: str) -> str | None:
        value = self._metadata.get(key)
        if value is not None and not isinstance(value, str):
            raise self._wrong(key, value, "a string")
        return value

    def texts(self, key: str) -> list[str] | None:
        value = self._metadata.get(key)
        if value is not None and not isinstance(value, list):
            raise self._wrong(key, value, "an array of strings")
        return value

    def integers(self, key: str) -> list[int] | None:
        value = self._metadata.get(key)
        if value is None:
            return None
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "iu":
            raise self._wrong(key, value, "an array of integers")
        found: list[int] = value.tolist()
        return found

    def _wrong(self, key: str, value: Any, allowed: str) -> CheckpointError:
        shown = f"an array of {len(value)}" if isinstance(value, (list, np.ndarray)) else repr(value)[:100]
        return CheckpointError(f"{self.path}: {key} is {shown}, allowed: {allowed}")
