"""Options of several commands, and how those that belong together arrive as one argument."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from fastsedd.choices import ANY_DTYPES, MAX_SEED
from fastsedd.request import Source

Decorator = Callable[[Callable[..., None]], Callable[..., None]]

MODEL = "a folder, a file of weights or a name on the hub (owner/name, or owner/name/file)"


class Range(click.FloatRange):
    """A range of numbers, which NaN is not in."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value} is not a number.", param, ctx)
        return number


FILE = click.Path(dir_okay=False, path_type=Path)
POSITIVE = click.IntRange(min=1)
SEED = click.IntRange(0, MAX_SEED)

quiet = click.option("--quiet", is_flag=True, help="No progress and no notes on stderr.")
threads = click.option("--threads", metavar="N", type=POSITIVE, help="CPU threads.  [default: all cores]")
dtype = click.option(
    "--dtype",
    type=click.Choice(ANY_DTYPES),
    help="Compute dtype of the large layers; narrower is faster.  [default: float32; stored of a .gguf]",
)
revision = click.option("--revision", metavar="R", help="Branch, tag or commit of a name on the hub.")
offline = click.option("--offline", is_flag=True, help="Use what the hub has sent before, and no network.")
tokenizer = click.option(
    "--tokenizer", metavar="T", help="A folder, a tokenizer.json or a name on the hub.  [default: the model's own]"
)
heads = click.option(
    "--heads", metavar="N", type=POSITIVE, help="Attention heads of a file that does not say how many."
)


def model_option(words: str) -> Decorator:
    """`--model M`, the path of a `Source`."""
    return click.option("--model", "path", metavar="M", help=f"{words}  [default: the shipped model]")


model_argument: Decorator = click.argument("path", metavar="[M]", required=False)


def gathered(name: str, kind: type) -> Decorator:
    """Pass the options that are fields of a dataclass as one argument of this name."""
    fields = [field.name for field in dataclasses.fields(kind)]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def call(**options: Any) -> None:
            own = {field: options.pop(field) for field in fields if field in options}
            command(**{name: kind(**own)}, **options)

        return call

    return decorate


def source(command: Callable[..., None]) -> Callable[..., None]:
    """Options of where a model comes from, as one `source`: with a path and a dtype if the command has them."""
    return revision(offline(tokenizer(heads(gathered("source", Source)(command)))))


def seed(words: str) -> Decorator:
    """`--seed N`, 0 if it is not given."""
    return click.option("--seed", metavar="N", type=SEED, default=0, show_default=True, help=words)


def batch_size(words: str) -> Decorator:
    """`--batch-size N`; words : for its help, the things that are run together."""
    return click.option("--batch-size", metavar="N", type=POSITIVE, help=f"{words}  [default: by memory]")
