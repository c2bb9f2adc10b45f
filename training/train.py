"""Train a text model, resumable at any point: warm-up and a constant rate for as long as it is given time.

    python -m training.train CORPUS RUN --extra plays.txt --minutes 90
    python -m training.train CORPUS RUN --extra plays.txt --anneal TARGET --minutes 25
    python -m training.train CORPUS RUN --extra plays.txt --minutes 9 --decay 0.5

The first continues RUN until it has trained for so many minutes in all. The second lets the rate of a copy of RUN fall
to zero, in minutes of its own, and leaves RUN as it is, to be continued: what TARGET holds is the model to be used.
The third, where it is known how long the training is to be, lets the rate of RUN itself fall over the last half.
RUN/state.pt holds everything to continue from; RUN/config.json and RUN/model.safetensors (float32, moving average) are
a checkpoint that `fastsedd generate --model RUN` reads at any time. Stop it freely, by SIGINT or SIGTERM too: the same
command continues, and a process that is stopped and continued (SIGSTOP, SIGCONT) counts the time that it had.
"""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any, NamedTuple

import click
import torch

from training import corpus as corpora
from training.run import Rates, Run, validation_bound

VALIDATION_BATCHES = 8
SAVES_PER_VALIDATION = 5
COND_DIM = 64
BFLOAT16 = torch.cuda.is_available() or torch.cpu._is_avx512_bf16_supported()


class Shape(NamedTuple):
    """A network's architecture, its graph and its sizes."""

    architecture: str
    graph: str
    length: int
    width: int
    blocks: int
    heads: int
    dropout: float


class Sampling(NamedTuple):
    """Windows per step, the share of them at the beginning of a paragraph, and the share from the corpus itself."""

    batch: int
    aligned: float
    own_share: float


def describe(tokenizer: dict, shape: Shape) -> dict:
    """The config.json of a new run."""
    absorb = shape.graph == "absorb"
    noise = {"type": "loglinear"} if absorb else {"type": "geometric", "sigma_min": 1e-4, "sigma_max": 20.0}
    return {
        "tokens": len(tokenizer["characters"]) + len(tokenizer.get("merges", [])),
        "graph": {"type": shape.graph},
        "noise": noise,
        "model": {
            "type": shape.architecture,
            "hidden_size": shape.width,
            "cond_dim": COND_DIM,
            "length": shape.length,
            "n_blocks": shape.blocks,
            "n_heads": shape.heads,
            "scale_by_sigma": shape.architecture == "ddit" and absorb,
            "dropout": shape.dropout,
        },
        "tokenizer": tokenizer,
    }


class Schedule(NamedTuple):
    """When a run ends, and from when its rate falls to zero, both by the run's seconds; how often it is saved."""

    end: float
    fall: float
    save_seconds: float

    def share(self, seconds: float) -> float:
        """The share of the peak rate."""
        return 1.0 if seconds < self.fall else max(0.0, (self.end - seconds) / (self.end - self.fall))


