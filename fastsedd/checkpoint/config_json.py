"""config.json -> ModelConfig, by the architecture that recognises it, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from fastsedd.architectures import documents, registry
from fastsedd.architectures.base import Architecture, ModelConfig
from fastsedd.checkpoint import small_file
from fastsedd.errors import CheckpointError


class _Kind(msgspec.Struct):
    model_type: str = ""
    model: Any = None


def read(path: Path) -> ModelConfig:
    """Read and check a config.json. Raises CheckpointError, naming the key, its value or type and what is allowed."""
    family = _family(small_file.decode(path, _Kind))
    return checked(path, lambda: family.config(small_file.decode(path, family.Document)))


def from_document(path: Path, document: Any) -> ModelConfig:
    """The config that a decoded document states, as `read` reads one from a file."""

    def load() -> ModelConfig:
        family = _family(msgspec.convert(document, _Kind))
        return family.config(msgspec.convert(document, family.Document))

    return checked(path, load)


def _family(kind: _Kind) -> Architecture:
    inner = kind.model.get("type") if isinstance(kind.model, Mapping) else None
    return registry.recognise(kind.model_type, inner if isinstance(inner, str) else "")


def checked(path: Path, load: Callable[[], ModelConfig]) -> ModelConfig:
    """The config that `load` returns. Raises CheckpointError, naming the file, for whatever is wrong with it."""
    try:
        return load()
    except CheckpointError:
        raise
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: {' '.join(str(error).split())}") from None


def document(config: ModelConfig) -> dict[str, Any]:
    """The document from which `read` reads the same config."""
    return config.family.document(config) | documents.common(config)
