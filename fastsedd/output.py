"""Files of texts: whole or not there, or JSON lines that grow text by text and can be gone on with."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TextIO

import msgspec

if TYPE_CHECKING:
    from fastsedd.results import Sample

_BEGINNING = b'{"text": '  # of every line


@contextmanager
def whole_file(path: Path) -> Iterator[TextIO]:
    """A UTF-8 file that takes its name once it is complete; a device or a pipe, which cannot, is written to.

    What has no UTF-8, a lone surrogate, is written as its backslash escape.
    """
    if path.exists() and not path.is_file():
        with path.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
            yield file
    else:
        target = path.resolve()
        incomplete = target.with_name(f".{target.name}.{os.getpid()}.incomplete")
        try:
            with incomplete.open("x", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
                yield file
            incomplete.replace(target)
        finally:
            incomplete.unlink(missing_ok=True)


def remove_leftovers(path: Path) -> None:
    """Remove what killed processes have left of a file that they wrote whole. Only its one writer may."""
    target = path.resolve()
    ours = re.compile(rf"\.{re.escape(target.name)}\.\d+\.incomplete")
    try:
        for each in target.parent.iterdir():
            if ours.fullmatch(each.name):
                each.unlink(missing_ok=True)
    except OSError:
        pass  # they stay


def json_line(sample: Sample, model: str) -> str:
    """A sample as one line of JSON, without its end; model : the name to give for who wrote it."""
    fields = {
        "text": sample.text,
        "tokens": sample.tokens.tolist(),
        "seed": sample.seed,
        "index": sample.index,
        "steps": sample.steps,
        "model": model,
        "seconds": sample.seconds,
    }
    return json.dumps(fields)


class _Line(msgspec.Struct):
    """The fields of a line that are read back."""

    text: str
    tokens: list[int]
    seed: int
    index: int
    steps: int
    model: str


_decode_strictly = msgspec.json.Decoder(_Line).decode


def _decode(line: bytes) -> _Line:
    """Read a line back. Raises ValueError or RecursionError where it is not one of ours."""
    try:
        return _decode_strictly(line)
    except msgspec.DecodeError:  # a text may hold lone surrogates, which are not JSON for everybody
        return msgspec.convert(json.loads(line), _Line)


@dataclass(frozen=True)
class Place:
    """Where a sample's line is in its file, in bytes."""

    index: int
    first: int
    length: int


@dataclass(frozen=True)
class Lines:
    """The whole lines of a file of samples, as far as a request that ended before its time has come.

    places : in the file's order; nbytes : of all of them, behind which a torn line may be left
    seed, steps, model : of all its samples, None where there is none
    """

    places: tuple[Place, ...] = ()
    nbytes: int = 0
    seed: int | None = None
    steps: int | None = None
    model: str | None = None

    def check(self, path: Path, seed: int, steps: int, model: str, num_samples: int) -> None:
        """Raise ValueError, in one line, unless these are samples of this request."""
        if not self.places:
            return
        for name, held, asked in (
            ("seed", self.seed, seed),
            ("steps", self.steps, steps),
            ("model", self.model, model),
        ):
            if held != asked:
                raise ValueError(
                    f"{path}: its texts have {name} {held}, asked for is {asked}: it cannot be gone on with"
                )
        last = max(place.index for place in self.places)
        if last >= num_samples:
            raise ValueError(f"{path}: holds index {last}, allowed: 0 to {num_samples - 1}, below num_samples")

    def missing(self, num_samples: int) -> list[int]:
        """Indices of the request that are not there yet, ascending."""
        there = {place.index for place in self.places}
        return [index for index in range(num_samples) if index not in there]

    @property
    def ordered(self) -> bool:
        """Whether they are the first indices, each once, in order: what follows may be appended."""
        return all(place.index == index for index, place in enumerate(self.places))


def read_lines(path: Path) -> Lines:
    """The samples in a file, none where there is no such file. A last line without its end is left out: it was torn.

    Raises ValueError, naming file and line, for what is no sample, and for samples of several requests.
    """
    if not path.is_file():
        return Lines()
    places: list[Place] = []
    first = 0
    request: tuple[int, int, str] | tuple[None, None, None] = (None, None, None)
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                if not line.startswith(_BEGINNING[: len(line)]):
                    raise ValueError(f"{path}: line {number}: is no text of fastsedd: {line[:40]!r}")
                break
            try:
                read = _decode(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{path}: line {number}: is no text of fastsedd: {error}") from None
            if places and (read.seed, read.steps, read.model) != request:
                raise ValueError(f"{path}: line {number}: has another seed, steps or model than the lines before")
            request = (read.seed, read.steps, read.model)
            places.append(Place(read.index, first, len(line)))
            first += len(line)
    return Lines(tuple(places), first, *request)


@contextmanager
def growing_file(path: Path, lines: Lines) -> Iterator[Callable[[str], None]]:
    """Append lines to a file, behind those that it holds: `write(line)` leaves it whole on disk before it returns.

    lines : what `read_lines` found there; a torn line behind them is cut off
    At the end the file is ordered by index and holds none twice; if it ends before, all that is written stays.
    """
    with path.open("ab") as file:
        file.truncate(lines.nbytes)
        yield lambda line: _append(file, line)
    if not lines.ordered:
        _sort(path)


def set_aside(path: Path) -> bool:
    """Rename a file that holds something to FILE~, so that another may take its place; whether there was one."""
    if not path.is_file() or path.stat().st_size == 0:
        return False
    target = path.resolve()
    target.replace(target.with_name(f"{target.name}~"))
    return True


def _append(file: BinaryIO, line: str) -> None:
    file.write(line.encode() + b"\n")
    file.flush()


def _sort(path: Path) -> None:
    """Rewrite a file ordered by index, the first of equal ones kept, or leave it as it is if that fails."""
    chosen: dict[int, Place] = {}
    for place in read_lines(path).places:
        chosen.setdefault(place.index, place)
    with path.open("rb") as file, whole_file(path) as target:
        for _, place in sorted(chosen.items()):
            file.seek(place.first)
            target.write(file.read(place.length).decode())
