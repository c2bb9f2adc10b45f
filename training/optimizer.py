"""Two optimizers for two kinds of parameter.

Hidden matrices follow Muon (Jordan et al. 2024): momentum, orthogonalised by a Newton-Schulz iteration, so that every
direction of a matrix learns at one rate. On this corpus it reaches a given bound in about half of AdamW's tokens.
Embeddings, the head, norms, biases and adaLN follow AdamW. `torch.optim.Muon` iterates in bfloat16, which a CPU
without bfloat16 arithmetic emulates; this one iterates in the type that it is told to.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrix: Tensor, iterations: int = 5, dtype: torch.dtype = torch.float32) -> Tensor:
    """The nearest semi-orthogonal matrix, roughly: singular values all moved into about [0.7, 1.2]."""
    a, b, c = NEWTON_SCHULZ
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = (wide / (wide.norm() + 1e-7)).to(dtype)
    for _ in range(iterations):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if matrix.shape[0] <= matrix.shape[1] else x.T


class Muon(torch.optim.Optimizer):
    """Muon with decoupled weight decay. dtype : what the iteration computes in."""

    def __init__(
        self,
        parameters: list[nn.Parameter],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self._dtype = dtype

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                velocity = self.state[parameter].setdefault("velocity", torch.zeros_like(parameter))
                velocity.lerp_(parameter.grad, 1 - group["momentum"])
                direction = parameter.grad.lerp(velocity, group["momentum"])
                rows, columns = parameter.shape
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                update = orthogonalise(direction, dtype=self._dtype)
                parameter.add_(update, alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)


def build(
    network: nn.Module, muon_lr: float, adam_lr: float, weight_decay: float = 0.0, dtype: torch.dtype = torch.float32
) -> list[torch.optim.Optimizer]:
    """The optimizers of a network, Muon first; each group remembers its peak learning rate as `peak_lr`.

    weight_decay : of the hidden matrices; dtype : of Muon's iteration
    """
    hidden, other = [], []
    for name, parameter in network.named_parameters():
        in_block = name.startswith(("blocks.", "transformer.h.")) and "adaLN" not in name
        (hidden if in_block and parameter.ndim == 2 else other).append(parameter)
    optimizers = [
        Muon(hidden, lr=muon_lr, weight_decay=weight_decay, dtype=dtype),
        torch.optim.AdamW(other, lr=adam_lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers
