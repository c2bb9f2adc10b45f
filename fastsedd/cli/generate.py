"""`fastsedd generate`: a request for texts, run here or on workers, to standard output or to a file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fastsedd import signals
from fastsedd.choices import DRAWS, GRIDS, PREDICTORS
from fastsedd.cli import options as opt
from fastsedd.cli import terminal, unmasking
from fastsedd.cli.loading import load
from fastsedd.cli.reading import read_text
from fastsedd.cli.target import Target
from fastsedd.request import Request, Source

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from typing_extensions import Unpack

    from fastsedd import Model, Sample
    from fastsedd.cluster import RemoteModel
    from fastsedd.request import AllOptions, OnStep


@click.command("generate")
@opt.model_option(f"{opt.MODEL[0].upper()}{opt.MODEL[1:]}.")
@opt.source
@click.option("--steps", metavar="N", type=int, help="Denoising steps.  [default: the model's own]")
@click.option("--num-samples", metavar="N", type=int, default=1, show_default=True, help="Texts to write.")
@click.option("--batch-size", metavar="N", type=int, help="Texts denoised together.  [default: by memory and speed]")
@click.option("--length", metavar="N", type=opt.POSITIVE, help="Tokens per text.  [default: the model's own]")
@click.option("--seed", metavar="N", type=int, help="Decides the texts.  [default: random]")
@click.option("--prefix", metavar="TEXT", default="", help="Text that every sample begins with.")
@click.option("--suffix", metavar="TEXT", default="", help="Text that every sample ends with.")
@click.option(
    "--template",
    "template_file",
    metavar="FILE",
    type=click.Path(allow_dash=True, dir_okay=False, path_type=Path),
    help="Text with gaps to fill, - for standard input: {{40}} is a gap of 40 tokens, {{}} one of all that are left.",
)
@click.option("--prompt", metavar="TEXT", help="Have a masked language model answer this; - for standard input.")
@click.option("--system", metavar="TEXT", help="How to answer it.")
@unmasking.options
@click.option(
    "--predictor",
    type=click.Choice(PREDICTORS),
    help="Reverse step; ddpm, which ends with the likeliest tokens, for MDLM, RADD, UDLM and Duo only.  "
    "[default: ddpm for MDLM, else analytic]",
)
@click.option(
    "--draw",
    type=click.Choice(DRAWS),
    default=DRAWS[0],
    show_default=True,
    help="Categorical draw: exact, or with the published code's arithmetic.",
)
@click.option(
    "--temperature", metavar="X", type=float, help="Below 1 safer, above 1 wilder.  [default: the model's own]"
)
@click.option(
    "--top-k",
    metavar="N",
    type=int,
    default=0,
    show_default=True,
    help="Keep only the N likeliest tokens to jump to; 0 keeps all.",
)
@click.option(
    "--top-p",
    metavar="P",
    type=float,
    default=1.0,
    show_default=True,
    help="Nucleus sampling: keep the smallest set of tokens whose probabilities sum to P.",
)
@click.option(
    "--grid",
    type=click.Choice(GRIDS),
    default=GRIDS[0],
    show_default=True,
    help="Spacing of the steps in noise: as in the article, equal in its logarithm, or fitted to the model.",
)
@opt.dtype
@opt.threads
@click.option("--watch", is_flag=True, help="On a terminal, show a text emerging from noise.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per text.")
@click.option(
    "--output",
    metavar="FILE",
    type=opt.FILE,
    help="Write there: with --json text by text, else whole or not at all.",
)
@click.option(
    "--record", metavar="FILE", type=opt.FILE, help="Keep how the first text emerges, as one file: .html, .svg or .gif."
)
@click.option("--resume", is_flag=True, help="Write the texts still missing in --output FILE, with --json.")
@click.option(
    "--scheduler",
    metavar="S",
    help="Share the texts among dask's workers: tcp://HOST:PORT, or local:N for N processes here.",
)
@opt.quiet
@opt.gathered("target", Target)
def command(
    source: Source,
    target: Target,
    threads: int | None,
    template_file: Path | None,
    watch: bool,
    scheduler: str | None,
    record: Path | None,
    **options: Unpack[AllOptions],
) -> None:
    """Write texts.

    The same seed gives the same texts, for any number of threads, any batch size and any number of workers.
    """
    quiet = target.quiet
    if watch and quiet:
        raise click.UsageError("--watch cannot be combined with --quiet: it shows progress")
    if watch and scheduler is not None:
        raise click.UsageError("--watch cannot be combined with --scheduler: workers report no per-step progress")
    if record is not None:
        _check_record(record, scheduler, target.output)
    if template_file is not None:
        options["template"] = read_text(template_file)
    if options["prompt"] == "-":
        options["prompt"] = read_text(Path("-"))
    request = _checked(options)
    target.prepare()
    with target.exclusive(), ExitStack() as held:
        resumed = target.resumed()
        if resumed is not None and resumed.seed is not None and options["seed"] is None:
            request = replace(request, seed=resumed.seed)
        writer = held.enter_context(_writer(source, threads, scheduler, quiet=quiet))
        if resumed is not None:
            request = resumed.remaining(target.path, request, writer.name, writer.config.generation)
        samples = held.enter_context(_running(writer, request, record, watch=watch, quiet=quiet))
        if not quiet:
            terminal.say(f"seed {request.seed}")
        write = held.enter_context(target.opened(resumed))
        for line in target.lines(samples, writer.name):
            write(line)
            signals.check()


def _check_record(record: Path, scheduler: str | None, output: Path | None) -> None:
    from fastsedd import recording

    if scheduler is not None:
        raise click.UsageError("--record cannot be combined with --scheduler: workers report no per-step progress")
    if output is not None and record.resolve() == output.resolve():
        raise click.UsageError(f"--record {record} is --output's file, allowed: another one")
    try:
        recording.check_path(record)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def _both(first: OnStep, second: OnStep | None) -> OnStep:
    def on_step(step: int, steps: int, tokens: NDArray[np.int32]) -> None:
        first(step, steps, tokens)
        if second is not None:
            second(step, steps, tokens)

    return on_step


def _checked(options: AllOptions) -> Request:
    try:
        return Request.of(**options)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


@contextmanager
def _writer(
    source: Source, threads: int | None, scheduler: str | None, *, quiet: bool
) -> Iterator[Model | RemoteModel]:
    """The model that writes the texts: in this process or, with a scheduler, on workers."""
    if scheduler is None:
        yield load(source, threads, quiet=quiet)
        return
    from fastsedd import cluster

    with cluster.connect(
        scheduler, source.path, source.dtype, threads=threads, revision=source.revision, offline=source.offline,
        tokenizer=source.tokenizer, heads=source.heads, note=terminal.note(quiet=quiet),
    ) as workers:  # fmt: skip
        yield workers


@contextmanager
def _running(
    writer: Model | RemoteModel, request: Request, record: Path | None, *, watch: bool, quiet: bool
) -> Iterator[Iterator[Sample]]:
    """The texts of a request, their progress shown as long as the context lasts, which then writes the record."""
    from fastsedd import Model
    from fastsedd.recording import Recording

    count = len(request.wanted)
    if isinstance(writer, Model):
        with terminal.denoising(writer, count, watch=watch, quiet=quiet) as on_step:
            if record is None:
                yield writer.run(request, on_step)
                return
            recording = Recording(writer.tokenizer, writer.config.mask_id)
            yield writer.run(request, _both(recording.on_step, on_step))
        if count > 0:  # a job that was complete has nothing to show
            recording.write(record)
    else:
        with terminal.counting("writing", unit="samples", quiet=quiet) as progress:
            yield writer.run(request, progress)