class Stop:
    """Becomes true once the process is asked to end."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)

    def _ask(self, number: int, frame: object) -> None:
        self.asked = True

    def __bool__(self) -> bool:
        return self.asked


def train(run: Run, corpus: corpora.Corpus, sampling: Sampling, schedule: Schedule, stop: Stop) -> None:
    """Take steps until the schedule ends."""
    length = run.config["model"]["length"]
    smooth, saved, tokens, saves = None, time.monotonic(), run.tokens, 0
    while run.seconds < schedule.end and not stop:
        rows = corpora.mixed_batch(corpus, sampling.batch, length, sampling.aligned, sampling.own_share)
        value = run.take_step(rows, schedule.share(run.seconds))
        smooth = value if smooth is None else 0.98 * smooth + 0.02 * value
        if time.monotonic() - saved > schedule.save_seconds:
            rate = (run.tokens - tokens) / (time.monotonic() - saved)
            line = f"{run.seconds / 60:6.1f} min  step {run.step}  loss {smooth:.3f}  {rate:.0f} tokens/s"
            if saves % SAVES_PER_VALIDATION == 0:
                line += f"  validation {validate(run, corpus, VALIDATION_BATCHES)[0]:.3f}"
            click.echo(line)
            run.save()
            saved, tokens, saves = time.monotonic(), run.tokens, saves + 1


def validate(run: Run, corpus: corpora.Corpus, batches: int) -> tuple[float, float]:
    """The moving average's bound, nats per token, and its standard error; recorded in the run's history."""
    windows = corpora.windows(corpus.validation, run.config["model"]["length"])
    mean, error = validation_bound(run.averaged(), run.config, windows, batches, bfloat16=run.bfloat16)
    run.history.append({"step": run.step, "tokens": run.tokens, "seconds": run.seconds, "validation": mean})
    return mean, error


def prepare(folder: Path, texts: corpora.Texts, tokens: int, shape: Shape) -> dict:
    """The config of a run: the one that its folder has, else a new one, for which the tokenizer is learnt."""
    path = folder / "config.json"
    return json.loads(path.read_text()) if path.exists() else describe(corpora.tokenizer(texts, tokens), shape)


@click.command(help=__doc__)
@click.argument("corpus_file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--extra", multiple=True, type=click.Path(exists=True, dir_okay=False, path_type=Path), help="More text.")
@click.option("--minutes", default=90.0, help="Training time in all; with --anneal, that of the falling rate.")
@click.option("--anneal", metavar="TARGET", type=click.Path(file_okay=False, path_type=Path), help="See above.")
@click.option("--decay", default=0.0, help="Share of the minutes, at their end, over which the rate falls to zero.")
@click.option("--save-seconds", default=120.0, help="Time between two saves.")
@click.option("--tokens", default=2048, help="Size of the vocabulary; up to the number of characters: characters.")
@click.option("--architecture", type=click.Choice(["radd", "ddit", "annotated"]), default="radd")
@click.option("--graph", type=click.Choice(["absorb", "uniform"]), default="absorb")
@click.option("--length", default=256)
@click.option("--width", default=256)
@click.option("--blocks", default=6)
@click.option("--heads", default=4)
@click.option("--dropout", default=0.0)
@click.option("--batch", default=32)
@click.option("--aligned", default=0.9, help="Share of windows at the beginning of a paragraph.")
@click.option("--own-share", default=0.3, help="Share of windows of CORPUS itself, where there is more text.")
@click.option("--muon-lr", default=0.02)
@click.option("--adam-lr", default=2e-3)
@click.option("--weight-decay", default=0.05, help="Of the hidden matrices.")
@click.option("--seed", default=0)
@click.option("--threads", default=0, help="CPU threads.  [default: all cores]")
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu")
@click.option("--bfloat16/--float32", default=BFLOAT16, help="Type of the products.")
def main(
    corpus_file: Path,
    folder: Path,
    extra: tuple[Path, ...],
    minutes: float,
    anneal: Path | None,
    decay: float,
    save_seconds: float,
    tokens: int,
    **options: Any,
) -> None:
    torch.manual_seed(options["seed"])
    if options["threads"]:
        torch.set_num_threads(options["threads"])
    texts = corpora.read(corpus_file, extra)
    config = prepare(folder, texts, tokens, Shape(*(options[name] for name in Shape._fields)))
    corpus = corpora.moved(corpora.tokenise(texts, config), options["device"])
    rates = Rates(options["muon_lr"], options["adam_lr"], options["weight_decay"])
    run = Run(anneal or folder, config, rates, options["device"], bfloat16=options["bfloat16"])
    origin = folder / "state.pt"
    before = torch.load(origin, map_location="cpu", weights_only=True)["seconds"] if anneal else 0.0
    own = run.folder / "state.pt"
    if own.exists() or anneal:
        run.resume(own if own.exists() else origin)
    parameters = sum(parameter.numel() for parameter in run.network.parameters())
    click.echo(f"{parameters / 1e6:.2f} M parameters, {len(corpus.own.tokens):,} tokens, from step {run.step}")
    end = before + 60 * minutes
    schedule = Schedule(end, before if anneal else end - 60 * minutes * decay, save_seconds)
    train(run, corpus, Sampling(*(options[name] for name in Sampling._fields)), schedule, Stop())
    mean, error = validate(run, corpus, 40)
    run.save()
    per_character = len(corpus.validation) / len(texts.validation)
    click.echo(
        f"validation bound {mean:.3f} ± {error:.3f} nats per token, "
        f"{mean * per_character:.4f} ± {error * per_character:.4f} nats per character"
    )


if __name__ == "__main__":
    main()
