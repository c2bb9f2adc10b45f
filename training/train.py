"""Train a character model by score entropy, in a budget of minutes, resumable at any point.

    python -m training.train CORPUS RUN --minutes 90

RUN/state.pt holds everything to go on from; RUN/config.json and RUN/model.safetensors (float32, EMA) are a checkpoint
that `fastsedd generate --model RUN` reads at any time. Interrupt it freely: the same command goes on.
"""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path

import click
import torch
from safetensors.torch import save_file
from torch import nn

from training import corpus as corpora
from training import loss, model, optimizer


def describe(
    characters: str, architecture: str, graph: str, width: int, blocks: int, heads: int, dropout: float
) -> dict:
    """The config.json of a new run."""
    noise = {"type": "loglinear"} if graph == "absorb" else {"type": "geometric", "sigma_min": 1e-4, "sigma_max": 20.0}
    return {
        "tokens": len(characters),
        "graph": {"type": graph},
        "noise": noise,
        "model": {
            "type": architecture,
            "hidden_size": width,
            "cond_dim": 64,
            "length": 256,
            "n_blocks": blocks,
            "n_heads": heads,
            "scale_by_sigma": architecture == "ddit" and graph == "absorb",
            "dropout": dropout,
        },
        "tokenizer": {"type": "characters", "characters": characters},
    }


def replace(path: Path, write) -> None:
    """Write to a temporary name, then rename: an interruption leaves the old file or the new one, never half of one."""
    temporary = path.with_name(path.name + ".part")
    write(temporary)
    os.replace(temporary, path)


def cosine(progress: float, warmup: float = 0.01, floor: float = 0.01) -> float:
    """Share of the peak learning rate after this share of the budget."""
    if progress < warmup:
        return (progress + 1e-3) / (warmup + 1e-3)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


class Run:
    """A network in training with all that a resumption needs."""

    def __init__(self, folder: Path, config: dict, muon_lr: float, adam_lr: float, device: str) -> None:
        self.folder, self.config = folder, config
        self.network = model.build(config).to(device)
        self.optimizers = optimizer.build(self.network, muon_lr, adam_lr)
        self.ema = {name: tensor.detach().clone() for name, tensor in self.network.named_parameters()}
        self.step, self.seconds = 0, 0.0
        if (folder / "state.pt").exists():
            self._resume(device)

    def _resume(self, device: str) -> None:
        state = torch.load(self.folder / "state.pt", map_location=device, weights_only=True)
        self.network.load_state_dict(state["network"])
        for one, saved in zip(self.optimizers, state["optimizers"], strict=True):
            one.load_state_dict(saved)
        self.ema, self.step, self.seconds = state["ema"], state["step"], state["seconds"]
        torch.set_rng_state(state["rng"].cpu())

    def save(self) -> None:
        state = {
            "network": self.network.state_dict(),
            "optimizers": [one.state_dict() for one in self.optimizers],
            "ema": self.ema,
            "step": self.step,
            "seconds": self.seconds,
            "rng": torch.get_rng_state(),
        }
        replace(self.folder / "state.pt", lambda path: torch.save(state, path))
        weights = {name: tensor.contiguous().cpu() for name, tensor in self.ema.items()}
        replace(self.folder / "model.safetensors", lambda path: save_file(weights, path))

    def average(self, decay: float) -> None:
        """Fold the current weights into their moving average, faster while the run is young."""
        decay = min(decay, (1 + self.step) / (10 + self.step))
        parameters = dict(self.network.named_parameters())
        torch._foreach_lerp_(list(self.ema.values()), [parameters[name].detach() for name in self.ema], 1 - decay)

    def set_rate(self, share: float) -> None:
        for one in self.optimizers:
            for group in one.param_groups:
                group["lr"] = share * group["peak_lr"]

    def averaged(self) -> nn.Module:
        network = model.build(self.config).to(next(iter(self.ema.values())).device)
        network.load_state_dict(self.ema, strict=False)
        return network.eval()


@torch.no_grad()
def validation_bound(
    network: nn.Module, config: dict, data: torch.Tensor, batches: int, seed: int = 0
) -> tuple[float, float]:
    """Mean and standard error of the bound over random windows, nats a token."""
    generator = torch.Generator().manual_seed(seed)
    windows = corpora.windows(data, config["model"]["length"])
    device = next(network.parameters()).device
    values = []
    for _ in range(batches):
        rows = windows[torch.randperm(len(windows), generator=generator)[:32]]
        times = loss.stratified_times(len(rows), generator)
        values.append(loss.bound(network, config, rows.to(device), times, generator).mean())
    values = torch.stack(values)
    return values.mean().item(), (values.std() / len(values) ** 0.5).item()


@click.command(help=__doc__)
@click.argument("corpus_file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--minutes", default=90.0, help="Budget of training time; the schedule follows it.")
@click.option("--architecture", type=click.Choice(["ddit", "annotated"]), default="ddit")
@click.option("--graph", type=click.Choice(["absorb", "uniform"]), default="absorb")
@click.option("--width", default=256)
@click.option("--blocks", default=5)
@click.option("--heads", default=4)
@click.option("--dropout", default=0.0)
@click.option("--batch", default=32)
@click.option("--muon-lr", default=0.02)
@click.option("--adam-lr", default=2e-3)
@click.option("--ema", default=0.999)
@click.option("--seed", default=0)
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu")
@click.option("--compile/--no-compile", "compiled", default=True)
def main(
    corpus_file: Path,
    folder: Path,
    minutes: float,
    architecture: str,
    graph: str,
    width: int,
    blocks: int,
    heads: int,
    dropout: float,
    batch: int,
    muon_lr: float,
    adam_lr: float,
    ema: float,
    seed: int,
    device: str,
    compiled: bool,
) -> None:
    torch.manual_seed(seed)
    corpus = corpora.read(corpus_file)
    folder.mkdir(parents=True, exist_ok=True)
    config = describe(corpus.characters, architecture, graph, width, blocks, heads, dropout)
    replace(folder / "config.json", lambda path: path.write_text(json.dumps(config, indent=2) + "\n"))
    run = Run(folder, config, muon_lr, adam_lr, device)
    network = torch.compile(run.network) if compiled else run.network
    click.echo(f"{sum(p.numel() for p in run.network.parameters()) / 1e6:.2f} M parameters, from step {run.step}")
    length = config["model"]["length"]
    smooth, reported, first_step, started, before = None, time.monotonic(), run.step, time.monotonic(), run.seconds
    while run.seconds < 60 * minutes:
        run.set_rate(cosine(run.seconds / (60 * minutes)))
        rows = corpora.random_batch(corpus.train, batch, length).to(device)
        value = loss.bound(network, config, rows, loss.stratified_times(batch)).mean()
        value.backward()
        nn.utils.clip_grad_norm_(run.network.parameters(), 1.0)
        for one in run.optimizers:
            one.step()
            one.zero_grad(set_to_none=True)
        run.step += 1
        run.average(ema)
        run.seconds = before + time.monotonic() - started
        smooth = value.item() if smooth is None else 0.98 * smooth + 0.02 * value.item()
        if time.monotonic() - reported > 60:
            reported = time.monotonic()
            rate = (run.step - first_step) * batch * length / (reported - started)
            click.echo(f"{run.seconds / 60:6.1f} min  step {run.step}  loss {smooth:.3f}  {rate:.0f} tokens/s")
            run.save()
    run.save()
    mean, error = validation_bound(run.averaged(), config, corpus.validation, 40)
    click.echo(f"validation bound {mean:.3f} +- {error:.3f} nats a character")


if __name__ == "__main__":
    main()
