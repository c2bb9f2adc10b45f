"""`fastsedd bench`: this machine's kernels against its own limits."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import click

from fastsedd import streams
from fastsedd.cli import facts, terminal
from fastsedd.cli import options as opt
from fastsedd.cli.loading import load
from fastsedd.request import Source

if TYPE_CHECKING:
    from fastsedd.bench import Measurements, Profile


@click.command("bench", short_help="Measure kernels against this machine's limits.")
@opt.threads
@click.option("--seconds", metavar="S", type=opt.Range(min=0.01), default=10.0, show_default=True, help="Time.")
@click.option("--json", "as_json", is_flag=True, help="One object instead of tables.")
@opt.model_option("Whose forward to measure.")
@opt.source
@opt.dtype
@click.option("--profile", is_flag=True, help="Instead: how a forward's time is shared among its kernels.")
@click.option("--tune", is_flag=True, help="First measure the best blocking of products here, a minute, and keep it.")
def command(source: Source, threads: int | None, seconds: float, as_json: bool, profile: bool, tune: bool) -> None:
    """Measure this machine's kernels and forward against its own limits, and against NumPy.

    The peak is that of multiply-adds on registers, measured here, as the bandwidth is. A line per layer shape (tokens x
    inputs -> outputs) says its speed, its share of the peak, and how many times as fast as NumPy it is. With --profile
    a forward runs kernel by kernel: a line says the time of one kind of kernel, and its share of the time of them all.
    benchmarks/ in the repository compares with more libraries.
    """
    streams.require_stdout()
    from fastsedd import bench as benches

    model = load(source, threads)
    if tune:
        _tune()
    if profile:
        measured: Measurements | Profile = benches.profile(model)
    else:
        with terminal.counting("measuring") as progress:
            measured = benches.run(model, seconds, progress)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(measured)))
    else:
        facts.show(facts.of_bench(measured))


def _tune() -> None:
    import fastsedd_kernels

    with terminal.counting("tuning") as progress:
        tuned = fastsedd_kernels.tune(progress)
    if tuned.limits == fastsedd_kernels.DEFAULT_LIMITS:
        terminal.say("tuned: the default blocks are the best here")
    else:
        terminal.say(f"tuned: {tuned.limits}, {tuned.gain:.3f} times as fast as the default; kept in {tuned.file}")
