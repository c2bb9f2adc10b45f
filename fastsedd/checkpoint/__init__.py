"""Checkpoints: bytes on disk -> (config, named arrays), every tensor accounted for. Knows no kernel."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastsedd.checkpoint import config_json, layout, location, safetensors_file
from fastsedd.config import ModelConfig
from fastsedd.text.characters import TINY_SHAKESPEARE

__all__ = ["Checkpoint", "read"]


@dataclass(frozen=True)
class Checkpoint:
    """config : the model; tensors : float32 arrays by name; path : the weights' file; stored_dtype : as stored."""

    config: ModelConfig
    tensors: dict[str, NDArray[np.float32]]
    path: Path
    stored_dtype: str


def read(path: str | Path) -> Checkpoint:
    """Read a checkpoint folder, or a .safetensors file with its config.json beside it or none at all.

    Without a config.json the tensors must be the article's, from whose shapes everything follows.
    Raises CheckpointError, in one line, for anything else.
    """
    found = location.find(Path(path))
    stated = None if found.config is None else config_json.read(found.config)  # refused before weights take memory
    stored = safetensors_file.read(found.weights)
    config = _without_config(found.weights, stored.shapes) if stated is None else stated
    layout.check(found.weights, config, stored.shapes)
    tensors = {name: safetensors_file.decode(found.weights, stored, name) for name in layout.shapes(config)}
    return Checkpoint(config, tensors, found.weights, stored.dtype)


def _without_config(path: Path, shapes: layout.Shapes) -> ModelConfig:
    config = layout.infer_annotated(path, shapes)
    if config.tokens == len(TINY_SHAKESPEARE):  # the only text that this architecture was published for
        config = replace(config, characters=TINY_SHAKESPEARE)
    return config
