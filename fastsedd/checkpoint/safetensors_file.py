"""A .safetensors file: its header to where its tensors lie, and a writer that needs one tensor in memory at a time.

The library of that name maps a file, or takes and copies all of it; here weights are read one by one, and never mapped.
Tests hold both to each other.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec

from fastsedd.checkpoint.stored import DTYPES, StoredFile, StoredTensor, encode
from fastsedd.errors import CheckpointError

MOST_HEADER = 1 << 22  # bytes: ten thousands of tensors
MOST_SIZE = 1 << 48  # of a dimension, and of a file

NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}

_Size = Annotated[int, msgspec.Meta(ge=0, le=MOST_SIZE)]


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    """A tensor in the header; data_offsets : where its bytes begin and end, from the end of the header on."""

    dtype: str
    shape: Annotated[list[_Size], msgspec.Meta(max_length=8)]
    data_offsets: tuple[_Size, _Size]


def read(path: Path) -> dict[str, StoredTensor]:
    """Parse a file's header. Raises CheckpointError for a broken file and for a dtype that is not read."""
    stored = StoredFile.at(path)
    with stored.opened() as file:
        beginning = bytes(stored.read(file, 0, min(stored.size, 64)))
        if beginning[8:9] != b"{":  # before it any byte may be part of the header's length
            stored.refuse_mistaken(beginning, "safetensors")
        length = int.from_bytes(beginning[:8], "little")
        if stored.size < 8 or not 2 <= length <= min(MOST_HEADER, stored.size - 8):
            raise _broken(path, f"its header would have {length} bytes" if stored.size >= 8 else "it is too short")
        header = bytes(stored.read(file, 8, length))
    entries = _parse(path, header)
    _check_cover(path, entries, stored.size - 8 - length)
    return {
        name: StoredTensor(stored, NAMES[entry.dtype], tuple(entry.shape), 8 + length + entry.data_offsets[0])
        for name, entry in entries.items()
    }


def _parse(path: Path, header: bytes) -> dict[str, _Entry]:
    try:
        document = json.loads(header.decode(), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, too many digits, too deep
        raise _broken(path, error) from None
    if not isinstance(document, dict):
        raise _broken(path, "its header is not an object")
    document.pop("__metadata__", None)
    return {name: _entry(path, name, entry) for name, entry in document.items()}


def _entry(path: Path, name: str, stored: Any) -> _Entry:
    try:
        entry = msgspec.convert(stored, _Entry)
    except msgspec.ValidationError as error:
        raise _broken(path, f"{name!r}: {error}") from None
    if entry.dtype not in NAMES:
        raise CheckpointError(f"{path}: {name!r} has dtype {entry.dtype!r}, allowed: {', '.join(NAMES)}")
    return entry


def _check_cover(path: Path, entries: Mapping[str, _Entry], size: int) -> None:
    """Raise CheckpointError unless the tensors cover the data without a hole, an overlap or a rest."""
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1].data_offsets):
        begin, wanted = entry.data_offsets[0], math.prod(entry.shape) * DTYPES[NAMES[entry.dtype]].itemsize
        if begin != end or entry.data_offsets[1] - begin != wanted:
            offsets = list(entry.data_offsets)
            raise _broken(path, f"{name!r} has offsets {offsets}, expected {[end, end + wanted]} by its shape")
        end += wanted
    if end != size:
        raise _broken(path, f"its tensors have {end} bytes and the file {size} for them")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice in its header")
    return found


def _broken(path: Path, problem: object) -> CheckpointError:
    return CheckpointError(f"{path}: is no whole safetensors file: {' '.join(str(problem).split())}")


def write(path: Path, stored: Mapping[str, StoredTensor], progress: Callable[[int, int], None]) -> None:
    """Write tensors as they are stored elsewhere; `progress(done, total)` after each."""
    names = sorted(stored, key=lambda name: -DTYPES[stored[name].dtype].itemsize)  # wide ones first: all are aligned
    formats = {dtype: name for name, dtype in NAMES.items()}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        tensor = stored[name]
        begin, end = end, end + math.prod(tensor.shape) * DTYPES[tensor.dtype].itemsize
        header[name] = {"dtype": formats[tensor.dtype], "shape": tensor.shape, "data_offsets": [begin, end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("xb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for done, name in enumerate(names, 1):
            file.write(encode(stored[name].read(name), stored[name].dtype).data)
            progress(done, len(names))
