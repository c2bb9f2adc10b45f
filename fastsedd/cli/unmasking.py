"""Options of masked language models, of every command that writes with one."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import click

from fastsedd.choices import CACHES, ORDERS

_POSITIVE = click.IntRange(min=1)

_OPTIONS = (
    click.option(
        "--max-new-tokens", metavar="N", type=_POSITIVE, help="Tokens of an answer.  [default: the model's own]"
    ),
    click.option(
        "--block-length", metavar="N", type=_POSITIVE,
        help="Write in blocks of N tokens, left to right.  [default: the model's own]",
    ),
    click.option(
        "--order", type=click.Choice(ORDERS),
        help="Which masks are committed to first; p2 masks some again.  [default: the model's own]",
    ),
    click.option(
        "--order-temperature", "--alg-temp", metavar="X", type=float,
        help="Gumbel noise in that order, 0 for none.  [default: 0]",
    ),
    click.option(
        "--threshold", metavar="X", type=float,
        help="Commit to all tokens of probability X or more, one at least.  [default: the model's own]",
    ),
    click.option("--factor", metavar="X", type=float, help="Commit to the r likeliest while (r + 1)(1 - p) < X."),
    click.option("--entropy-bound", metavar="X", type=float, help="Commit while entropies add up to less than X."),
    click.option(
        "--cfg-scale", metavar="X", type=float, default=0.0, show_default=True,
        help="Guidance: how far away from a model that does not see the prompt; doubles the work.",
    ),
    click.option("--stop", metavar="TEXT", multiple=True, help="End an answer before this text; may be repeated."),
    click.option(
        "--cache", type=click.Choice(CACHES), default=CACHES[0], show_default=True,
        help="Keys and values to keep: exact, of finished blocks under block-causal attention; the texts are the same. "
        "Approximate, of a block's first step under full attention: faster, other texts.",
    ),
    click.option(
        "--shift/--no-shift", default=None, help="Logits at a position are of the next.  [default: the model's own]"
    ),
)  # fmt: skip


def options(command: Callable[..., None]) -> Callable[..., None]:
    """All of them, in this order, fields of `fastsedd.Request`."""
    return reduce(lambda decorated, option: option(decorated), reversed(_OPTIONS), command)
