"""RMS norms of whatever class: recognised by what they compute, not by their names.

LlamaRMSNorm has some hundred relatives, among them T5LayerNorm, Gemma's with 1 + weight, and torch.nn.RMSNorm. A module
that looks like one, a vector `weight` and an eps, is tried on random rows with a random weight.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from fastsedd_kernels.torch import tensors
from fastsedd_kernels.torch.modules import UnaryForward

_EPS = ("variance_epsilon", "eps", "epsilon")
_OFFSETS = (0.0, 1.0)
_HEAD = 256  # elements, at most
_AGREEMENT = 1e-5  # relative to the norm of the module's result


class RmsNormForward(UnaryForward):
    """x / sqrt(mean(x^2) + eps) * (offset + weight) over the last dimension."""

    def __init__(self, module: nn.Module, eps: str, offset: float) -> None:
        super().__init__(module)
        self._eps, self.offset = eps, offset

    @property
    def width(self) -> int:
        return int(self.module.weight.shape[0])

    def example(self, tokens: int) -> torch.Tensor:
        """Random rows: of a width that a head may have, as many for each token as there would be heads."""
        heads = 1024 // self.width if self.width <= _HEAD else 1
        return super().example(tokens * heads)

    def takes(self, x: torch.Tensor) -> bool:
        weight = self.module.__dict__["_parameters"].get("weight")
        return weight is not None and tensors.usable(x, weight) and x.shape[-1:] == weight.shape

    def compute(self, x: torch.Tensor) -> torch.Tensor:
        module: Any = self.module
        return tensors.rms_norm(x, module.weight, _number(getattr(module, self._eps)), self.offset)


def rms_norm_forward(module: nn.Module) -> RmsNormForward | None:
    """The forward of a module that computes an RMS norm, else None; call it before anything is swapped."""
    name = _eps_name(module)
    if name is None:
        return None
    try:
        with torch.no_grad():
            return next((RmsNormForward(module, name, each) for each in _OFFSETS if _agrees(module, name, each)), None)
    except Exception:  # whatever another module does with rows of that width
        return None


def _eps_name(module: nn.Module) -> str | None:
    """The attribute that holds eps, of a module that may be an RMS norm."""
    parameters: dict[str, Any] = module._parameters
    if type(module) is nn.LayerNorm or list(module.children()) or list(module.buffers(recurse=False)):
        return None
    weight = parameters.get("weight")
    if set(parameters) != {"weight"} or weight is None or weight.ndim != 1 or weight.dtype not in tensors.DTYPES:
        return None
    return next((name for name in _EPS if hasattr(module, name)), None)


def _agrees(module: nn.Module, eps: str, offset: float) -> bool:
    """True if the class computes the norm of random rows, of which one is as small as eps."""
    plain: Any = copy.copy(module)
    generator = torch.Generator().manual_seed(0)
    width = int(plain.weight.shape[0])
    plain.__dict__["_parameters"] = {"weight": nn.Parameter(torch.randn(width, generator=generator))}
    small = _number(getattr(plain, eps)) ** 0.5 or 1.0
    rows = torch.randn(3, width, generator=generator) * torch.tensor([[1.0], [small], [30.0]])
    expected = type(module).forward(plain, rows)
    found = tensors.rms_norm(rows, plain.weight, _number(getattr(plain, eps)), offset)
    if not isinstance(expected, torch.Tensor) or expected.shape != found.shape:
        return False
    errors = torch.linalg.norm(found - expected, dim=-1) / torch.linalg.norm(expected, dim=-1)
    return bool((errors <= _AGREEMENT).all())


def _number(eps: Any) -> float:
    """Eps as a number: nn.RMSNorm has None for that of float32."""
    return float(torch.finfo(torch.float32).eps if eps is None else eps)
