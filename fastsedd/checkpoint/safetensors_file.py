"""A .safetensors file: its header to where its tensors lie, and a writer that needs one tensor in memory at a time.

The library of that name maps a file, or takes and copies all of it; here weights are read one by one, and never mapped.
A file that the library refuses is refused here, and one that it reads is read, but for the limits that docs/promises.md
states: a test holds both to each other.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple

from fastsedd.checkpoint.stored import DTYPES, StoredFile, StoredTensor, encode
from fastsedd.errors import CheckpointError

MAX_HEADER = 1 << 24  # bytes: more than a hundred thousand tensors

MAX_SHOWN = 200  # characters of a name, in an error

_METADATA = "__metadata__"
_MAX_INTEGER = (1 << 64) - 1
_MAX_DEPTH = 125  # of what an entry holds besides its three fields

# Escapes in strings: pairs of surrogates, surrogates alone, any other.
_ESCAPE = re.compile(r"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|(u[dD][89a-fA-F]..)|.)", re.DOTALL)


class _Dtype(NamedTuple):
    name: str
    bits: int


_DTYPES = {
    "F32": _Dtype("float32", 32), "F16": _Dtype("float16", 16), "BF16": _Dtype("bfloat16", 16),
    "F64": _Dtype("float64", 64), "I64": _Dtype("int64", 64), "I32": _Dtype("int32", 32), "I16": _Dtype("int16", 16),
    "I8": _Dtype("int8", 8), "U64": _Dtype("uint64", 64), "U32": _Dtype("uint32", 32), "U16": _Dtype("uint16", 16),
    "U8": _Dtype("uint8", 8), "BOOL": _Dtype("bool", 8), "C64": _Dtype("complex64", 64),
    "F8_E4M3": _Dtype("float8_e4m3fn", 8), "F8_E5M2": _Dtype("float8_e5m2", 8),
    "F8_E4M3FNUZ": _Dtype("float8_e4m3fnuz", 8), "F8_E5M2FNUZ": _Dtype("float8_e5m2fnuz", 8),
    "F8_E8M0": _Dtype("float8_e8m0fnu", 8), "F6_E2M3": _Dtype("float6_e2m3", 6), "F6_E3M2": _Dtype("float6_e3m2", 6),
    "F4": _Dtype("float4_e2m1", 4),
}  # fmt: skip


class _Entry(NamedTuple):
    """A tensor in the header; it lies from `begin` to `end`, in bytes from the end of the header on."""

    dtype: _Dtype
    shape: tuple[int, ...]
    begin: int
    end: int


class _Header(NamedTuple):
    """length : of its text, in bytes."""

    entries: dict[str, _Entry]
    metadata: dict[str, str]
    length: int


def read(path: Path) -> dict[str, StoredTensor]:
    """Places of a file's tensors, whatever their dtype. Raises CheckpointError for a broken file."""
    stored = StoredFile.at(path)
    header = _read_header(stored)
    _check_cover(path, header.entries, stored.size - 8 - header.length)
    return {
        name: StoredTensor(stored, entry.dtype.name, entry.shape, 8 + header.length + entry.begin)
        for name, entry in header.entries.items()
    }


def read_beside(path: Path) -> dict[str, str]:
    """Contents of a file besides its tensors. Raises CheckpointError for a broken header."""
    return _read_header(StoredFile.at(path)).metadata


def _read_header(stored: StoredFile) -> _Header:
    with stored.opened() as file:
        beginning = bytes(stored.read(file, 0, min(stored.size, 64)))
        try:
            return _parse(stored, file, beginning)
        except CheckpointError:
            if beginning[8:9] != b"{":  # in front of a header any byte may be part of its length
                stored.refuse_mistaken(beginning, "safetensors")
            raise


def _parse(stored: StoredFile, file: FileIO, beginning: bytes) -> _Header:
    path = stored.path
    length = int.from_bytes(beginning[:8], "little")
    if stored.size < 8 or not 2 <= length <= stored.size - 8:
        raise _broken(path, f"its header would have {length} bytes" if stored.size >= 8 else "it is too short")
    if length > MAX_HEADER:
        raise CheckpointError(f"{path}: its header has {length} bytes, allowed: at most {MAX_HEADER}")
    header = bytes(stored.read(file, 8, length))
    try:
        document = _decode(header.decode())
        metadata = _metadata(document.pop(_METADATA, None))
        entries = {name: _entry(name, each) for name, each in document.items()}
    except (ValueError, OverflowError, RecursionError) as error:  # not UTF-8, not JSON, numbers too large, too deep
        raise _broken(path, error) from None
    return _Header(entries, metadata, length)


