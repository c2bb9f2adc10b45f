"""A .gguf file, version 2 or 3: its header to its metadata and to where its tensors lie.

    "GGUF", version, number of tensors, number of keys; keys with their types and values;
    names, shapes (the innermost first), types and offsets of tensors
    their data, each from a multiple of the alignment on

Nothing is believed before it is checked against the file's size, and nothing larger than MAX_HEADER is read here.
Source: the GGUF specification of the ggml project.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastsedd.checkpoint.gguf_blocks import BLOCKS
from fastsedd.checkpoint.stored import DTYPES, StoredFile, StoredTensor
from fastsedd.errors import CheckpointError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT = 32  # of tensors, where general.alignment does not say
MAX_HEADER = 1 << 26  # bytes; 200,000 tokens with their merges take 8 million
MAX_ENTRIES = 1 << 16  # keys, and tensors
MAX_STRINGS = 1 << 21  # of all arrays together

_MAX_NAME = 64  # bytes of a tensor's name
_MAX_KEY = (1 << 16) - 1
_MAX_DIMENSIONS = 4
_MAX_ELEMENTS = (1 << 63) - 1
_CHUNK = 1 << 18  # bytes that are read at a time

# Types of values, by their numbers, as NumPy reads them; bools are bytes.
_NUMBERS = {
    0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?", 10: "<u8", 11: "<i8", 12: "<f8",
}  # fmt: skip
_BOOL, _STRING, _ARRAY = 7, 8, 9

# Types of tensors by their numbers: those that are read, and those that errors name.
TYPES = {0: "float32", 1: "float16", 30: "bfloat16", 2: "Q4_0", 3: "Q4_1", 8: "Q8_0", 12: "Q4_K", 14: "Q6_K"}
_OTHERS = {
    6: "Q5_0", 7: "Q5_1", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K", 13: "Q5_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS",
    18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32",
    27: "I64", 28: "F64", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4", 40: "NVFP4",
}  # fmt: skip
_SHOWN = ("F32", "F16", "BF16", *BLOCKS)


@dataclass(frozen=True)
class Gguf:
    """metadata : strings, numbers, bools, lists of strings, NumPy arrays; tensors : by their names in the file"""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, StoredTensor]


class _Entry(NamedTuple):
    """A tensor as the header has it; nbytes : of its data; offset : from where all data begins"""

    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    offset: int


def read(path: Path) -> Gguf:
    """Metadata and the places of tensors. Raises CheckpointError, in one line, for a file that is broken or has what
    is not read: another version or byte order, another type of tensor, arrays in arrays."""
    stored = StoredFile.at(path)
    with stored.opened() as file:
        cursor = _Cursor(stored, file)
        tensor_count, key_count = _beginning(cursor)
        metadata = _metadata(cursor, key_count)
        entries = _entries(cursor, tensor_count)
    alignment = metadata.get("general.alignment", ALIGNMENT)
    if type(alignment) is not int or not 0 < alignment <= _MAX_KEY or alignment & (alignment - 1):
        raise cursor.broken(f"general.alignment is {_shown(alignment)}, allowed: a power of two up to 32768")
    start = -(-cursor.position // alignment) * alignment
    _check_places(cursor, entries, alignment, start)
    tensors = {
        name: StoredTensor(stored, entry.dtype, entry.shape, start + entry.offset) for name, entry in entries.items()
    }
    return Gguf(path, metadata, tensors)


class _Cursor:
    """A place in a file's header, which moves on as it is read."""

    def __init__(self, stored: StoredFile, file: FileIO) -> None:
        self.stored, self._file = stored, file
        self.position = 0
        self.strings = 0  # of arrays so far
        self._window, self._begin = b"", 0

    def take(self, count: int) -> bytes:
        """The next bytes. Raises CheckpointError where the file, or what may be read of it, ends before."""
        end = self.position + count
        if end > self.stored.size:
            raise self.broken(f"its header goes on after the file's end, {self.stored.size} bytes")
        if end > MAX_HEADER:
            raise self.broken(f"its header has more than {MAX_HEADER} bytes, allowed: at most that")
        if end > self._begin + len(self._window):
            size = min(max(count, _CHUNK), self.stored.size - self.position)
            self._window, self._begin = bytes(self.stored.read(self._file, self.position, size)), self.position
        first = self.position - self._begin
        self.position = end
        return self._window[first : first + count]

    def integer(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def string(self, what: str, most: int = MAX_HEADER) -> str:
        length = self.integer(8)
        if length > most:
            raise self.broken(f"{what} would have {length} bytes, allowed: {most}")
        try:
            return self.take(length).decode()
        except UnicodeDecodeError:
            raise self.broken(f"{what} is not UTF-8") from None

    def broken(self, problem: str) -> CheckpointError:
        return CheckpointError(f"{self.stored.path}: is not a GGUF file that is read: {problem}")


def _beginning(cursor: _Cursor) -> tuple[int, int]:
    """The numbers of tensors and of keys."""
    size = cursor.stored.size
    if size < 24:
        raise cursor.broken(f"it has {size} bytes, too few for a header")
    beginning = cursor.take(24)
    if not beginning.startswith(MAGIC):
        cursor.stored.refuse_mistaken(beginning, "GGUF")
        raise cursor.broken(f"it begins with {beginning[:4]!r}, allowed: {MAGIC!r}")
    version, tensors, keys = struct.unpack("<IQQ", beginning[4:])
    if version not in VERSIONS:
        order = " (big-endian)" if version & 0xFFFF == 0 and version else ""
        raise cursor.broken(f"its version is {version}{order}, allowed: {', '.join(map(str, VERSIONS))}")
    for count, what in ((tensors, "tensors"), (keys, "keys")):
        if count > MAX_ENTRIES:
            raise cursor.broken(f"it would have {count} {what}, allowed: {MAX_ENTRIES}")
    return tensors, keys


def _metadata(cursor: _Cursor, count: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for i in range(count):
        key = cursor.string(f"key {i}", _MAX_KEY)
        if key in found:
            raise cursor.broken(f"the key {_shown(key)} occurs twice")
        found[key] = _value(cursor, key, cursor.integer(4))
    return found


def _value(cursor: _Cursor, key: str, kind: int) -> Any:
    if kind == _STRING:
        return cursor.string(f"the value of {_shown(key)}")
    if kind == _ARRAY:
        return _array(cursor, key)
    value = _numbers(cursor, key, kind, 1)[0]
    return value.item()


def _array(cursor: _Cursor, key: str) -> Any:
    kind, count = cursor.integer(4), cursor.integer(8)
    if kind == _ARRAY:
        raise cursor.broken(f"{_shown(key)} is an array of arrays, allowed: of strings or numbers")
    if kind != _STRING:
        return _numbers(cursor, key, kind, count)
    cursor.strings += count
    if cursor.strings > MAX_STRINGS:
        raise cursor.broken(f"{_shown(key)} would have {count} strings, allowed: {MAX_STRINGS} in all")
    if 8 * count > cursor.stored.size - cursor.position:
        raise cursor.broken(f"{_shown(key)} would have {count} strings, more than the file has room for")
    what = f"a string of {_shown(key)}"
    return [cursor.string(what) for _ in range(count)]


def _numbers(cursor: _Cursor, key: str, kind: int, count: int) -> Any:
    if kind not in _NUMBERS:
        raise cursor.broken(f"{_shown(key)} has a value of type {kind}, allowed: 0 to 12")
    dtype = np.dtype(_NUMBERS[kind])
    content = cursor.take(count * dtype.itemsize)
    if kind == _BOOL and not set(content) <= {0, 1}:
        raise cursor.broken(f"{_shown(key)} has a bool that is neither 0 nor 1")
    return np.frombuffer(content, dtype)


def _entries(cursor: _Cursor, count: int) -> dict[str, _Entry]:
    found: dict[str, _Entry] = {}
    for i in range(count):
        name = cursor.string(f"the name of tensor {i}", _MAX_NAME)
        if name in found:
            raise cursor.broken(f"the tensor {_shown(name)} occurs twice")
        dimensions = cursor.integer(4)
        if not 1 <= dimensions <= _MAX_DIMENSIONS:
            raise cursor.broken(f"{_shown(name)} has {dimensions} dimensions, allowed: 1 to {_MAX_DIMENSIONS}")
        shape = struct.unpack(f"<{dimensions}Q", cursor.take(8 * dimensions))
        number, offset = struct.unpack("<IQ", cursor.take(12))
        if number not in TYPES:
            given = _OTHERS.get(number, str(number))
            raise cursor.broken(f"{_shown(name)} has type {given}, allowed: {', '.join(_SHOWN)}")
        found[name] = _entry(cursor, name, TYPES[number], shape, offset)
    return found


def _entry(cursor: _Cursor, name: str, dtype: str, shape: tuple[int, ...], offset: int) -> _Entry:
    """shape : as the file has it, the innermost dimension first"""
    elements = 1
    for count in shape:
        elements *= count
        if not 0 < elements <= _MAX_ELEMENTS:
            raise cursor.broken(f"{_shown(name)} has shape {list(reversed(shape))}, allowed: 1 to 2**63 - 1 elements")
    block = BLOCKS.get(dtype)
    count, nbytes = (1, DTYPES[dtype].itemsize) if block is None else (block.count, block.nbytes)
    if shape[0] % count:
        raise cursor.broken(f"{_shown(name)} has rows of {shape[0]}, allowed of type {dtype}: multiples of {count}")
    return _Entry(dtype, shape[::-1], elements // count * nbytes, offset)


def _check_places(cursor: _Cursor, entries: Mapping[str, _Entry], alignment: int, start: int) -> None:
    """Raise CheckpointError unless tensors follow each other, each from the next multiple of the alignment on, and end
    within the file."""
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1].offset):
        expected = -(-end // alignment) * alignment
        if entry.offset != expected:
            raise cursor.broken(f"{_shown(name)} has offset {entry.offset}, expected {expected}")
        end = entry.offset + entry.nbytes
        if start + end > cursor.stored.size:
            raise cursor.broken(f"{_shown(name)} ends at byte {start + end}, the file at {cursor.stored.size}")


def _shown(value: object) -> str:
    text = repr(value)
    return " ".join((text if len(text) <= 100 else f"{text[:100]}…").split())
