"""Modules that the kernels know, and the objects that stand in for their `forward`.

A swapped module keeps its class, parameters, hooks and place in the model. Only its instance gets another `forward`,
which falls back to that of its class whenever the kernels may not compute (`tensors.usable`).
"""

from __future__ import annotations

import copy
import inspect
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as every_module

from fastsedd_kernels.torch import tensors
from fastsedd_kernels.torch.weights import Packed, Packs, has_parameters, is_conv1d

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
        return None if module.inplace else "silu"
    return _ACTIVATIONS.get(kind.__name__) if kind.__module__ == "transformers.activations" else None


def is_linear(module: nn.Module) -> bool:
    """x @ weight.T + bias, or transformers' Conv1D, whose weight lies the other way round."""
    return (type(module) is nn.Linear or is_conv1d(module)) and has_parameters(module)


def is_layer_norm(module: nn.Module) -> bool:
    return type(module) is nn.LayerNorm and len(module.normalized_shape) == 1 and has_parameters(module)


def is_softmax(module: nn.Module) -> bool:
    return type(module) is nn.Softmax and module.dim == -1


class Forward:
    """An object that stands in for a module's `forward`."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self._kind, self._function = type(module), type(module).forward

    def original(self, *arguments: Any, **keywords: Any) -> Any:
        """The class's own forward: not bound to the instance, where it would be found replaced after a copy."""
        return type(self.module).forward(self.module, *arguments, **keywords)

    @property
    def is_unchanged(self) -> bool:
        """True if the module is still of the class, and the class has the forward, that this one stands in for."""
        return type(self.module) is self._kind and self._kind.forward is self._function

    @property
    def __signature__(self) -> inspect.Signature:
        """The original's signature: programs look at it to learn what a model takes."""
        signature = inspect.signature(type(self.module).forward)
        return signature.replace(parameters=list(signature.parameters.values())[1:])

    def __getattr__(self, name: str) -> Any:
        """Attributes of functions (`__code__`, `__globals__`, …) are the original's: scripting and export read them."""
        if name.startswith("__") and name in _OF_FUNCTIONS:
            function = type(self.module).forward
            return function if name == "__wrapped__" else getattr(function, name)
        raise AttributeError(name)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self.original(*arguments, **keywords)

    def install(self) -> None:
        """Stand in for the module's forward from now on."""
        module: Any = self.module
        module.forward, module.__prepare_scriptable__ = self, self.prepare_scriptable

    @staticmethod
    def remove(module: nn.Module) -> None:
        """Give a module its own forward back, if it has another one."""
        if isinstance(module.__dict__.get("forward"), Forward):
            del module.__dict__["forward"], module.__dict__["__prepare_scriptable__"]

    def prepare_scriptable(self) -> nn.Module:
        """A shallow copy of the module with its own forward, as `torch.jit.script` asks for it by this protocol."""
        plain = copy.copy(self.module)
        plain.__dict__["_modules"] = dict(self.module._modules)
        self.remove(plain)
        return plain


_OF_FUNCTIONS = {
    "__annotations__", "__closure__", "__code__", "__defaults__", "__globals__", "__kwdefaults__", "__name__",
    "__qualname__", "__wrapped__",
}  # fmt: skip


class UnaryForward(Forward):
    """A forward of one tensor. function : name of the one that computes the same, if it is caught (`functions`)"""

    function = ""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module)
        self._name = next(iter(self.__signature__.parameters))

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        values = (*arguments, *(value for name, value in keywords.items() if name == self._name))
        alone = len(values) == len(arguments) + len(keywords) == 1 and isinstance(values[0], torch.Tensor)
        taken = alone and self.is_unchanged and self.takes(values[0])
        return self.compute(values[0]) if taken else self.original(*arguments, **keywords)

    def takes(self, x: torch.Tensor) -> bool:
        """True if the kernels may compute it."""
        raise NotImplementedError

    def compute(self, x: torch.Tensor) -> torch.Tensor:
        """The result, of a tensor that it takes."""
        raise NotImplementedError

    @property
    def width(self) -> int:
        """Elements in a row of what the module takes, or usually takes."""
        return 1024

    def example(self, tokens: int) -> torch.Tensor:
        """Random rows, to time the module with."""
        dtype = next((each.dtype for each in self.module.parameters()), torch.float32)
        return torch.randn(tokens, self.width, dtype=dtype, generator=torch.Generator().manual_seed(0))

    def reference(self, x: torch.Tensor) -> Any:
        """PyTorch's result for an example."""
        return self.original(x)


