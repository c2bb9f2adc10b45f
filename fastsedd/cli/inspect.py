"""`fastsedd inspect`: what a checkpoint is."""

from __future__ import annotations

import click

from fastsedd import streams
from fastsedd.cli import facts
from fastsedd.cli import options as opt
from fastsedd.cli.loading import load, outline
from fastsedd.request import Source


@click.command("inspect", short_help="Say what a checkpoint is.")
@opt.model_argument
@opt.source
@opt.dtype
def command(source: Source) -> None:
    """Say what a checkpoint is, and what each part of it would be computed in.

    Of a masked language model nothing large is read. M is a folder, a file of weights or a name on the hub, by default
    the shipped model.
    """
    streams.require_stdout()
    found = outline(source)
    facts.show(facts.of_model(load(source)) if found is None else facts.of_outline(found))
