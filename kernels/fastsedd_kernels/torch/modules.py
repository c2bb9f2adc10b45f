"""Modules that the kernels know, and what is called instead of their `forward`.

A swapped module stays what it is: its class, parameters, hooks and place in the model. Only its instance gets another
`forward`, which falls back to that of its class whenever the kernels may not compute (`tensors.usable`).
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.modules import module as every_module

import fastsedd_kernels as fk
from fastsedd_kernels.torch import tensors

# Of `transformers.activations`, by name: that library need not be here.
_ACTIVATIONS = {
    "GELUActivation": "gelu",
    "NewGELUActivation": "gelu_tanh",
    "FastGELUActivation": "gelu_tanh",
    "GELUTanh": "gelu_tanh",
    "PytorchGELUTanh": "gelu_tanh",
    "SiLUActivation": "silu",
}


def activation_of(module: nn.Module) -> str | None:
    """The activation that the module is, as `fk.linear` names it."""
    kind = type(module)
    if kind is nn.GELU:
        return {"none": "gelu", "tanh": "gelu_tanh"}[str(module.approximate)]
    if kind is nn.SiLU:
        return "silu"
    return _ACTIVATIONS.get(kind.__name__) if kind.__module__ == "transformers.activations" else None


def is_linear(module: nn.Module) -> bool:
    """x @ weight.T + bias, or transformers' Conv1D, whose weight lies the other way round."""
    return type(module) is nn.Linear or _is_conv1d(module)


def _is_conv1d(module: nn.Module) -> bool:
    return type(module).__name__ == "Conv1D" and type(module).__module__ == "transformers.pytorch_utils"


def is_layer_norm(module: nn.Module) -> bool:
    return type(module) is nn.LayerNorm and len(module.normalized_shape) == 1


def is_softmax(module: nn.Module) -> bool:
    return type(module) is nn.Softmax and module.dim == -1


class Forward:
    """What stands in for a module's `forward`."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def original(self, *arguments: Any, **keywords: Any) -> Any:
        """The class's own forward: not bound to the instance, where it would be found replaced after a copy."""
        return type(self.module).forward(self.module, *arguments, **keywords)

    @property
    def __signature__(self) -> inspect.Signature:
        """That of the original: programs look at it to learn what a model takes."""
        signature = inspect.signature(type(self.module).forward)
        return signature.replace(parameters=list(signature.parameters.values())[1:])

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self.original(*arguments, **keywords)


class Family:
    """A module and what is in it, for who computes with the parts without calling them."""

    def __init__(self, module: nn.Module) -> None:
        self._members = [(each, list(each._modules.values())) for each in module.modules()]

    def is_undisturbed(self) -> bool:
        """Whether the parts are those they were, dropout is off, and nobody wants to see what passes between them."""
        if every_module._global_forward_hooks or every_module._global_forward_pre_hooks:
            return False
        if any(list(each._modules.values()) != parts for each, parts in self._members):
            return False
        return not any(each.training or each._forward_hooks or each._forward_pre_hooks for each, _ in self._members[1:])


def parameter(module: nn.Module, name: str) -> Any:
    """The module's attribute of that name, past the slow way in which nn.Module looks for it."""
    own = module.__dict__["_parameters"]
    return own[name] if name in own else getattr(module, name)


def states(*parameters: torch.Tensor | None) -> tuple[tuple[int, int], ...]:
    """Where each parameter lies, and how often it was changed."""
    return tuple((each.data_ptr(), each._version) for each in parameters if each is not None)