class Family:
    """A module and its descendants, for a forward that computes with the parts without calling them."""

    def __init__(self, module: nn.Module) -> None:
        self._members = [(each, list(each._modules.values()), type(each)) for each in module.modules()]
        self._forwards: list[Any] | None = None  # of the members but the first, as they were once all was swapped

    def settle(self) -> None:
        """Note the parts' forwards as they are now: to see later whether somebody has replaced one."""
        self._forwards = [_forward_of(each) for each, _, _ in self._members[1:]]

    def is_undisturbed(self) -> bool:
        """True if the parts are the same, nobody sees what passes between them, and dropout is off."""
        if every_module._global_forward_hooks or every_module._global_forward_pre_hooks:
            return False
        for each, parts, kind in self._members:
            if type(each) is not kind or list(each._modules.values()) != parts:
                return False
        for each, _, _ in self._members[1:]:
            if each.training or each._forward_hooks or each._forward_pre_hooks:
                return False
        if self._forwards is None:
            return True
        now = [_forward_of(each) for each, _, _ in self._members[1:]]
        return all(own is a and of_class is b for (own, of_class), (a, b) in zip(now, self._forwards, strict=True))


def _forward_of(module: nn.Module) -> tuple[Any, Any]:
    """The instance's own forward, if it has one, and its class's."""
    return module.__dict__.get("forward"), type(module).forward


class LinearForward(UnaryForward):
    """activation(x @ weight.T + bias) + residual"""

    def __init__(self, module: nn.Module, packed: Packed) -> None:
        super().__init__(module)
        self.packed = packed

    @property
    def width(self) -> int:
        return self.packed.shape[1]

    def takes(self, x: torch.Tensor) -> bool:
        return (
            has_parameters(self.module)
            and tensors.usable(x, *self.packed.parameters)
            and x.shape[-1:] == self.packed.shape[1:]
        )

    def compute(
        self, x: torch.Tensor, activation: str | None = None, residual: torch.Tensor | None = None
    ) -> torch.Tensor:
        with tensors.plainly():
            weight, bias = self.packed.current()
        return tensors.linear(x, weight, bias, activation, residual)


class GluForward(LinearForward):
    """activation(x @ gate.T + bias) * (x @ up.T + bias), of two layers or of one that holds both: SwiGLU, GeGLU."""

    def __init__(self, modules: tuple[nn.Module, ...], packs: Packs) -> None:
        super().__init__(modules[0], packs.of(*modules, paired=True))
        self._modules = modules

    def takes(self, x: torch.Tensor) -> bool:
        return all(map(has_parameters, self._modules)) and super().takes(x)


class LayerNormForward(UnaryForward):
    """Layer norm over the last dimension."""

    function = "layer_norm"

    @property
    def width(self) -> int:
        return int(self.module.normalized_shape[0])

    def takes(self, x: torch.Tensor) -> bool:
        if not has_parameters(self.module):
            return False
        parts: Any = (x, self.module.weight, self.module.bias)
        return tensors.usable(*(part for part in parts if part is not None)) and x.shape[-1:] == torch.Size(
            self.module.normalized_shape
        )

    def compute(self, x: torch.Tensor) -> torch.Tensor:
        module: Any = self.module
        return tensors.layer_norm(x, module.weight, module.bias, module.eps)


class ActivationForward(UnaryForward):
    """GELU or SiLU; a tensor that is not contiguous is left to PyTorch, whose result has its strides."""

    def __init__(self, module: nn.Module, activation: str) -> None:
        super().__init__(module)
        self.activation = activation
        self.function = "silu" if activation == "silu" else "gelu"

    def takes(self, x: torch.Tensor) -> bool:
        return tensors.usable(x) and x.is_contiguous()

    def compute(self, x: torch.Tensor) -> torch.Tensor:
        return tensors.activate(x, self.activation)


class SoftmaxForward(UnaryForward):
    """Softmax over the last dimension."""

    function = "softmax"

    def takes(self, x: torch.Tensor) -> bool:
        return tensors.usable(x) and x.ndim > 0

    def compute(self, x: torch.Tensor) -> torch.Tensor:
        return tensors.softmax(x)


def forward_for(module: nn.Module, packs: Packs) -> UnaryForward | None:
    """The forward that replaces the module's, None if the kernels have nothing for it."""
    if is_linear(module):
        return LinearForward(module, packs.of(module))
    if is_layer_norm(module):
        return LayerNormForward(module)
    if is_softmax(module):
        return SoftmaxForward(module)
    activation = activation_of(module)
    return None if activation is None else ActivationForward(module, activation)
