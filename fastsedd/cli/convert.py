"""`fastsedd convert`: a checkpoint of any format that is read, as safetensors and config.json."""

from __future__ import annotations

from pathlib import Path

import click

import fastsedd
from fastsedd.cli import options as opt
from fastsedd.cli import terminal


@click.command("convert", short_help="Write a checkpoint as safetensors.")
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST", type=click.Path(file_okay=False, path_type=Path))
@opt.revision
@opt.offline
@opt.heads
def command(source: str, target: Path, revision: str | None, offline: bool, heads: int | None) -> None:
    """Write a checkpoint anew, as DST/model.safetensors and DST/config.json, every value bit for bit.

    SRC is a folder, a file of weights (.safetensors, .gguf, or .bin, .pt and .pth from PyTorch) or a name on the hub.
    Of a training run the moving average is taken; of a GGUF file its tokenizer too, and quantised weights in float32.
    DST is a new folder, made whole or not at all.
    """
    terminal.silence_hub()
    with terminal.counting("converting") as progress:
        fastsedd.convert(source, target, revision, offline=offline, heads=heads, progress=progress, note=terminal.say)
    click.echo(f"{target} holds model.safetensors and config.json")
