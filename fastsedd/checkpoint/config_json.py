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

_NOT_RUN = {"gidd": "GIDD", "dit": "GIDD"}


class _Kind(msgspec.Struct):
    model_type: str = ""
    model: Any = None
    tokens: Any = None  # Lou et al.'s key


def read(path: Path) -> ModelConfig:
    """Read and check a config.json. Raises CheckpointError, naming the key, its value or type and what is allowed."""
    kind = small_file.decode(path, _Kind)

    def load() -> ModelConfig:
        family = _family(kind)
        return family.config(small_file.decode(path, family.Document))

    return checked(path, load)


def from_document(path: Path, document: Any) -> ModelConfig:
    """The config that a decoded document states, as `read` reads one from a file."""

    def load() -> ModelConfig:
        family = _family(msgspec.convert(document, _Kind))
        return family.config(msgspec.convert(document, family.Document))

    return checked(path, load)


def _family(kind: _Kind) -> Architecture:
    """Raises ValueError for a model of another kind, which has neither a known name nor Lou et al.'s keys."""
    if kind.model_type and kind.model is None and kind.tokens is None and not registry.is_model_type(kind.model_type):
        known = _NOT_RUN.get(kind.model_type.lower())
        told = f" ({known}, which is not run)" if known else ""
        allowed = ", ".join(map(repr, registry.model_types()))
        raise ValueError(f"model_type is {kind.model_type!r}{told}, allowed: {allowed}, or none with SEDD's keys")
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
