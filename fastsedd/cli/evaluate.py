"""`fastsedd evaluate`: how surprising a text is to a model, or how real generated texts are."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, replace
from pathlib import Path

import click

from fastsedd import streams
from fastsedd.choices import MAX_TIMES
from fastsedd.cli import facts, terminal
from fastsedd.cli import options as opt
from fastsedd.cli.loading import load
from fastsedd.cli.reading import read_text
from fastsedd.request import Source


@dataclass(frozen=True)
class _Files:
    """Texts to measure and the text to measure them by. Raises UsageError for the one without the other."""

    samples: Path | None
    reference: Path | None

    def __post_init__(self) -> None:
        if (self.samples is None) != (self.reference is None):
            raise click.UsageError("--samples FILE and --reference FILE go together, without [M] FILE")


@dataclass(frozen=True)
class _Estimate:
    """Options of the bound's estimate; see `Model.evaluate`."""

    times: int
    seed: int
    batch_size: int | None


@click.command("evaluate", short_help="Bound a text's likelihood, or measure texts.")
@click.argument("paths", metavar="[M] FILE", nargs=-1)
@opt.source
@click.option(
    "--samples",
    metavar="FILE",
    type=opt.FILE,
    help="Measure these texts, without a model: of `generate`, with --json or without.",
)
@click.option("--reference", metavar="FILE", type=opt.FILE, help="With --samples: the text to measure by.")
@click.option(
    "--times",
    metavar="N",
    type=click.IntRange(1, MAX_TIMES),
    default=8,
    show_default=True,
    help="Network runs per window, each at a noise of its own.",
)
@opt.seed("Decides the noise.")
@opt.batch_size("Windows run together.")
@opt.dtype
@opt.threads
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@opt.quiet
@opt.gathered("files", _Files)
@opt.gathered("estimate", _Estimate)
def command(
    paths: tuple[str, ...],
    source: Source,
    files: _Files,
    estimate: _Estimate,
    threads: int | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Bound how surprising a text is to a model: nats and bits per token, perplexity.

    M is as in `inspect`, by default the shipped model. FILE is UTF-8; it is cut into windows of the
    model's length, side by side, and a shorter rest is left out. Standard errors are over windows.

    With --samples it measures texts instead, by a --reference: its first 90 % trains a word list and a character
    5-gram model (Kneser-Ney), its last 10 %, in windows as long as the texts, is measured beside them as real text.
    Standard errors are over texts.
    """
    streams.require_stdout()
    if files.samples is not None and files.reference is not None:
        if paths:
            raise click.UsageError("--samples FILE and --reference FILE go together, without [M] FILE")
        _measure(files.samples, files.reference, as_json=as_json)
        return
    if not 1 <= len(paths) <= 2:
        raise click.UsageError(f"{len(paths)} paths are given, allowed: [M] FILE")
    text = read_text(Path(paths[-1]))
    model = load(replace(source, path=paths[0] if len(paths) == 2 else None), threads, quiet=quiet)
    with terminal.counting("evaluating", quiet=quiet) as progress:
        evaluation = model.evaluate(text, estimate.times, estimate.batch_size, estimate.seed, progress)
    if as_json:
        click.echo(json.dumps(facts.evaluation_object(evaluation, model)))
    else:
        facts.show(facts.of_evaluation(evaluation, model))


def _measure(samples: Path, reference: Path, *, as_json: bool) -> None:
    """Print the measures of texts, and of real text beside them."""
    from fastsedd.output import read_texts
    from fastsedd.quality.measures import Reference

    try:
        texts = read_texts(read_text(samples))
    except ValueError as error:
        raise ValueError(f"{samples}: {error}") from None
    found = Reference(read_text(reference)).measure(texts)
    if as_json:
        found_object = json.loads(json.dumps(dataclasses.asdict(found)), parse_constant=lambda nan: None)
        click.echo(json.dumps(found_object))  # JSON has no NaN, the measure of texts without any word
    else:
        facts.show(facts.of_quality(found))
