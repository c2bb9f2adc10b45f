"""Which files a path means: a folder's weights and config, or a file of weights on its own."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from fastsedd.errors import CheckpointError

WEIGHTS = "model.safetensors"
CONFIG = "config.json"


class Location(NamedTuple):
    weights: Path
    config: Path | None


def find(path: Path) -> Location:
    """The files of a checkpoint. Raises CheckpointError where there is none, or more than one to choose from."""
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or folder")
    weights = _weights_in(path) if path.is_dir() else path
    if weights.suffix != ".safetensors":
        raise CheckpointError(f"{path}: is not read, allowed: a folder or a .safetensors file")
    config = weights.parent / CONFIG
    return Location(weights, config if config.is_file() else None)


def _weights_in(folder: Path) -> Path:
    files = sorted(path for path in folder.glob("*.safetensors") if path.is_file())
    if folder / WEIGHTS in files:
        return folder / WEIGHTS
    if len(files) != 1:
        found = "no .safetensors file" if not files else f"{len(files)} .safetensors files"
        raise CheckpointError(f"{folder}: holds {found}, allowed: one, or {WEIGHTS}")
    return files[0]
