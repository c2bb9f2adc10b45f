"""Output for a person at a terminal: progress bars, the live denoising view, and a table of facts.

Bars and the view are drawn on stderr and leave nothing behind; they vanish while a finished text is printed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fastsedd.request import OnStep
    from fastsedd.text import Tokenizer

MASK = "·"
MASKED = "dim"
FRESH = "bold green"
SETTLED = ""

_SPEED_PERIOD = 600.0  # seconds that the rate is averaged over: a batch may take minutes


@contextmanager
def counting_bar(description: str, unit: str | None = None) -> Iterator[Callable[[int, int], None]]:
    """A bar that is moved by calling `progress(done, total)`; with a unit, it also shows the rate."""
    with _bar(description, unit) as bar:
        yield lambda done, total: bar.update(bar.task_ids[0], completed=done, total=total)


@contextmanager
def denoising_bar(num_samples: int) -> Iterator[OnStep]:
    """A bar over all steps of all texts, moved by `on_step`."""
    bar = _bar("denoising", "samples")

    def on_step(step: int, steps: int, tokens: NDArray[np.int32]) -> None:
        bar.start()
        _advance(bar, step, steps, len(tokens), num_samples)
        if step == steps:
            bar.stop()

    try:
        yield on_step
    finally:
        bar.stop()


@contextmanager
def denoising_view(num_samples: int, tokenizer: Tokenizer, mask_token: int | None) -> Iterator[OnStep]:
    """The first text of each batch as it emerges from noise, above the bar, redrawn by `on_step`."""
    bar = _bar("denoising", "samples")
    view = Live(console=bar.console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False)
    before: NDArray[np.int32] | None = None

    def on_step(step: int, steps: int, tokens: NDArray[np.int32]) -> None:
        nonlocal before
        now = tokens[0]
        if before is None:
            view.start()
        _advance(bar, step, steps, len(tokens), num_samples)
        shown = noisy_text(now, now if before is None else before, tokenizer, mask_token)
        view.update(Group(shown, "", bar), refresh=True)
        before = now
        if step == steps:
            before = None
            view.stop()

    try:
        yield on_step
    finally:
        view.stop()


@contextmanager
def answering_view(written: int, tokenizer: Tokenizer, mask_token: int | None) -> Iterator[OnStep]:
    """An answer as it is unmasked, up to the last token that is there, redrawn by `on_step`, gone at the end.

    written : its positions, the last ones of the text
    """
    console = Console()
    view = Live(console=console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False)
    before: NDArray[np.int32] | None = None

    def on_step(step: int, steps: int, tokens: NDArray[np.int32]) -> None:
        nonlocal before
        now = tokens[0, -written:]
        there = (now != mask_token).nonzero()[0]
        last = int(there[-1]) + 1 if len(there) else 0
        text = noisy_text(now[:last], now if before is None else before, tokenizer, mask_token)
        lines = text.wrap(console, console.width)[-max(1, console.height - 2) :]
        view.update(Text("\n").join(lines), refresh=True)
        before = now

    with view:
        yield on_step


def noisy_text(
    tokens: NDArray[np.int32], before: NDArray[np.int32], tokenizer: Tokenizer, mask_token: int | None
) -> Text:
    """A state, int32 [L], in which masks are faint and tokens that differ from the state before stand out."""

    def style(position: int) -> str:
        if tokens[position] == mask_token:
            return MASKED
        return SETTLED if tokens[position] == before[position] else FRESH

    text = Text()
    for look, run in groupby(range(len(tokens)), style):
        text.append(tokenizer.decode(tokens[list(run)], mask=MASK), look)
    return text


def print_facts(facts: Sequence[tuple[str, str]]) -> None:
    """Names and values on stdout: a table on a terminal, else aligned lines that are never wrapped."""
    console = Console()
    if console.is_terminal:
        table = Table(show_header=False)
        table.add_column(style="bold")
        table.add_column(overflow="fold")
        for name, value in facts:
            table.add_row(name, Text(value))
        console.print(table)
    else:
        width = max(len(name) for name, _ in facts)
        for name, value in facts:
            print(f"{name:<{width}}  {value}")


class _Rate(ProgressColumn):
    """Units done per second; the task's field `steps` says how many of its counts make one unit."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        if task.speed is None:
            return Text("")
        return Text(f"{task.speed / task.fields['steps']:.3g} {self._unit}/s", style="progress.data.speed")


def _bar(description: str, unit: str | None = None) -> Progress:
    """A bar with one task, of unknown total."""
    rate = () if unit is None else (_Rate(unit),)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), *rate, TimeRemainingColumn())
    console = Console(stderr=True)
    bar = Progress(
        *columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False,
        speed_estimate_period=_SPEED_PERIOD,
    )  # fmt: skip
    bar.add_task(description, total=None, steps=1, done=0)
    return bar


def _advance(bar: Progress, step: int, steps: int, batch: int, num_samples: int) -> None:
    """Move a bar that counts the steps of every text to a step of a batch; some before it may have been left out."""
    task = bar.tasks[0]
    done = task.fields["done"]  # of the batches before
    bar.update(
        task.id, description=f"step {step}/{steps}", completed=done + step * batch, total=steps * num_samples,
        steps=steps, done=done + step * batch if step == steps else done,
    )  # fmt: skip
