"""`fastsedd fit-grid`: a time grid for a model, beside its weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from fastsedd.choices import MAX_NODES
from fastsedd.cli import options as opt
from fastsedd.cli import terminal
from fastsedd.cli.loading import load
from fastsedd.request import Source


@dataclass(frozen=True)
class _Fit:
    """Options of the fit; see `Model.fit_grid`."""

    num_texts: int
    nodes: int
    batch_size: int | None
    seed: int
    temperature: float | None


@click.command("fit-grid", short_help="Fit a time grid to a model, once.")
@opt.model_argument
@opt.source
@click.option(
    "--texts",
    "num_texts",
    metavar="N",
    type=opt.POSITIVE,
    default=64,
    show_default=True,
    help="Texts that the model writes to be measured with.",
)
@click.option(
    "--nodes",
    metavar="N",
    type=click.IntRange(2, MAX_NODES),
    default=64,
    show_default=True,
    help="Times at which each text is noised.",
)
@opt.batch_size("Texts run together.")
@opt.seed("Decides texts and noise.")
@click.option(
    "--temperature",
    metavar="X",
    type=opt.Range(min=0, min_open=True),
    help="The temperature at which the grid will be used.  [default: the model's own]",
)
@click.option(
    "--output", metavar="FILE", type=opt.FILE, help="Where to keep it.  [default: grid.json beside the weights]"
)
@opt.dtype
@opt.threads
@opt.quiet
@opt.gathered("fit", _Fit)
def command(source: Source, fit: _Fit, output: Path | None, threads: int | None, quiet: bool) -> None:
    """Fit a time grid to a model, once, for `generate --grid fitted` with any number of steps.

    M is a folder or a file of weights, with `--output` also a name on the hub, or nothing, the shipped model. Steps
    come to lie close where leaving one out would cost most, on texts that the model writes itself.
    """
    from fastsedd import atomic
    from fastsedd.checkpoint import grid_json

    if output is None and (source.path is None or not Path(source.path).exists()):
        raise click.UsageError("--output FILE is needed where M is not a folder or file of your own")
    model = load(source, threads, quiet=quiet)
    output = model.path.with_name(grid_json.NAME) if output is None else output
    with atomic.sole_writer(output):
        with terminal.counting("fitting", quiet=quiet) as progress:
            fitted = model.fit_grid(fit.num_texts, fit.nodes, fit.batch_size, fit.seed, fit.temperature, progress)
        grid_json.write(output, fitted)
    click.echo(f"{output} holds {len(fitted.times)} times")
