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


def orthogonalise(matrices: Tensor, iterations: int = 5, dtype: torch.dtype = torch.float32) -> Tensor:
    """The nearest semi-orthogonal matrices, roughly, of [..., m, n]: singular values all move into [0.7, 1.2]."""
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[-2] > matrices.shape[-1]
    wide = matrices.mT if tall else matrices
    x = (wide / (wide.norm(dim=(-2, -1), keepdim=True) + 1e-7)).to(dtype)
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Muon with decoupled weight decay; matrices of one shape are orthogonalised together.

    dtype : what the iteration computes in
    """

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
            for shape, parameters in _by_shape(group["params"]).items():
                gradients = [parameter.grad for parameter in parameters]
                velocities = [
                    self.state[parameter].setdefault("velocity", torch.zeros_like(parameter))
                    for parameter in parameters
                ]
                torch._foreach_lerp_(velocities, gradients, 1 - group["momentum"])
                directions = torch._foreach_lerp(gradients, velocities, group["momentum"])
                updates = orthogonalise(torch.stack(directions), dtype=self._dtype).to(parameters[0].dtype)
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
                step = -group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                torch._foreach_add_(parameters, list(updates.unbind()), alpha=step)


def _by_shape(parameters: list[nn.Parameter]) -> dict[torch.Size, list[nn.Parameter]]:
    grouped: dict[torch.Size, list[nn.Parameter]] = {}
    for parameter in parameters:
        grouped.setdefault(parameter.shape, []).append(parameter)
    return grouped


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
