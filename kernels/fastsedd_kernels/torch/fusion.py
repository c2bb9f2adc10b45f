"""Modules all of whose children the kernels know, as a list of steps: what follows a product becomes its epilogue.

`torch.fx` runs such a module's `forward` on symbols: what comes back is all that it does, whatever class it is of
(BertIntermediate, BertOutput, GPT2MLP, ViTMLP, the Mlp of a DiT, …). Of these steps

    Linear, then an activation         one kernel, activation on the hot tile
    Linear, then + another tensor      one kernel, which adds it as a residual
    Dropout, Identity                  nothing, in eval mode

A module that does anything else, or decides by what it sees, is left as it is; its children are swapped all the same.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from fastsedd_kernels.torch import tensors
from fastsedd_kernels.torch.modules import (
    ActivationForward,
    Family,
    Forward,
    LayerNormForward,
    LinearForward,
    activation_of,
)

_NOTHING = (nn.Dropout, nn.Identity)
_ADDITIONS = (operator.add, torch.add, operator.iadd)


class _Tracer(fx.Tracer):
    """Traces one module and takes its children as they are."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


@dataclass
class _Step:
    """values[target] = compute(values[source]), and for a product activation and residual."""

    forward: LinearForward | LayerNormForward | ActivationForward
    source: str
    target: str
    activation: str | None = None
    residual: str | None = None

    def run(self, values: dict[str, torch.Tensor]) -> torch.Tensor:
        x = values[self.source]
        if not isinstance(self.forward, LinearForward):
            return self.forward.compute(x) if self.forward.takes(x) else self.forward.original(x)
        residual = None if self.residual is None else values[self.residual]
        if self.forward.takes(x) and self._fits(x, residual):
            return self.forward.compute(x, self.activation, residual)
        raise _Unfit

    def _fits(self, x: torch.Tensor, residual: torch.Tensor | None) -> bool:
        """True if the residual is one: a sum of other tensors broadcasts, or has another dtype."""
        if residual is None:
            return True
        shape = (*x.shape[:-1], self.forward.packed.shape[0])
        return residual.shape == shape and residual.dtype == x.dtype and tensors.usable(residual)


class _Unfit(Exception):
    """A value is not what the steps were made for."""


@dataclass
class Plan:
    """The steps of a module's forward, with the names of its inputs and of its result.

    fused : in words, what became part of a product
    """

    inputs: list[str]
    steps: list[_Step] = field(default_factory=list)
    result: str = ""
    fused: list[str] = field(default_factory=list)


class FusedForward(Forward):
    """A module's forward as the steps of its plan."""

    def __init__(self, module: nn.Module, plan: Plan) -> None:
        super().__init__(module)
        self.plan = plan
        self.family = Family(module)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        values = dict(zip(self.plan.inputs, arguments, strict=False)) | keywords
        fits = len(values) == len(arguments) + len(keywords) and values.keys() == set(self.plan.inputs)
        if not fits or not all(isinstance(each, torch.Tensor) for each in values.values()):
            return self.original(*arguments, **keywords)
        if not self.family.is_undisturbed():
            return self.original(*arguments, **keywords)
        try:
            for step in self.plan.steps:
                values[step.target] = step.run(values)
        except _Unfit:
            return self.original(*arguments, **keywords)
        return values[self.plan.result]


def plan(module: nn.Module, forwards: dict[nn.Module, Forward]) -> Plan | None:
    """The plan to compute the module by its children's forwards; None if that fuses nothing, or is unknown."""
    children = list(module.children())
    known = [child in forwards or isinstance(child, _NOTHING) for child in children]
    if not known or not all(known) or not any(isinstance(forwards.get(child), LinearForward) for child in children):
        return None
    try:
        graph = _Tracer().trace(module)
    except Exception:  # whatever a forward may do with a symbol that is no tensor
        return None
    made = _Planner(module, forwards).plan(graph)
    return made if made is not None and made.fused else None


class _Planner:
    def __init__(self, module: nn.Module, forwards: dict[nn.Module, Forward]) -> None:
        self._module, self._forwards = module, forwards
        self._plan = Plan([])
        self._names: dict[fx.Node, str] = {}  # of each node's value; a node that does nothing has its source's
        self._products: dict[fx.Node, _Step] = {}  # that what follows may still become part of

    def plan(self, graph: fx.Graph) -> Plan | None:
        for node in graph.nodes:
            if node.op == "output":
                (value,) = node.args
                if not isinstance(value, fx.Node):
                    return None
                self._plan.result = self._names[value]
                return self._plan
            if not self._take(node):
                return None
        return None

    def _take(self, node: fx.Node) -> bool:
        """Plan for the node; False if it does what no step can."""
        if node.op == "placeholder":
            self._names[node] = node.name
            self._plan.inputs.append(node.name)
            return not node.args and not str(node.target).startswith("*")
        if node.op == "call_function" and node.target in _ADDITIONS:
            return not node.kwargs and self._add(node)
        if node.op != "call_module" or node.kwargs or len(node.args) != 1 or not isinstance(node.args[0], fx.Node):
            return False
        return self._call(node, node.args[0], self._module.get_submodule(str(node.target)))

    def _call(self, node: fx.Node, source: fx.Node, child: nn.Module) -> bool:
        if isinstance(child, _NOTHING):
            self._become(node, source)
            return True
        forward = self._forwards.get(child)
        activation = activation_of(child)
        product = self._products.get(source)
        if activation is not None and product is not None and self._is_bare(product, source):
            product.activation = activation
            self._plan.fused.append(f"{_name(product.forward)} + {type(child).__name__}")
            self._become(node, source)
            return True
        if not isinstance(forward, (LinearForward, LayerNormForward, ActivationForward)):
            return False
        step = _Step(forward, self._names[source], node.name)
        self._plan.steps.append(step)
        self._names[node] = node.name
        if isinstance(forward, LinearForward):
            self._products[node] = step
        return True

    def _add(self, node: fx.Node) -> bool:
        """x + y, one of them a product that is the last thing computed, the other there before it."""
        for value, other in (node.args, node.args[::-1]):
            if not isinstance(value, fx.Node) or not isinstance(other, fx.Node):
                return False
            product = self._products.get(value)
            last = bool(self._plan.steps) and self._plan.steps[-1] is product
            if product is None or not last or product.residual is not None or len(value.users) > 1:
                continue
            if self._names[other] == product.target:
                return False
            product.residual = self._names[other]
            self._plan.fused.append(f"{_name(product.forward)} + residual")
            self._become(node, value)
            return True
        return False

    def _is_bare(self, product: _Step, source: fx.Node) -> bool:
        return product.activation is None and product.residual is None and len(source.users) == 1

    def _become(self, node: fx.Node, source: fx.Node) -> None:
        """The node's value is its source's, of which nobody else may see what it was."""
        self._names[node] = self._names[source]
        if source in self._products and len(source.users) == 1:
            self._products[node] = self._products[source]


def _name(forward: Forward) -> str:
    return type(forward.module).__name__
