"""The longest run of characters that texts share with the text that a model was trained on.

    python -m training.memorisation TEXTS.jsonl CORPUS --extra plays.txt

TEXTS.jsonl is what `fastsedd generate --json` writes. Beside the texts it measures the validation part of CORPUS, in
windows as long as they are: real text, which shares its common phrases with the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np

from fastsedd.output import read_texts
from training import corpus as corpora

QUANTILES = (0.5, 0.9, 0.99, 1.0)


def longest_shared_run(text: str, training: str) -> str:
    """The longest run of characters of a text that the training text holds, the first of equals."""
    longest = ""
    for start in range(len(text)):
        while start + len(longest) < len(text) and (run := text[start : start + len(longest) + 1]) in training:
            longest = run
    return longest


def side_by_side(text: str, length: int) -> list[str]:
    """A text in whole windows; a shorter rest is left out."""
    return [text[start : start + length] for start in range(0, len(text) - length + 1, length)]


def lengths(texts: Sequence[str], training: str) -> list[int]:
    """The length of each text's longest shared run, characters."""
    return [len(longest_shared_run(text, training)) for text in texts]


def row(name: str, found: Sequence[int]) -> str:
    """A row of a table: the quantiles of lengths."""
    values = " | ".join(f"{np.quantile(found, q, method='higher')}" for q in QUANTILES)
    return f"| {name}, {len(found)} | {values} |"


def table(texts: Sequence[str], read: corpora.Texts) -> str:
    """Quantiles of the longest shared run over texts, and over real text held out of training, as a Markdown table."""
    training = f"{read.own}\n\n{read.extra}"
    real = side_by_side(read.validation, int(np.median([len(text) for text in texts])))
    head = "| texts | " + " | ".join("longest" if q == 1 else f"{q:.0%} below" for q in QUANTILES) + " |"
    rule = "|---|" + "---:|" * len(QUANTILES)
    return "\n".join([head, rule, row("generated", lengths(texts, training)), row("real", lengths(real, training))])


@click.command(help=__doc__)
@click.argument("texts_file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("corpus_file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--extra", multiple=True, type=click.Path(exists=True, dir_okay=False, path_type=Path), help="More text.")
def main(texts_file: Path, corpus_file: Path, extra: tuple[Path, ...]) -> None:
    click.echo(table(read_texts(texts_file.read_text(encoding="utf-8")), corpora.read(corpus_file, extra)))


if __name__ == "__main__":
    main()
