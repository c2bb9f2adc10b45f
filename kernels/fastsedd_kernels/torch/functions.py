"""Functions that a model calls by name, caught while it runs by PyTorch's own protocol for that.

Modules are swapped one by one; scaled_dot_product_attention is not a module. A `TorchFunctionMode` sees every call of
PyTorch's interface on its thread, and passes on those that the kernels do not take.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from fastsedd_kernels.torch import tensors
from fastsedd_kernels.torch import trial as trials

# With fewer queries, packing the keys and values takes longer than their products.
_MIN_QUERIES = 8
_TRIED = 1 << 15  # elements of a result, from which on a trial tells of larger ones too


class Functions(TorchFunctionMode):
    """The kernels in place of PyTorch's functions, for as long as it is entered.

    dtype : of attention's products, "float32" or "bfloat16"
    trial : time each function both ways at its first call with more than a few elements
    slower : functions, by name, that PyTorch computes faster here, with that as the reason: they are left to it
    taken, left : how many calls of each function the kernels have computed, and have not, with the reason
    """

    def __init__(self, dtype: str, trial: bool = True) -> None:
        super().__init__()
        self.dtype = dtype
        self.slower: dict[str, str] = {}
        self._tried: set[str] = set() if trial else set(NAMES)
        self.taken: Counter[str] = Counter()
        self.left: Counter[str] = Counter()

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        keywords = keywords or {}
        replacement = _REPLACEMENTS.get(function)
        if replacement is None:
            return function(*arguments, **keywords)
        name, compute = replacement
        result = self.slower.get(name) or compute(self, *arguments, **keywords)
        if isinstance(result, torch.Tensor) and name not in self._tried and result.numel() >= _TRIED:
            self.judge(
                name,
                trials.gain(lambda: compute(self, *arguments, **keywords), lambda: function(*arguments, **keywords)),
            )
            result = self.slower.get(name) or result
        if isinstance(result, str):
            self.left[f"{name}: {result}"] += 1
            return function(*arguments, **keywords)
        self.taken[name] += 1
        return result

    def judge(self, name: str, gain: float) -> None:
        """Leave a function to PyTorch from now on if the kernels gain nothing; it is not tried again."""
        self._tried.add(name)
        if gain < trials.LEAST_GAIN:
            self.slower[name] = trials.in_words(gain)


Result: TypeAlias = "torch.Tensor | str"  # or why the kernels leave it

_STRIDED = "of other strides than contiguous ones"
_UNUSABLE = "not plain float32 or bfloat16 tensors on the CPU without gradient"


def _attention(
    mode: Functions,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Result:
    if attn_mask is not None and (is_causal or not tensors.usable_mask(query, attn_mask)):
        return "with a mask that is not a plain one of bool or floats alone"
    if dropout_p > 0:
        return "with dropout"
    if not tensors.usable(query, key, value):
        return _UNUSABLE
    group = _heads_per_key(query, key, value, enable_gqa)
    if group == 0:
        return "of other shapes than [B, H, L, D] for all three"
    if query.shape[-2] * group < _MIN_QUERIES:
        return f"fewer than {_MIN_QUERIES} queries"
    if query.stride(-1) != 1:
        return _STRIDED
    if scale is not None and scale <= 0:
        return "with a scale that is not above 0"
    if attn_mask is not None and not tensors.broadcasts(attn_mask, (*query.shape[:-1], key.shape[-2])):
        return "with a mask of another shape"  # which PyTorch has its own word for
    return tensors.attention(query, key, value, attn_mask, scale, is_causal, mode.dtype)


def _heads_per_key(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, grouped: bool) -> int:
    """Heads of queries that share one of keys, 0 if the shapes do not fit."""
    if query.ndim != 4 or key.shape != value.shape or key.ndim != 4:
        return 0
    group, rest = divmod(query.shape[1], key.shape[1])
    same = key.shape[0] == query.shape[0] and key.shape[-1] == query.shape[-1]
    return group if same and rest == 0 and (grouped or group == 1) else 0


def _softmax(
    mode: Functions,
    input: torch.Tensor,
    dim: int | None = None,
    _stacklevel: int = 3,
    dtype: torch.dtype | None = None,
) -> Result:
    if not tensors.usable(input) or dtype not in (None, input.dtype):
        return _UNUSABLE
    if input.ndim == 0 or dim not in (-1, input.ndim - 1):
        return "not over the last dimension"
    return tensors.softmax(input)


def _tensor_softmax(
    mode: Functions, input: torch.Tensor, dim: int | None = None, dtype: torch.dtype | None = None
) -> Result:  # fmt: skip
    return _softmax(mode, input, dim, dtype=dtype)


def _gelu(mode: Functions, input: torch.Tensor, approximate: str = "none") -> Result:
    return _activate(input, "gelu_tanh" if approximate == "tanh" else "gelu")


def _silu(mode: Functions, input: torch.Tensor, inplace: bool = False) -> Result:
    return "in place" if inplace else _activate(input, "silu")


def _activate(input: torch.Tensor, activation: str) -> Result:
    if not tensors.usable(input):
        return _UNUSABLE
    return tensors.activate(input, activation) if input.is_contiguous() else _STRIDED


def _layer_norm(
    mode: Functions,
    input: torch.Tensor,
    normalized_shape: Any,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
) -> Result:
    if not tensors.usable(*(part for part in (input, weight, bias) if part is not None)):
        return _UNUSABLE
    if tuple(normalized_shape) != tuple(input.shape[-1:]):
        return "over several dimensions"
    return tensors.layer_norm(input, weight, bias, eps)


_REPLACEMENTS: dict[Any, tuple[str, Callable[..., Result]]] = {
    functional.scaled_dot_product_attention: ("scaled_dot_product_attention", _attention),
    functional.softmax: ("softmax", _softmax),
    torch.softmax: ("softmax", _tensor_softmax),
    torch.Tensor.softmax: ("softmax", _tensor_softmax),
    functional.gelu: ("gelu", _gelu),
    functional.silu: ("silu", _silu),
    functional.layer_norm: ("layer_norm", _layer_norm),
}

NAMES = tuple(dict.fromkeys(name for name, _ in _REPLACEMENTS.values()))
