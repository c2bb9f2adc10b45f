"""`fastsedd convert`: a checkpoint of any format that is read, as safetensors and config.json, or as one GGUF file."""

from __future__ import annotations

from pathlib import Path

import click

import fastsedd
from fastsedd.choices import GGUF_TYPES, GgufType
from fastsedd.cli import options as opt
from fastsedd.cli import terminal


@click.command("convert", short_help="Write a checkpoint as safetensors or GGUF.")
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST", type=click.Path(path_type=Path))
@click.option("--dtype", type=click.Choice(GGUF_TYPES), help="Of a GGUF file's matrices.  [default: as stored]")
@opt.revision
@opt.offline
@opt.heads
def command(
    source: str, target: Path, dtype: GgufType | None, revision: str | None, offline: bool, heads: int | None
) -> None:
    """Write a checkpoint anew, as DST/model.safetensors and DST/config.json, every value bit for bit.

    SRC is a folder, a file of weights (.safetensors, .gguf, or .bin, .pt and .pth from PyTorch) or a name on the hub.
    Of a training run the moving average is taken; of a GGUF file its tokenizer too, and quantised weights in float32.
    DST is a new folder, made whole or not at all. Where DST ends in .gguf it is one file for llama.cpp, tokenizer
    included, of masked language models of Qwen2, Qwen3, Llama, Dream and LLaDA; its norms are float32.
    """
    terminal.silence_hub()
    with terminal.counting("converting") as progress:
        fastsedd.convert(
            source, target, revision, dtype=dtype, offline=offline, heads=heads, progress=progress, note=terminal.say
        )
    click.echo(
        f"{target} holds the whole model" if target.is_file() else f"{target} holds model.safetensors and config.json"
    )
