"""The format of torch.save: a zip archive with a pickle, and an uncompressed entry for each storage it refers to."""

from __future__ import annotations

import struct
import zipfile
from io import FileIO
from pathlib import Path
from typing import Any

from fastsedd.checkpoint import state_dict, unpickler
from fastsedd.checkpoint.stored import StoredFile, StoredTensor
from fastsedd.errors import CheckpointError

MAX_DIRECTORY = 1 << 22  # bytes of the archive's list of entries
MAX_PICKLE = 1 << 24

_ENTRY = b"PK\x03\x04"  # what the header of an entry begins with
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, and how long the name and the extra field are that follow


def read(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a file, from its pickle, of which nothing is run.

    Raises CheckpointError for anything but a complete file of tensors.
    """
    stored = StoredFile.at(path)
    with stored.opened() as file:
        stored.refuse_mistaken(bytes(stored.read(file, 0, min(stored.size, 64))), "a PyTorch file", its_own=_ENTRY)
        archive = _Archive(stored, file)
        try:
            tensors = state_dict.weights(unpickler.loads(archive.pickled()))
        except unpickler.PickleError as error:
            raise CheckpointError(f"{path}: its pickle {error}") from None
        return {name: archive.locate(name, tensor) for name, tensor in tensors.items()}


def read_beside(path: Path) -> dict[str, Any]:
    """Contents of a file besides its tensors, whose pickle `read` has accepted."""
    stored = StoredFile.at(path)
    with stored.opened() as file:
        return state_dict.beside(unpickler.loads(_Archive(stored, file).pickled()))


class _Archive:
    """The entries of an open file: `data.pkl`, and the storages under `data/`, all in one folder."""

    def __init__(self, stored: StoredFile, file: FileIO) -> None:
        self._stored, self._file = stored, file
        try:
            self._zip = zipfile.ZipFile(_Bounded(file))
        except _ZIP_ERRORS as error:
            raise self._broken(error) from None
        self._entries = {entry.filename: entry for entry in self._zip.infolist()}
        pickles = [name for name in self._entries if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise self._broken(f"it has {len(pickles)} entries data.pkl")
        self._folder = pickles[0].removesuffix("data.pkl")

    def pickled(self) -> bytes:
        if f"{self._folder}constants.pkl" in self._entries:
            raise CheckpointError(f"{self._stored.path}: is a TorchScript program, allowed: a saved state dict")
        entry = self._entry("data.pkl")
        if f"{self._folder}byteorder" in self._entries and self._content(self._entry("byteorder")) != b"little":
            raise CheckpointError(f"{self._stored.path}: was written on a big-endian machine, allowed: little-endian")
        return self._content(entry)

    def locate(self, name: str, tensor: unpickler.Tensor) -> StoredTensor:
        """Place of a tensor's elements. Raises CheckpointError where it is outside its storage or the file."""
        storage = tensor.storage
        entry = self._entry(f"data/{storage.key}")
        offset = self._offset(entry)
        if storage.elements * storage.itemsize != entry.file_size or offset + entry.file_size > self._stored.size:
            raise self._broken(f"the storage of {name!r} has {entry.file_size} bytes for {storage.elements} elements")
        last = tensor.offset + sum(
            (count - 1) * stride for count, stride in zip(tensor.shape, tensor.strides, strict=True)
        )
        if 0 not in tensor.shape and (last + 1) * tensor.itemsize > entry.file_size:
            raise self._broken(f"{name!r} reaches beyond its storage")
        strides = None if tensor.strides == _adjacent(tensor.shape) else tensor.strides
        begin = offset + tensor.offset * tensor.itemsize
        return StoredTensor(self._stored, tensor.dtype, tensor.shape, begin, strides)

    def _entry(self, name: str) -> zipfile.ZipInfo:
        entry = self._entries.get(self._folder + name)
        if entry is None:
            raise self._broken(f"it has no entry {name!r}")
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            raise CheckpointError(
                f"{self._stored.path}: its entry {name!r} is compressed or encrypted, which torch.save never does"
            )
        return entry

    def _content(self, entry: zipfile.ZipInfo) -> bytes:
        if entry.file_size > MAX_PICKLE:
            raise self._broken(f"{entry.filename!r} has {entry.file_size} bytes, allowed: at most {MAX_PICKLE}")
        try:
            return self._zip.read(entry)
        except _ZIP_ERRORS as error:
            raise self._broken(error) from None

    def _offset(self, entry: zipfile.ZipInfo) -> int:
        """Offset of the entry's bytes, behind its local header, which the central directory points to."""
        header = bytes(self._stored.read(self._file, entry.header_offset, _LOCAL_HEADER.size))
        signature, name, extra = _LOCAL_HEADER.unpack(header)
        if signature != _ENTRY:
            raise self._broken(f"{entry.filename!r} is not where the list of entries says")
        return entry.header_offset + _LOCAL_HEADER.size + int(name) + int(extra)

    def _broken(self, problem: object) -> CheckpointError:
        text = " ".join(str(problem).split()) or type(problem).__name__
        return CheckpointError(f"{self._stored.path}: is not a complete PyTorch file: {text}")


# What the standard library raises for archives that are none.
_ZIP_ERRORS = (
    zipfile.BadZipFile, ValueError, LookupError, NotImplementedError, OverflowError, EOFError, RuntimeError, OSError,
    struct.error,
)  # fmt: skip


class _Bounded:
    """A file for `zipfile`, which reads the list of entries at once, however long it says it is."""

    def __init__(self, file: FileIO) -> None:
        self._file = file
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int | None = -1) -> bytes:
        most = max(MAX_DIRECTORY, MAX_PICKLE)
        wanted = most + 1 if size is None or size < 0 else size
        if wanted > most + 1 or len(content := self._file.read(wanted)) > most:
            raise zipfile.BadZipFile(f"its list of entries has more than {most} bytes")
        return content


def _adjacent(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of adjacent elements, in C order."""
    strides = [1]
    for count in shape[:0:-1]:
        strides.append(strides[-1] * max(1, count))
    return tuple(strides[::-1]) if shape else ()
