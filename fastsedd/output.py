"""Files of texts: JSON lines that grow text by text and can be resumed, or plain texts with a rule between them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from fastsedd import atomic
from fastsedd.config import GenerationConfig
from fastsedd.request import Request

if TYPE_CHECKING:
    from fastsedd.results import Sample

RULE = "-" * 72  # a line of its own between two plain texts

_BEGINNING = b'{"text": '  # of every line


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
    """The place of a sample's line in its file, in bytes."""

    index: int
    first: int
    length: int


@dataclass(frozen=True)
class Lines:
    """The whole lines of a file of samples, as far as an interrupted request has come.

    places : in the file's order; nbytes : of all of them, behind which a torn line may be left
    seed, steps, model : of all its samples, None where there are none
    """

    places: tuple[Place, ...] = ()
    nbytes: int = 0
    seed: int | None = None
    steps: int | None = None
    model: str | None = None

    def remaining(self, path: Path, request: Request, model: str, own: GenerationConfig) -> Request:
        """The rest of a request, of which the file at `path` holds these texts.

        model, own : name and generation settings of the model that will write it
        Raises ValueError, in one line, unless these are texts of this request.
        """
        if self.places:
            requested = {"seed": request.seed, "steps": request.generation(own).steps, "model": model}
            for name, wanted in requested.items():
                held = getattr(self, name)
                if held != wanted:
                    raise ValueError(
                        f"{path} holds texts with {name} {held}, but {name} {wanted} was requested; cannot resume"
                    )
            last = max(place.index for place in self.places)
            if last >= request.num_samples:
                raise ValueError(
                    f"{path} holds index {last}, but num_samples {request.num_samples} was requested; cannot resume"
                )
        there = {place.index for place in self.places}
        return replace(request, indices=tuple(index for index in request.wanted if index not in there))

    @property
    def ordered(self) -> bool:
        """True if they are the first indices, each once, in order: what follows may be appended."""
        return all(place.index == index for index, place in enumerate(self.places))


def read_lines(path: Path) -> Lines:
    """The samples in a file, none where there is no such file. A last line without its end is left out: it was torn.

    Raises ValueError, naming file and line, for anything but samples, and for samples of several requests.
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
                    raise ValueError(f"{path}: line {number} is not a text of fastsedd: {line[:40]!r}")
                break
            try:
                read = _decode(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{path}: line {number} is not a text of fastsedd: {error}") from None
            if places and (read.seed, read.steps, read.model) != request:
                raise ValueError(f"{path}: line {number} has another seed, steps or model than the lines before")
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
    with path.open("rb") as file, atomic.text_file(path) as target:
        for _, place in sorted(chosen.items()):
            file.seek(place.first)
            target.write(file.read(place.length).decode())


def read_texts(content: str) -> list[str]:
    """The texts of a file, in order: of JSON lines as `json_line` writes them, or plain, with RULE between two.

    A last line of JSON without its end is left out: it is still being written, or was torn.
    Raises ValueError, naming the line, for one that is not an object with a text among lines that are.
    """
    lines = content.split("\n")  # JSON escapes the other ends of lines, except Unicode's
    if _text(lines[0]) is not None:
        if len(lines) > 1 and _text(lines[-1]) is None:
            lines.pop()
        return [_checked_text(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    return content.removesuffix("\n").split(f"\n{RULE}\n")


def _checked_text(number: int, line: str) -> str:
    text = _text(line)
    if text is None:
        raise ValueError(f"line {number} is {line[:40]!r}, allowed: a JSON object with a text")
    return text


def _text(line: str) -> str | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    text = found.get("text") if isinstance(found, dict) else None
    return text if isinstance(text, str) else None
