"""The tensors of a file against those of its model: all of them, of the right shapes, and no others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from fastsedd.architectures.base import ModelConfig, Shapes
from fastsedd.architectures.registry import ARCHITECTURES
from fastsedd.checkpoint.prefixes import unwrapped
from fastsedd.errors import CheckpointError

# Parts of a name that say what a trainer wrapped a network in, not which tensor it is.
WRAPPERS = ("module.", "_orig_mod.", "model.", "backbone.")
COMPILED = "_orig_mod."  # torch.compile's, which may stand inside of a name

_T = TypeVar("_T")


def core(name: str) -> str:
    """A tensor's name without its wrappers."""
    return unwrapped(name, WRAPPERS, (COMPILED,))


_BUFFERS = frozenset(core(name) for each in ARCHITECTURES for name in each.ignored)


def is_buffer(name: str) -> bool:
    """True for what a state dict holds beside the parameters, under any wrappers."""
    return core(name) in _BUFFERS


def renamed(path: Path, config: ModelConfig, found: Mapping[str, _T]) -> dict[str, _T]:
    """Tensors under the names that the model's have, where they differ by wrappers alone.

    Those of language models are left as they are: see `fastsedd.checkpoint.prefixes`. Buffers that the model does not
    need are left out. Raises CheckpointError where two tensors have one name.
    """
    expected = config.tensor_shapes
    if config.backbone is not None or expected.keys() <= found.keys():
        return dict(found)
    names = {core(name): name for name in expected}
    tensors: dict[str, _T] = {}
    for name, tensor in found.items():
        new = names.get(core(name), name)
        if new in tensors:
            raise CheckpointError(f"{path}: holds {new} twice, under names with and without wrappers")
        if new in expected or not is_buffer(name):
            tensors[new] = tensor
    return tensors


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
