"""The kernels on tensors: which tensors they may take, and the calls, without a copy of float32 memory."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.autograd import forward_ad

import fastsedd_kernels as fk

_PLAIN = (torch.Tensor, torch.nn.Parameter)  # a subclass may give any operation another meaning
DTYPES = (torch.float32, torch.bfloat16)

# Within a function mode (`functions`) every attribute of a tensor costs a microsecond: not in here.
plainly = torch._C.DisableTorchFunction


def is_traced() -> bool:
    """True if PyTorch traces, scripts, compiles or exports at this moment."""
    return bool(torch.compiler.is_compiling() or torch.jit.is_tracing() or torch.jit.is_scripting())


def is_plain_inference() -> bool:
    """True if operations mean on this thread what they say, at once, and nothing else.

    Not under autocast, which chooses dtypes of its own; nor within a transform of torch.func (vmap, grad, jvp, …), a
    level of forward-mode differentiation, or a dispatch mode (fake tensors, export, FLOP counters), which compute
    something else beside or instead of the result; nor while a program is traced or compiled.
    """
    return not (
        is_traced()
        or torch.is_autocast_enabled("cpu")
        or forward_ad._current_level >= 0
        or torch._C._functorch.maybe_current_level() is not None
        or torch._C._len_torch_dispatch_stack() > 0
    )


def usable(*tensors: torch.Tensor) -> bool:
    """True if the kernels may compute with these: CPU tensors of one short float dtype that need no gradient."""
    with plainly():
        if not is_plain_inference():
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


def usable_mask(query: torch.Tensor, mask: torch.Tensor) -> bool:
    """True if it is a plain mask for that query: bool, float32 or of its dtype."""
    with plainly():
        return (
            type(mask) in _PLAIN
            and mask.dtype in (torch.bool, torch.float32, query.dtype)
            and mask.is_cpu
            and mask.layout is torch.strided
            and not mask.requires_grad
        )


def broadcasts(mask: torch.Tensor, shape: tuple[int, ...]) -> bool:
    """True if the mask broadcasts to that shape."""
    sizes = zip(reversed(mask.shape), reversed(shape), strict=False)
    return mask.ndim <= len(shape) and all(size in (1, whole) for size, whole in sizes)


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
        out = torch.empty((*x.shape[:-1], weight.shape[0]), dtype=torch.float32)
        fk.linear(as_array(x), weight, bias, activation, residual=added, out=out.numpy())
        return out.to(x.dtype)


def layer_norm(
    x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, eps: float
) -> torch.Tensor:  # fmt: skip
    """`fk.layer_norm` over the last dimension."""
    with plainly():
        scale, shift = (None if part is None else as_array(part) for part in (weight, bias))
        out = torch.empty(x.shape, dtype=torch.float32)
        fk.layer_norm(as_array(x), scale, shift, eps=eps, out=out.numpy())
        return out.to(x.dtype)


def rms_norm(x: torch.Tensor, weight: torch.Tensor | None, eps: float, offset: float) -> torch.Tensor:
    """`fk.rms_norm` over the last dimension, of rows anywhere; the result lies in memory as x does."""
    with plainly():
        out = torch.empty_like(x, dtype=torch.float32)
        if out.stride(-1) != 1:
            out = torch.empty(x.shape, dtype=torch.float32)
        fk.rms_norm(as_array(x), None if weight is None else as_array(weight), eps, out=out.numpy(), offset=offset)
        return out.to(x.dtype)


def activate(x: torch.Tensor, activation: str) -> torch.Tensor:
    """`fk.gelu` or `fk.silu` of a contiguous tensor; activation : as `fk.linear` names it."""
    with plainly():
        out = torch.empty(x.shape, dtype=torch.float32)
        if activation == "silu":
            fk.silu(as_array(x), out=out.numpy())
        else:
            fk.gelu(as_array(x), "tanh" if activation == "gelu_tanh" else "none", out=out.numpy())
        return out.to(x.dtype)


def softmax(x: torch.Tensor) -> torch.Tensor:
    """`fk.softmax`, over the last dimension."""
    with plainly():
        out = torch.empty(x.shape, dtype=torch.float32)
        fk.softmax(as_array(x), out=out.numpy())
        return out.to(x.dtype)


def attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float | None,
    causal: bool,
    dtype: str,
) -> torch.Tensor:
    """`fk.attention` of [B, H, L, D], any strides; the result lies in memory as the queries do, as PyTorch's does."""
    with plainly():
        out = torch.empty_like(query, dtype=torch.float32)
        q, k, v = (as_array(each) for each in (query, key, value))
        shown = None if mask is None else mask.detach().numpy() if mask.dtype == torch.bool else as_array(mask)
        fk.attention(q, k, v, scale, causal, out.numpy(), dtype, mask=shown)
        return out.to(query.dtype)
