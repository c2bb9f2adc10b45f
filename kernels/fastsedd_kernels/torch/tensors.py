"""The kernels on tensors: which they may take, and the calls, without a copy of what is float32 already."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

import fastsedd_kernels as fk

# Of subclasses nobody knows what an operation means.
_PLAIN = (torch.Tensor, torch.nn.Parameter)
DTYPES = (torch.float32, torch.bfloat16)

# Every look at a tensor is a call of the active function mode (`functions`), which costs a microsecond: not in here.
plainly = torch._C.DisableTorchFunction


def usable(*tensors: torch.Tensor) -> bool:
    """Whether the kernels may compute with these: CPU tensors of one short float dtype whose gradient nobody wants.

    Not while PyTorch traces or compiles, nor under autocast, which is PyTorch's own choice of dtypes.
    """
    with plainly():
        if torch.is_autocast_enabled("cpu") or torch.jit.is_tracing() or torch.compiler.is_compiling():
            return False
        dtype, graded = tensors[0].dtype, torch.is_grad_enabled()
        return dtype in DTYPES and all(
            type(each) in _PLAIN
            and each.dtype is dtype
            and each.is_cpu
            and each.layout is torch.strided
            and not (graded and each.requires_grad)
            and each.numel() > 0
            for each in tensors
        )


def as_array(tensor: torch.Tensor) -> NDArray[np.float32]:
    """The tensor's own memory, or float32 of a bfloat16 tensor."""
    array: NDArray[np.float32] = tensor.detach().float().numpy()
    return array


def linear(
    x: torch.Tensor,
    weight: fk.PackedWeight,
    bias: NDArray[np.float32] | None,
    activation: str | None = None,
    residual: torch.Tensor | None = None,
) -> torch.Tensor:
    """`fk.linear`. The residual must have the result's shape and x's dtype."""
    with plainly():
        added = None if residual is None else as_array(residual)
        out = torch.empty((*x.shape[:-1], weight.shape[0]))
        fk.linear(as_array(x), weight, bias, activation, residual=added, out=out.numpy())
        return out.to(x.dtype)


def layer_norm(
    x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, eps: float
) -> torch.Tensor:  # fmt: skip
    """`fk.layer_norm` over the last dimension."""
    with plainly():
        scale, shift = (None if part is None else as_array(part) for part in (weight, bias))
        out = torch.empty(x.shape)
        fk.layer_norm(as_array(x), scale, shift, eps=eps, out=out.numpy())
        return out.to(x.dtype)


def activate(x: torch.Tensor, activation: str) -> torch.Tensor:
    """`fk.gelu` or `fk.silu`; activation : as `fk.linear` names it."""
    with plainly():
        out = torch.empty(x.shape)
        if activation == "silu":
            fk.silu(as_array(x), out=out.numpy())
        else:
            fk.gelu(as_array(x), "tanh" if activation == "gelu_tanh" else "none", out=out.numpy())
        return out.to(x.dtype)


def softmax(x: torch.Tensor) -> torch.Tensor:
    """`fk.softmax`, over the last dimension."""
    with plainly():
        out = torch.empty(x.shape)
        fk.softmax(as_array(x), out=out.numpy())
        return out.to(x.dtype)


def attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None, causal: bool, dtype: str
) -> torch.Tensor:
    """`fk.attention` of [B, H, L, D], any strides; the result lies in memory as [B, L, H, D], as its user wants it."""
    with plainly():
        batch, heads, length, dim = query.shape
        out = torch.empty((batch, length, heads, dim)).transpose(1, 2)
        q, k, v = (as_array(each) for each in (query, key, value))
        fk.attention(q, k, v, scale, causal, out.numpy(), dtype)
        return out.to(query.dtype)
