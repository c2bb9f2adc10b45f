"""A .safetensors file -> float32 arrays.

The file is read whole before it is looked at: one that is truncated while it is mapped kills the process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize

from fastsedd.config import MOST_PARAMETERS
from fastsedd.errors import CheckpointError

MOST_BYTES = 4 * MOST_PARAMETERS + 100_000_000  # the largest header that safetensors allows
DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}

# What files that are renamed by mistake begin with.
_MISTAKEN = {
    b"version https://git-lfs": "a git-lfs pointer, not the file that it points to",
    b"<!DOCTYPE": "an HTML page",
    b"<html": "an HTML page",
    b"PK\x03\x04": "a zip archive (a PyTorch checkpoint?)",
    b"\x80\x02": "a pickle",
}


@dataclass(frozen=True)
class StoredTensors:
    """A file's tensors as they are stored: name -> {"dtype", "shape", "data"}; dtype : of most of them."""

    entries: Mapping[str, Mapping[str, Any]]
    dtype: str

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(entry["shape"]) for name, entry in self.entries.items()}


def read(path: Path) -> StoredTensors:
    """Parse a file's header and data. Raises CheckpointError for a broken file and for a dtype that is not read."""
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise CheckpointError(f"{path}: has {size} bytes, allowed: at most {MOST_BYTES}")
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    for beginning, what in _MISTAKEN.items():
        if data.startswith(beginning):
            raise CheckpointError(f"{path}: is {what}, allowed: safetensors")
    try:
        entries = dict(deserialize(data))  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise CheckpointError(f"{path}: is no whole safetensors file: {_one_line(error)}") from None
    for name, entry in entries.items():
        if entry["dtype"] not in DTYPES:
            raise CheckpointError(f"{path}: {name!r} has dtype {entry['dtype']}, allowed: {', '.join(DTYPES)}")
    kinds = [entry["dtype"] for entry in entries.values()]
    return StoredTensors(entries, DTYPES[max(sorted(set(kinds)), key=kinds.count)] if kinds else "none")


def decode(path: Path, stored: StoredTensors, name: str) -> NDArray[np.float32]:
    """One tensor as a read-only float32 array of its own. Raises CheckpointError where a value is not finite."""
    entry = stored.entries[name]
    if entry["dtype"] == "BF16":  # the upper half of a float32
        tensor = (np.frombuffer(entry["data"], "<u2").astype(np.uint32) << 16).view(np.float32)
    else:
        values = np.frombuffer(entry["data"], "<f4" if entry["dtype"] == "F32" else "<f2")
        tensor = values.astype(np.float32, copy=False)  # each entry's bytes are a copy already
    if not np.isfinite(tensor).all():
        raise CheckpointError(f"{path}: {name} has values that are NaN or infinite")
    tensor = tensor.reshape(entry["shape"])
    tensor.flags.writeable = False
    return tensor


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
