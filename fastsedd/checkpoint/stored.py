"""Tensors where they lie in their files: what every format of weights is parsed into, and read from one at a time.

Files are read, never mapped: one that is truncated while it is mapped kills the process.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastsedd.checkpoint.gguf_blocks import BLOCKS
from fastsedd.errors import CheckpointError

# Of the dtypes that weights may have: what NumPy reads them as. bfloat16 is the upper half of a float32.
DTYPES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype("<u2"),
}

CHUNK = 1 << 20  # elements that are converted at a time, so that a tensor's bytes and its values need not both fit
READ_TYPES = (*DTYPES, *BLOCKS)

# What files that are renamed by mistake begin with.
_MISTAKEN = {
    b"version https://git-lfs": "a git-lfs pointer, not the file that it points to",
    b"<!DOCTYPE": "an HTML page",
    b"<!doctype": "an HTML page",
    b"<html": "an HTML page",
    b"PK\x03\x04": "a zip archive (a PyTorch checkpoint?)",
    b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19": (
        "a PyTorch file of the format before 1.6 (torch.load it and torch.save it again)"
    ),
    b"\x80": "a pickle",
}


@dataclass(frozen=True)
class StoredFile:
    """A file as it was when it was first looked at; identity : what changes when it is written to or replaced."""

    path: Path
    size: int
    identity: tuple[int, ...]

    @classmethod
    def at(cls, path: Path) -> StoredFile:
        """Raises CheckpointError where the file cannot be read."""
        with _readable(path):
            stat = path.stat()
        return cls(path, stat.st_size, _identity(stat))

    @contextmanager
    def opened(self) -> Iterator[FileIO]:
        """The file, unbuffered. Raises CheckpointError where it cannot be read or has changed since."""
        with _readable(self.path), FileIO(self.path, "rb") as file:
            if _identity(os.fstat(file.fileno())) != self.identity:
                raise CheckpointError(f"{self.path}: was changed while it was read")
            yield file

    def read(self, file: FileIO, offset: int, size: int) -> bytearray:
        """`size` bytes from `offset` on. Raises CheckpointError where the file ends before."""
        content = bytearray(size)
        self.read_into(file, offset, memoryview(content))
        return content

    def read_into(self, file: FileIO, offset: int, memory: memoryview) -> None:
        file.seek(offset)
        done = 0
        while done < len(memory):
            count = file.readinto(memory[done:])
            if not count:
                raise CheckpointError(f"{self.path}: ends before byte {offset + len(memory)}, inside of a tensor")
            done += count

    def refuse_mistaken(self, beginning: bytes, expected: str, its_own: bytes = b"") -> None:
        """Raise CheckpointError where a file is recognised as something else than what its name says.

        its_own : what the expected files may begin with
        """
        for mark, what in _MISTAKEN.items():
            if mark != its_own and beginning.startswith(mark):
                raise CheckpointError(f"{self.path}: is {what}, allowed: {expected}")


@dataclass(frozen=True)
class StoredTensor:
    """One tensor in a file.

    dtype : as stored, any name, or one of GGUF's types of blocks; offset : of its first element, in bytes
    strides : in elements, where its elements are not adjacent in C order
    paired_heads : of that many heads, the rows of the first half lie between those of the second, as llama.cpp rotates
        Llama's queries and keys; they are given back one half after the other. 0: rows lie as they are given
    That the whole lies in the file is checked by the parser of its format.
    """

    file: StoredFile
    dtype: str
    shape: tuple[int, ...]
    offset: int
    strides: tuple[int, ...] | None = None
    paired_heads: int = 0

    def read(self, name: str) -> NDArray[np.float32]:
        """A read-only float32 array of its own. Raises CheckpointError where a value is not finite, or the file is not
        what it was, or holds another dtype than those that are read."""
        self.check_dtype(name)
        values = np.empty(self._span, np.float32)
        with self.file.opened() as file:
            for first in range(0, len(values), CHUNK):
                part = values[first : first + CHUNK]
                if not self._decode(file, first, part) or not np.isfinite(part).all():
                    raise CheckpointError(f"{self.file.path}: {name} has values that are NaN or infinite")
        if self.strides is None:
            tensor = self._halves_apart(values.reshape(self.shape))
        else:
            strides = [4 * stride for stride in self.strides]
            tensor = np.ascontiguousarray(np.lib.stride_tricks.as_strided(values, self.shape, strides))
        tensor.flags.writeable = False
        return tensor

    def rows(self, first: int, last: int) -> tuple[StoredTensor, slice]:
        """A tensor of some rows of this one, and where in it they are: whole heads are read where they are paired."""
        height = self.shape[0] // self.paired_heads if self.paired_heads else 1
        begin, end = first // height * height, -(-last // height) * height
        shape = (end - begin, *self.shape[1:])
        step = math.prod(self.shape[1:]) if self.strides is None else self.strides[0]
        heads = (end - begin) // height if self.paired_heads else 0
        cut = replace(self, shape=shape, offset=self.offset + self._nbytes(begin * step), paired_heads=heads)
        return cut, slice(first - begin, last - begin)

    def blocks(self, name: str) -> Blocks | None:
        """The tensor as blocks, where it is a matrix of them. Raises CheckpointError where a value is not finite."""
        if self.dtype not in BLOCKS or len(self.shape) != 2:
            return None
        block = BLOCKS[self.dtype]
        outputs, inputs = self.shape
        with self.file.opened() as file:
            data = np.frombuffer(self.file.read(file, self.offset, self._nbytes(outputs * inputs)), np.uint8)
        if not block.finite(data.reshape(-1, block.nbytes)):
            raise CheckpointError(f"{self.file.path}: {name} has values that are NaN or infinite")
        return Blocks(self.dtype, self._halves_apart(data.reshape(outputs, -1)), self.shape)

    def check_dtype(self, name: str) -> None:
        """Raise CheckpointError for a dtype that is not read: tensors that are not used may have any."""
        if self.dtype not in READ_TYPES:
            raise CheckpointError(f"{self.file.path}: {name!r} has dtype {self.dtype}, allowed: {', '.join(DTYPES)}")

    def _halves_apart(self, rows: NDArray[Any]) -> NDArray[Any]:
        if not self.paired_heads:
            return rows
        pairs = rows.reshape(self.paired_heads, -1, 2, *rows.shape[1:])
        return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows.shape)

    @property
    def _span(self) -> int:
        """Number of elements from the first to the last, both counted."""
        if self.strides is None or 0 in self.shape:
            return math.prod(self.shape)
        return 1 + sum((count - 1) * stride for count, stride in zip(self.shape, self.strides, strict=True))

    def _nbytes(self, count: int) -> int:
        """Bytes of so many elements in the file; of blocks, a multiple of theirs."""
        block = BLOCKS.get(self.dtype)
        return count * DTYPES[self.dtype].itemsize if block is None else count // block.count * block.nbytes

    def _decode(self, file: FileIO, first: int, values: NDArray[np.float32]) -> bool:
        """The elements from `first` on, into `values`; False where they are left out, since blocks are not finite."""
        offset = self.offset + self._nbytes(first)  # CHUNK is a multiple of every block's numbers
        if self.dtype in BLOCKS:
            block = BLOCKS[self.dtype]
            data = self.file.read(file, offset, self._nbytes(values.size))
            blocks = np.frombuffer(data, np.uint8).reshape(-1, block.nbytes)
            finite = block.finite(blocks)
            if finite:
                values[...] = block.values(blocks).reshape(-1)
            return finite
        if self.dtype == "float32":
            self.file.read_into(file, offset, values.data.cast("B"))
            return True
        read = np.frombuffer(self.file.read(file, offset, self._nbytes(values.size)), DTYPES[self.dtype])
        if self.dtype == "bfloat16":
            np.left_shift(read, 16, out=values.view(np.uint32), dtype=np.uint32, casting="unsafe")
        else:
            values[...] = read
        return True


@dataclass(frozen=True)
class Blocks:
    """A matrix as a GGUF file has it.

    type : "Q4_0" and the like; data : uint8 [outputs, bytes of a row]; shape : of the numbers
    """

    type: str
    data: NDArray[np.uint8]
    shape: tuple[int, ...]

    def rows(self, numbers: NDArray[Any]) -> NDArray[np.float32]:
        """Rows in float32 [n, inputs]; numbers : integers [n]"""
        block = BLOCKS[self.type]
        return block.values(self.data[numbers].reshape(-1, block.nbytes)).reshape(len(numbers), -1)


class LazyTensors(Mapping[str, NDArray[np.float32]]):
    """Tensors by name, each read from its file on every access and not kept."""

    def __init__(self, stored: Mapping[str, StoredTensor]) -> None:
        self._stored = stored

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        return self._stored[name].read(name)

    def rows(self, name: str, first: int, last: int) -> NDArray[np.float32]:
        """Some rows of a tensor; of the others next to nothing is read, unless columns lie row by row in the file."""
        cut, rows = self._stored[name].rows(first, last)
        return cut.read(name)[rows]

    def blocks(self, name: str, first: int, last: int) -> Blocks | None:
        """Some rows of a tensor as blocks of a GGUF file, None where it is not a matrix of them."""
        cut, rows = self._stored[name].rows(first, last)
        found = cut.blocks(name)
        return None if found is None else Blocks(found.type, found.data[rows], (last - first, found.shape[1]))

    def dtype_of(self, name: str) -> str:
        """The dtype of a tensor, or its type of blocks, as it is stored."""
        return self._stored[name].dtype

    def __contains__(self, name: object) -> bool:
        return name in self._stored

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)


def encode(values: NDArray[np.float32], dtype: str) -> NDArray[Any]:
    """Stored form of float32 values that were read from tensors of this dtype: the same bits again."""
    if dtype == "bfloat16":
        return (values.view(np.uint32) >> 16).astype("<u2")
    return np.ascontiguousarray(values, DTYPES[dtype])


def _identity(stat: os.stat_result) -> tuple[int, ...]:
    return (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from None
