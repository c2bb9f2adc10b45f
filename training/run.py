"""A network in training, with all that a resumption needs."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from training import loss, model, optimizer

WARMUP_STEPS = 150
MAX_STEP_SECONDS = 30.0  # a step that took longer was stopped meanwhile, and counts as this long


class Rates(NamedTuple):
    """Peak learning rates, the weight decay of the hidden matrices, and the decay of the moving average."""

    muon: float = 0.02
    adam: float = 2e-3
    weight_decay: float = 0.05
    average: float = 0.999


def replace(path: Path, write: Callable[[Path], object]) -> None:
    """Write to a temporary name, then rename: an interruption leaves the old file or the new one, never half of one."""
    temporary = path.with_name(path.name + ".part")
    write(temporary)
    os.replace(temporary, path)


class Run:
    """FOLDER/state.pt holds everything to continue from; FOLDER/config.json and model.safetensors are a checkpoint.

    step, tokens, seconds : in all, over every resumption; history : what `report` has recorded
    """

    def __init__(self, folder: Path, config: dict, rates: Rates, device: str, *, bfloat16: bool) -> None:
        self.folder, self.config, self.rates, self.device, self.bfloat16 = folder, config, rates, device, bfloat16
        self.network = model.build(config).to(device)
        iterated = torch.bfloat16 if bfloat16 else torch.float32
        self._on_cuda = torch.device(device).type == "cuda"
        self._loss = torch.compile(loss.of_network) if self._on_cuda else loss.of_network
        self.optimizers = optimizer.build(self.network, rates.muon, rates.adam, rates.weight_decay, iterated)
        self.average = {name: tensor.detach().clone() for name, tensor in self.network.named_parameters()}
        self.step, self.tokens, self.seconds = 0, 0, 0.0
        self.history: list[dict] = []
        folder.mkdir(parents=True, exist_ok=True)
        replace(folder / "config.json", lambda path: path.write_text(json.dumps(config) + "\n"))

    def resume(self, state_file: Path) -> None:
        """Continue from the state of a run."""
        state = torch.load(state_file, map_location=self.device, weights_only=True)
        self.network.load_state_dict(state["network"])
        for one, saved in zip(self.optimizers, state["optimizers"], strict=True):
            peaks = [group["peak_lr"] for group in one.param_groups]
            one.load_state_dict(saved)
            for group, peak in zip(one.param_groups, peaks, strict=True):
                group["peak_lr"] = peak
        self.average, self.history = state["average"], state["history"]
        self.step, self.tokens, self.seconds = state["step"], state["tokens"], state["seconds"]
        torch.set_rng_state(state["rng"].cpu())
        if self._on_cuda and state["accelerator_rng"] is not None:
            torch.cuda.set_rng_state(state["accelerator_rng"].cpu())

    def save(self) -> None:
        state = {
            "network": self.network.state_dict(),
            "optimizers": [one.state_dict() for one in self.optimizers],
            "average": self.average,
            "history": self.history,
            "step": self.step,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "rng": torch.get_rng_state(),
            "accelerator_rng": torch.cuda.get_rng_state() if self._on_cuda else None,
        }
        replace(self.folder / "state.pt", lambda path: torch.save(state, path))
        weights = {name: tensor.contiguous().cpu() for name, tensor in self.average.items()}
        replace(self.folder / "model.safetensors", lambda path: save_file(weights, path))

    def take_step(self, rows: Tensor, share: float) -> Tensor:
        """One update at a share of the peak learning rates, on int64 [B, L]. Returns its loss, nats per token, [].

        An accelerator goes on computing after the return.
        """
        started = time.monotonic()
        for group in (group for one in self.optimizers for group in one.param_groups):
            group["lr"] = share * min(1.0, (self.step + 1) / WARMUP_STEPS) * group["peak_lr"]
        with torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.bfloat16):
            times = loss.stratified_times(len(rows), device=rows.device)
            value = self._loss(self.network, self.config, rows, times).mean()
        value.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        for one in self.optimizers:
            one.step()
            one.zero_grad(set_to_none=True)
        self.step += 1
        self.tokens += rows.numel()
        self._fold()
        self.seconds += min(time.monotonic() - started, MAX_STEP_SECONDS)
        return value.detach()

    def _fold(self) -> None:
        """Fold the current weights into their moving average, faster while the run is young."""
        decay = min(self.rates.average, (1 + self.step) / (10 + self.step))
        parameters = dict(self.network.named_parameters())
        current = [parameters[name].detach() for name in self.average]
        torch._foreach_lerp_(list(self.average.values()), current, 1 - decay)

    def averaged(self) -> nn.Module:
        """A network of the moving average's weights, in evaluation mode."""
        network = model.build(self.config).to(self.device)
        network.load_state_dict(self.average, strict=False)
        return network.eval()


@torch.no_grad()
def validation_bound(
    network: nn.Module, config: dict, windows: Tensor, batches: int, *, bfloat16: bool = False, seed: int = 0
) -> tuple[float, float]:
    """Mean and standard error of the bound over batches of random windows, nats per token."""
    generator = torch.Generator().manual_seed(seed)
    device = next(network.parameters()).device
    values = []
    for _ in range(batches):
        rows = windows[torch.randperm(len(windows), generator=generator)[:32]].to(device)
        times = loss.stratified_times(len(rows), generator)
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            values.append(loss.of_network(network, config, rows, times.to(device), generator).mean())
    found = torch.stack(values)
    return found.mean().item(), (found.std() / len(values) ** 0.5).item()
