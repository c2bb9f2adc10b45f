"""Small files beside the weights, read whole within a bound: configs and indices."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import TypeVar

import msgspec

from fastsedd.errors import CheckpointError

MAX_BYTES = 1 << 22

_T = TypeVar("_T")


def decode(path: Path, kind: type[_T], most: int = MAX_BYTES) -> _T:
    """A JSON file as a struct. Raises CheckpointError for anything else."""
    try:
        return msgspec.json.decode(content(path, most), type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: {' '.join(str(error).split())}") from None


def content(path: Path, most: int = MAX_BYTES) -> bytes:
    """A small file, whole, without a byte-order mark. Raises CheckpointError where it cannot be read, is larger or is
    UTF-16."""
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    if len(data) > most:
        raise CheckpointError(f"{path}: has more than {most} bytes, allowed: at most that")
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise CheckpointError(f"{path}: is UTF-16, allowed: UTF-8")
    return data.removeprefix(codecs.BOM_UTF8)
