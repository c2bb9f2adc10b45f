"""`fastsedd warmup`: every kernel, compiled and kept."""

from __future__ import annotations

import click

import fastsedd
from fastsedd.cli import terminal


@click.command("warmup")
def command() -> None:
    """Compile every kernel for this CPU, once."""
    import fastsedd_kernels

    folder = fastsedd_kernels.cache_folder()
    if folder is None:
        raise OSError("kernels cannot be kept: name a folder of your own in FASTSEDD_CACHE_DIR")
    with terminal.compiling() as progress:
        fastsedd.warmup(progress)
    click.echo(f"kernels for this CPU are in {folder}")
