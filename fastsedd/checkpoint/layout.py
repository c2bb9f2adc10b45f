"""The tensors of a file against those of its model: all of them, of the right shapes, and no others."""

from __future__ import annotations

from pathlib import Path

from fastsedd.architectures.base import ModelConfig, Shapes
from fastsedd.architectures.registry import ARCHITECTURES
from fastsedd.errors import CheckpointError

IGNORED = frozenset[str]().union(*(each.ignored for each in ARCHITECTURES))


def check(path: Path, config: ModelConfig, found: Shapes) -> None:
    """Raise CheckpointError, naming the tensor, unless a file holds exactly the tensors of its model."""
    expected = config.tensor_shapes
    for name, shape in expected.items():
        if name not in found:
            raise CheckpointError(f"{path}: {name} is missing, expected with shape {list(shape)}")
        if found[name] != shape:
            raise CheckpointError(f"{path}: {name} has shape {list(found[name])}, expected {list(shape)}")
    extra = sorted(found.keys() - expected.keys() - config.family.ignored)
    if extra:
        more = f" and {len(extra) - 1} more" if len(extra) > 1 else ""
        raise CheckpointError(f"{path}: {extra[0]!r}{more}: not expected in the {config.architecture} architecture")
