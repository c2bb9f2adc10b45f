"""The person at the terminal: lines on stderr, and progress where somebody looks."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from fastsedd import Model
    from fastsedd.request import AllOptions, OnStep

Progress = Callable[[int, int], None]


def say(line: str) -> None:
    """A line on stderr."""
    click.echo(line, err=True)


def note(*, quiet: bool) -> Callable[[str], None]:
    """`say`, or a function that does nothing."""
    return (lambda line: None) if quiet else say


def counting(what: str, *, unit: str | None = None, quiet: bool = False) -> AbstractContextManager[Progress]:
    """A bar on a terminal, with the rate where a unit is given, else nothing."""
    if quiet or not sys.stderr.isatty():
        return nullcontext(lambda done, total: None)
    from fastsedd import display

    return display.counting_bar(what, unit)


def denoising(model: Model, num_samples: int, *, watch: bool, quiet: bool) -> AbstractContextManager[OnStep | None]:
    """The progress of texts: a bar on a terminal, with a text that emerges if it is watched, else nothing."""
    if quiet or not sys.stderr.isatty():
        return nullcontext()
    from fastsedd import display

    if watch:
        return display.denoising_view(num_samples, model.tokenizer, model.config.mask_id)
    return display.denoising_bar(num_samples)


def answering(model: Model, options: AllOptions, *, quiet: bool) -> AbstractContextManager[OnStep | None]:
    """An answer as it is unmasked, where stdout is a terminal, else nothing."""
    backbone = model.config.backbone
    if quiet or backbone is None or not sys.stdout.isatty():
        return nullcontext()
    from fastsedd import display

    written = options.get("max_new_tokens") or backbone.unmasking.max_new_tokens
    return display.answering_view(written, model.tokenizer, model.config.mask_id)


def compiling() -> AbstractContextManager[Progress | None]:
    """The progress of a warm-up: a bar on a terminal, else one line."""
    if not sys.stderr.isatty():
        announce_compilation()
        return nullcontext()
    from fastsedd import display

    return display.counting_bar("compiling kernels for this CPU")


def announce_compilation() -> None:
    """Say so, once, if kernels are compiled."""
    import fastsedd_kernels

    def announce() -> None:
        kept = fastsedd_kernels.cache_folder() is not None
        often = "once" if kept else "they cannot be kept: name a folder of your own in FASTSEDD_CACHE_DIR"
        say(f"compiling kernels for this CPU ({often}; about a minute at most)…")

    fastsedd_kernels.on_compile(announce)


def silence_hub(*, quiet: bool = False) -> None:
    """Turn off the progress bars of the hub's library where nobody looks: it shows them on any stderr."""
    if quiet or not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
