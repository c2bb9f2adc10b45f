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
    try:
        weights = _weights_in(path) if path.is_dir() else path
        if not weights.is_file():
            raise CheckpointError(f"{path}: no such file or folder")
        if weights.suffix != ".safetensors":
            raise CheckpointError(f"{path}: is not read, allowed: a folder or a .safetensors file")
        config = weights.parent / CONFIG
        return Location(weights, config if config.is_file() else None)
    except OSError as error:  # a name that is too long, a folder that may not be entered
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None


def _weights_in(folder: Path) -> Path:
    files = sorted(path for path in folder.glob("*.safetensors") if path.is_file())
    if folder / WEIGHTS in files:
        return folder / WEIGHTS
    if len(files) != 1:
        found = "no .safetensors file" if not files else f"{len(files)} .safetensors files"
        raise CheckpointError(f"{folder}: holds {found}, allowed: one, or {WEIGHTS}")
    return files[0]