def _decode(text: str) -> dict[str, Any]:
    """A header's JSON, as strict as the library's: its parser lets no number or string pass that Rust has not."""
    found = json.loads(
        text, object_pairs_hook=_object, parse_int=_integer, parse_float=_float, parse_constant=_constant
    )
    if not isinstance(found, dict):
        raise ValueError("its header is not an object")
    if any(escape[1] for escape in _ESCAPE.finditer(text)):
        raise ValueError("its header has half a surrogate pair")
    return found


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice in its header")
    return found


def _integer(digits: str) -> int | float:
    value = int(digits) if len(digits) <= 20 else _float(digits)
    return value if digits != "-0" and -(1 << 63) <= value <= _MAX_INTEGER else _float(digits)


def _float(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError("its header has a number that is too large")
    return value


def _constant(name: str) -> float:
    raise ValueError(f"its header has {name}, which is not JSON")


def _metadata(stored: Any) -> dict[str, str]:
    if stored is None:
        return {}
    if not isinstance(stored, dict) or not all(isinstance(value, str) for value in stored.values()):
        raise ValueError(f"{_METADATA} is not an object of strings")
    return stored


def _shown(name: str) -> str:
    return repr(name if len(name) <= MAX_SHOWN else f"{name[:MAX_SHOWN]}…")


def _entry(name: str, stored: Any) -> _Entry:
    shown = _shown(name)
    if not isinstance(stored, dict):
        raise ValueError(f"{shown} is not an object")
    missing = sorted({"dtype", "shape", "data_offsets"} - stored.keys())
    if missing:
        raise ValueError(f"{shown} has no {missing[0]}")
    dtype, shape, offsets = stored["dtype"], stored["shape"], stored["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        given = _shown(dtype) if isinstance(dtype, str) else "that is not a string"
        raise ValueError(f"{shown} has a dtype {given}, allowed: {', '.join(_DTYPES)}")
    for field, value in (("shape", shape), ("data_offsets", offsets)):
        if not isinstance(value, list) or not all(type(each) is int and each >= 0 for each in value):
            raise ValueError(f"{shown} has a {field} that is not a list of whole numbers from 0 on")
    if len(offsets) != 2:
        raise ValueError(f"{shown} has {len(offsets)} data_offsets, allowed: 2")
    if len(stored) > 3 and _depth(stored.values()) > _MAX_DEPTH:
        raise ValueError(f"{shown} is nested too deeply")
    return _Entry(_DTYPES[dtype], tuple(shape), *offsets)


def _depth(values: Iterable[Any]) -> int:
    """Depth to which values are nested."""
    depth, level = 0, [value for value in values if isinstance(value, (dict, list))]
    while level:
        depth += 1
        inner = (each.values() if isinstance(each, dict) else each for each in level)
        level = [value for each in inner for value in each if isinstance(value, (dict, list))]
    return depth


def _check_cover(path: Path, entries: Mapping[str, _Entry], size: int) -> None:
    """Raise CheckpointError unless the tensors cover the data without a hole, an overlap or a rest."""
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1][2:]):
        elements = 1
        for count in entry.shape:
            elements *= count
            if elements > _MAX_INTEGER:
                raise _broken(path, f"{_shown(name)} has more than 2**64 elements")
        wanted, rest = divmod(elements * entry.dtype.bits, 8)
        if rest or entry.begin != end or entry.end - end != wanted:
            expected = f"{[end, end + wanted]} by its shape" if not rest else "whole bytes"
            raise _broken(path, f"{_shown(name)} has offsets {[entry.begin, entry.end]}, expected {expected}")
        end += wanted
    if end != size:
        raise _broken(path, f"its tensors have {end} bytes and the file {size} for them")


def _broken(path: Path, problem: object) -> CheckpointError:
    return CheckpointError(f"{path}: is not a whole safetensors file: {' '.join(str(problem).split())}")


def write(path: Path, stored: Mapping[str, StoredTensor], progress: Callable[[int, int], None]) -> None:
    """Write tensors as they are stored elsewhere, but for blocks in float32; `progress(done, total)` after each."""
    dtypes = {name: tensor.dtype if tensor.dtype in DTYPES else "float32" for name, tensor in stored.items()}
    names = sorted(stored, key=lambda name: -DTYPES[dtypes[name]].itemsize)  # wide ones first: all are aligned
    formats = {dtype.name: name for name, dtype in _DTYPES.items()}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        tensor = stored[name]
        begin, end = end, end + math.prod(tensor.shape) * DTYPES[dtypes[name]].itemsize
        header[name] = {"dtype": formats[dtypes[name]], "shape": tensor.shape, "data_offsets": [begin, end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("xb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for done, name in enumerate(names, 1):
            file.write(encode(stored[name].read(name), dtypes[name]).data)
            progress(done, len(names))