class Packed:
    """The weights of linear layers with the same input, side by side in panels; packed again when one has changed.

    parameters : all weights and biases
    shape : (outputs, inputs) of the whole
    """

    def __init__(self, modules: Sequence[nn.Module], dtype: str) -> None:
        self._modules, self._dtype = list(modules), dtype
        self._state: tuple[tuple[int, int], ...] = ()
        self._kept: tuple[fk.PackedWeight, NDArray[np.float32] | None] | None = None
        shapes = [weight.shape if _is_conv1d(module) else weight.shape[::-1] for module, weight in self._weights()]
        self.shape = sum(int(outputs) for _, outputs in shapes), int(shapes[0][0])

    @property
    def parameters(self) -> list[torch.Tensor]:
        biases = [parameter(module, "bias") for module in self._modules]
        return [*(weight for _, weight in self._weights()), *(bias for bias in biases if bias is not None)]

    @property
    def nbytes(self) -> int:
        """Of what is packed now."""
        return 0 if self._kept is None else self._kept[0].nbytes

    def current(self) -> tuple[fk.PackedWeight, NDArray[np.float32] | None]:
        """Panels and biases as they are now. (A write through `weight.data` leaves no trace to see.)"""
        state = self.state()
        if self._kept is None or state != self._state:
            self._kept, self._state = (fk.pack(self._matrix(), self._dtype), self._bias()), state
        return self._kept

    def state(self) -> tuple[tuple[int, int], ...]:
        """Changes when a parameter does."""
        return states(*self.parameters)

    def _weights(self) -> list[tuple[nn.Module, torch.Tensor]]:
        return [(module, parameter(module, "weight")) for module in self._modules]

    def _matrix(self) -> NDArray[np.float32]:
        arrays = [(module, tensors.as_array(weight)) for module, weight in self._weights()]
        matrices = [array.T if _is_conv1d(module) else array for module, array in arrays]
        return matrices[0] if len(matrices) == 1 else np.concatenate(matrices)

    def _bias(self) -> NDArray[np.float32] | None:
        """All biases, zeros for a layer that has none among some that have."""
        biases: list[Any] = [module.bias for module in self._modules]
        if all(bias is None for bias in biases):
            return None
        arrays = [
            np.zeros(len(weight), np.float32) if bias is None else tensors.as_array(bias)
            for bias, (_, weight) in zip(biases, self._weights(), strict=True)
        ]
        return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


class Packs:
    """A model's packed weights: one of each layer, or of each group of layers, whoever computes with it."""

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype
        self._made: dict[tuple[nn.Module, ...], Packed] = {}

    def of(self, *modules: nn.Module) -> Packed:
        if modules not in self._made:
            self._made[modules] = Packed(modules, self.dtype)
        return self._made[modules]

    def clear(self) -> None:
        self._made.clear()

    @property
    def nbytes(self) -> int:
        """Of what is packed now."""
        return sum(packed.nbytes for packed in self._made.values())


class LinearForward(Forward):
    """activation(x @ weight.T + bias) + residual"""

    def __init__(self, module: nn.Module, packed: Packed) -> None:
        super().__init__(module)
        self.packed = packed

    def __call__(self, x: torch.Tensor) -> Any:
        return self.compute(x) if self.takes(x) else self.original(x)

    def takes(self, x: torch.Tensor) -> bool:
        return tensors.usable(x, *self.packed.parameters) and x.shape[-1:] == self.packed.shape[1:]

    def compute(
        self, x: torch.Tensor, activation: str | None = None, residual: torch.Tensor | None = None
    ) -> torch.Tensor:
        with tensors.plainly():
            weight, bias = self.packed.current()
        return tensors.linear(x, weight, bias, activation, residual)


class LayerNormForward(Forward):
    def __call__(self, x: torch.Tensor) -> Any:
        return self.compute(x) if self.takes(x) else self.original(x)

    def takes(self, x: torch.Tensor) -> bool:
        parts: Any = (x, self.module.weight, self.module.bias)
        return tensors.usable(*(part for part in parts if part is not None)) and x.shape[-1:] == torch.Size(
            self.module.normalized_shape
        )

    def compute(self, x: torch.Tensor) -> torch.Tensor:
        module: Any = self.module
        return tensors.layer_norm(x, module.weight, module.bias, module.eps)


class ActivationForward(Forward):
    def __init__(self, module: nn.Module, activation: str) -> None:
        super().__init__(module)
        self.activation = activation

    def __call__(self, x: torch.Tensor) -> Any:
        return self.compute(x) if self.takes(x) else self.original(x)

    def takes(self, x: torch.Tensor) -> bool:
        return tensors.usable(x)

    def compute(self, x: torch.Tensor) -> torch.Tensor:
        return tensors.activate(x, self.activation)


class SoftmaxForward(Forward):
    def __call__(self, x: torch.Tensor) -> Any:
        return tensors.softmax(x) if tensors.usable(x) and x.ndim > 0 else self.original(x)


def forward_for(module: nn.Module, packs: Packs) -> Forward | None:
    """What replaces the module's forward, or None if the kernels have nothing for it."""
    if is_linear(module):
        return LinearForward(module, packs.of(module))
    if is_layer_norm(module):
        return LayerNormForward(module)
    if is_softmax(module):
        return SoftmaxForward(module)
    activation = activation_of(module)
    return None if activation is None else ActivationForward(module, activation)
