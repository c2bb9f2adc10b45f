"""Destinations of texts: standard output, a file that is whole or absent, or JSON lines that grow and are resumed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from fastsedd import streams
from fastsedd.cli.terminal import say

if TYPE_CHECKING:
    from fastsedd import Sample
    from fastsedd.output import Lines


@dataclass(frozen=True)
class Target:
    """The options of `fastsedd generate` that say where texts go.

    output : a file, None for standard output; as_json : one JSON object per text
    resume : write the texts that the file does not hold yet; quiet : say nothing about it
    Raises UsageError for a resumption of anything but a file of JSON lines.
    """

    output: Path | None
    as_json: bool
    resume: bool
    quiet: bool

    def __post_init__(self) -> None:
        if self.resume and not (self.as_json and self.output):
            raise click.UsageError("--resume continues a file of JSON lines: give --json and --output FILE")

    @property
    def path(self) -> Path:
        """The file; only where there is one."""
        assert self.output is not None
        return self.output

    def prepare(self) -> None:
        """Raise OSError where nobody would see the texts, before they are written; say how they are encoded."""
        if self.output is not None:
            return
        streams.require_stdout()
        note = streams.note()
        if note is not None and not (self.as_json or self.quiet):
            say(note)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Be the only process that writes the file, from before it is read to its end."""
        if self.output is None:
            yield
            return
        from fastsedd import atomic

        with atomic.sole_writer(self.output):
            yield

    def resumed(self) -> Lines | None:
        """The texts that an interrupted request has left, None unless it is resumed."""
        if not self.resume:
            return None
        from fastsedd import output

        return output.read_lines(self.path)

    def lines(self, samples: Iterable[Sample], model: str) -> Iterator[str]:
        """Each sample as it is written."""
        from fastsedd.output import RULE, json_line

        for sample in samples:
            if self.as_json:
                yield json_line(sample, model)
            else:
                yield sample.text if sample.index == 0 else f"{RULE}\n{sample.text}"

    @contextmanager
    def opened(self, resumed: Lines | None) -> Iterator[Callable[[str], None]]:
        """A function that writes a line."""
        from fastsedd import atomic, output

        path = self.output
        if path is None or not self.as_json or (path.exists() and not path.is_file()):
            with nullcontext(sys.stdout) if path is None else atomic.text_file(path) as file:
                yield lambda line: _write_line(file, line)
            return
        if resumed is None and output.set_aside(path) and not self.quiet:
            say(f"{path} existed; moved to {path}~")
        try:
            with output.growing_file(path, resumed or output.Lines()) as write:
                yield write
        except BaseException:
            if not self.quiet and path.is_file():
                say(f"finished texts are in {path}; rerun with --resume to continue")
            raise


def _write_line(file: TextIO, line: str) -> None:
    file.write(f"{line}\n")
    file.flush()
