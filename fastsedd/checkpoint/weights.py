"""A file of weights, of any format that is read -> where its tensors lie."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastsedd.checkpoint import safetensors_file, sharded, torch_zip
from fastsedd.checkpoint.stored import StoredTensor

_READERS = {
    ".safetensors": safetensors_file.read,
    ".bin": torch_zip.read,
    ".pt": torch_zip.read,
    ".pth": torch_zip.read,
    ".ckpt": torch_zip.read,
}

GGUF = ".gguf"  # which holds config and tokenizer too: `gguf_model` reads it
SUFFIXES = (*_READERS, GGUF)


def is_weights(name: str) -> bool:
    """True if a file's name is that of weights, or of an index of them."""
    return name.removesuffix(sharded.SUFFIX).endswith(SUFFIXES) and not name.endswith(GGUF + sharded.SUFFIX)


def read(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a file, or of all the files of an index. Raises CheckpointError, in one line, where it cannot."""
    if path.name.endswith(sharded.SUFFIX):
        return sharded.read(path, _read_one)
    return _read_one(path)


def read_beside(path: Path) -> Mapping[str, Any]:
    """Contents of a file of weights besides its tensors, by name; for an index, its first file's. Call `read` first."""
    if path.name.endswith(sharded.SUFFIX):
        path = path.with_name(sharded.shards(path)[0])
    return safetensors_file.read_beside(path) if path.suffix == ".safetensors" else torch_zip.read_beside(path)


def _read_one(path: Path) -> dict[str, StoredTensor]:
    return _READERS[path.suffix](path)
