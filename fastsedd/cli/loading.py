"""A model for a command: what is said about it, and its threads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import fastsedd
from fastsedd.cli import terminal

if TYPE_CHECKING:
    from fastsedd import Model
    from fastsedd.loading import Outline
    from fastsedd.request import Source


def outline(source: Source) -> Outline | None:
    """Describe a masked language model without its weights; None for any other, and for files that `load` refuses."""
    from fastsedd import loading

    try:
        return loading.outline(
            source.path, source.revision, offline=source.offline, tokenizer=source.tokenizer, heads=source.heads,
            note=terminal.say,
        )  # fmt: skip
    except fastsedd.CheckpointError:
        return None


def load(source: Source, threads: int | None = None, *, quiet: bool = False) -> Model:
    """Load a model, after setting the number of threads; compilation and notes are said unless quiet."""
    if not quiet:
        terminal.announce_compilation()
    if threads is not None:
        import fastsedd_kernels

        fastsedd_kernels.set_num_threads(threads)
    terminal.silence_hub(quiet=quiet)
    return fastsedd.load(
        source.path, source.dtype, source.revision,
        offline=source.offline, tokenizer=source.tokenizer, heads=source.heads, note=terminal.note(quiet=quiet),
    )  # fmt: skip
