"""Weights of linear layers, packed once and packed again when they change; and how a change is noticed.

A tensor's version counts the operations that autograd sees. Others leave no trace in it: `weight.data.mul_()`, fused
optimizers, writes through `.numpy()`. So some elements, spread over the tensor, are compared as well: whatever changes
a whole tensor is noticed at the next call, while a write to single elements that bypasses autograd needs `refresh`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import fastsedd_kernels as fk
from fastsedd_kernels.torch import tensors

_ROWS, _COLUMNS = 8, 4  # of a tensor, that are looked at

Trace = tuple[int, int, bytes]


def is_conv1d(module: nn.Module) -> bool:
    """True if it is transformers' Conv1D, a linear layer whose weight is [inputs, outputs]."""
    return type(module).__name__ == "Conv1D" and type(module).__module__ == "transformers.pytorch_utils"


def has_parameters(module: nn.Module) -> bool:
    """True if weight and bias are parameters, or None: pruning and parametrisation compute them at each use instead."""
    return bool({"weight", "bias"} <= module.__dict__["_parameters"].keys())


def parameter(module: nn.Module, name: str) -> Any:
    """The module's parameter of that name, past the slow way in which nn.Module looks for it."""
    return module.__dict__["_parameters"][name]


class Watch:
    """Notices changes of tensors between two calls of `traces`. A copy starts anew."""

    def __init__(self) -> None:
        self._samples: dict[int, tuple[int, NDArray[Any]]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()

    def traces(self, parameters: Sequence[torch.Tensor | None]) -> tuple[Trace, ...]:
        """Address, version and sampled elements of each: equal as long as no change is seen."""
        found = []
        for i, each in enumerate(parameters):
            if each is None:
                continue
            address = each.data_ptr()
            known = self._samples.get(i)
            if known is None or known[0] != address or known[1].itemsize != each.element_size():
                known = self._samples[i] = address, _sample(each)
            version = 0 if each.is_inference() else each._version
            found.append((address, version, known[1].tobytes()))
        return tuple(found)


def _sample(tensor: torch.Tensor) -> NDArray[Any]:
    """A view of some elements, spread over the tensor."""
    bits: NDArray[Any] = tensor.detach().view({2: torch.int16, 4: torch.int32}[tensor.element_size()]).numpy()
    if bits.ndim != 2:
        return bits[:: max(1, bits.size // (_ROWS * _COLUMNS))] if bits.ndim == 1 else bits.reshape(-1)[:1]
    rows, columns = bits.shape
    return bits[:: max(1, rows // _ROWS), :: max(1, columns // _COLUMNS)]


class Packed:
    """The weights of linear layers with the same input, side by side in panels; packed again when one has changed.

    shape : (outputs, inputs) of the whole
    paired : the first half of the outputs, activated, is multiplied by the second: outputs are half as many
    """

    def __init__(self, modules: Sequence[nn.Module], dtype: str, *, paired: bool = False) -> None:
        self._modules, self._dtype, self._paired = list(modules), dtype, paired
        self._watch = Watch()
        self._packings = 0  # so far, and refreshes
        self._state: tuple[Any, ...] = ()
        self._kept: tuple[fk.PackedWeight, NDArray[np.float32] | None] | None = None
        shapes = [weight.shape if is_conv1d(module) else weight.shape[::-1] for module, weight in self._weights()]
        outputs = sum(int(outputs) for _, outputs in shapes)
        self.shape = outputs // 2 if paired else outputs, int(shapes[0][0])

    @property
    def parameters(self) -> list[torch.Tensor]:
        """All weights and biases."""
        biases = [parameter(module, "bias") for module in self._modules]
        return [*(weight for _, weight in self._weights()), *(bias for bias in biases if bias is not None)]

    @property
    def nbytes(self) -> int:
        """Bytes of the panels."""
        return 0 if self._kept is None else self._kept[0].nbytes

    def current(self) -> tuple[fk.PackedWeight, NDArray[np.float32] | None]:
        """Panels and biases as they are now."""
        state = self.state()
        if self._kept is None or state != self._state:
            self._kept, self._state = (fk.pack(self._operand(), self._dtype), self._bias()), state
        return self._kept

    def state(self) -> tuple[Any, ...]:
        """Changes when a parameter does, as far as that is noticed."""
        return (self._packings, *self._watch.traces(self.parameters))

    def refresh(self) -> None:
        """Pack anew at the next use."""
        self._packings += 1

    def _weights(self) -> list[tuple[nn.Module, torch.Tensor]]:
        return [(module, parameter(module, "weight")) for module in self._modules]

    def _operand(self) -> NDArray[np.float32] | list[NDArray[np.float32]]:
        """The matrix, or its two halves, as `fk.pack` takes them."""
        matrix = self._matrix()
        return np.split(matrix, 2) if self._paired else matrix

    def _matrix(self) -> NDArray[np.float32]:
        arrays = [(module, tensors.as_array(weight)) for module, weight in self._weights()]
        matrices = [array.T if is_conv1d(module) else array for module, array in arrays]
        return matrices[0] if len(matrices) == 1 else np.concatenate(matrices)

    def _bias(self) -> NDArray[np.float32] | None:
        """All biases side by side, zeros for a layer that has none among some that have."""
        biases: list[Any] = [parameter(module, "bias") for module in self._modules]
        if all(bias is None for bias in biases):
            return None
        outputs = [weight.shape[1 if is_conv1d(module) else 0] for module, weight in self._weights()]
        arrays = [
            np.zeros(count, np.float32) if bias is None else tensors.as_array(bias)
            for bias, count in zip(biases, outputs, strict=True)
        ]
        return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


class Packs:
    """A model's packed weights: one of each layer, or of each group of layers, shared by all that compute with it."""

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype
        self._made: dict[tuple[tuple[nn.Module, ...], bool], Packed] = {}

    def of(self, *modules: nn.Module, paired: bool = False) -> Packed:
        """The packed weights of these modules, side by side; paired: as gate and up, see `Packed`."""
        key = modules, paired
        if key not in self._made:
            self._made[key] = Packed(modules, self.dtype, paired=paired)
        return self._made[key]

    def refresh(self) -> None:
        """Pack all anew at their next use."""
        for packed in self._made.values():
            packed.refresh()

    def clear(self) -> None:
        """Drop all of them."""
        self._made.clear()

    @property
    def nbytes(self) -> int:
        """Bytes of the panels."""
        return sum(packed.nbytes for packed in self._made.values())
