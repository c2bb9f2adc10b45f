"""Modules all of whose children the kernels know, as a list of steps: what follows a product becomes its epilogue.

`torch.fx` runs such a module's `forward` on symbols: what comes back is all that it does, whatever class it is of
(BertIntermediate, BertOutput, GPT2MLP, ViTMLP, the Mlp of a DiT, …). Of these steps

    Linear, then an activation         one kernel, activation on the hot tile
    Linear, then + another tensor      one kernel, which adds it as a residual
    activation(Linear) * Linear        one kernel for both products (SwiGLU, GeGLU), also of the halves of one Linear
    Dropout, Identity                  nothing, in eval mode

A module that does anything else, or decides by what it sees, is left as it is; its children are swapped all the same.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from fastsedd_kernels.torch import tensors
from fastsedd_kernels.torch.modules import (
    ActivationForward,
    Family,
    Forward,
    GluForward,
    LayerNormForward,
    LinearForward,
    activation_of,
    is_linear,
)
from fastsedd_kernels.torch.rms_norms import RmsNormForward
from fastsedd_kernels.torch.weights import Packs

_NOTHING = (nn.Dropout, nn.Identity)
_ADDITIONS = (operator.add, torch.add, operator.iadd)
_PRODUCTS = (operator.mul, torch.mul)


class _Symbol(fx.Proxy):
    """A symbol that may be changed in place only where it is a product's result, which nobody else sees.

    torch.fx takes x += y for x + y. What the module was given would be changed by the one and not by the other.
    """

    def _in_place(self, operation: Callable[[Any, Any], Any], other: Any) -> Any:
        node = self.node
        if node.op != "call_module" or not is_linear(self.tracer.root.get_submodule(str(node.target))):
            raise fx.proxy.TraceError(f"{node} is changed in place")
        return operation(self, other)

    def __iadd__(self, other: Any) -> Any:
        return self._in_place(operator.add, other)

    def __imul__(self, other: Any) -> Any:
        return self._in_place(operator.mul, other)


class _Tracer(fx.Tracer):
    """Traces one module and takes its children as they are."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Symbol(node, self)


@dataclass
class _Step:
    """values[target] = compute(values[source]), and for a product activation and residual."""

    forward: LinearForward | LayerNormForward | RmsNormForward | ActivationForward
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

    def pack(self) -> None:
        """Pack the weights of its products, where that is yet to be done."""
        for step in self.steps:
            if isinstance(step.forward, LinearForward):
                step.forward.packed.current()


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


def plan(module: nn.Module, forwards: dict[nn.Module, Forward], packs: Packs) -> Plan | None:
    """The plan to compute the module by its children's forwards; None if that fuses nothing, or is unknown.

    packs : takes the pairs of weights of which a product is made
    """
    children = list(module.children())
    known = [child in forwards or isinstance(child, _NOTHING) for child in children]
    if not known or not all(known) or not any(isinstance(forwards.get(child), LinearForward) for child in children):
        return None
    try:
        graph = _Tracer().trace(module)
    except Exception:  # whatever a forward may do with a symbol that is no tensor
        return None
    made = _Planner(module, forwards, packs).plan(graph)
    return made if made is not None and made.fused else None


class _Planner:
    def __init__(self, module: nn.Module, forwards: dict[nn.Module, Forward], packs: Packs) -> None:
        self._module, self._forwards, self._packs = module, forwards, packs
        self._plan = Plan([])
        self._halves: dict[fx.Node, tuple[fx.Node, int]] = {}  # of a product's outputs: which product, and which half
        self._names: dict[fx.Node, str] = {}  # of each node's value; a node that does nothing has its source's
        self._activated: dict[fx.Node, str] = {}  # halves, by the activation
        self._products: dict[fx.Node, _Step] = {}  # that what follows may still become part of

    def plan(self, graph: fx.Graph) -> Plan | None:
        try:
            return self._planned(graph)
        except KeyError:  # half of a product, which only a gated one may use
            return None

    def _planned(self, graph: fx.Graph) -> Plan | None:
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
        if node.op == "get_attr":
            return not node.users  # looked at while tracing, as T5 does
        if node.op == "call_function" and node.target in _ADDITIONS:
            return not node.kwargs and self._add(node)
        if node.op == "call_function" and node.target in _PRODUCTS:
            return not node.kwargs and self._multiply(node)
        if _halves(node) or node.target is operator.getitem:
            return self._split(node)
        if node.op != "call_module" or node.kwargs or len(node.args) != 1 or not isinstance(node.args[0], fx.Node):
            return False
        return self._call(node, node.args[0], self._module.get_submodule(str(node.target)))

    def _call(self, node: fx.Node, source: fx.Node, child: nn.Module) -> bool:
        if isinstance(child, _NOTHING):
            self._become(node, source)
            return True
        forward = self._forwards.get(child)
        activation = activation_of(child)
        if activation is not None and source in self._halves and len(source.users) == 1:
            self._halves[node], self._activated[node] = self._halves[source], activation
            return True
        product = self._products.get(source)
        if activation is not None and product is not None and self._is_bare(product, source):
            product.activation = activation
            self._plan.fused.append(f"{_name(product.forward)} + {type(child).__name__}")
            self._become(node, source)
            return True
        if not isinstance(forward, (LinearForward, LayerNormForward, RmsNormForward, ActivationForward)):
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

    def _split(self, node: fx.Node) -> bool:
        """The halves of a product's outputs, which only a gated product may use."""
        source = node.args[0]
        if not isinstance(source, fx.Node):
            return False
        if node.target is not operator.getitem:
            product = self._products.get(source)
            return product is not None and self._is_bare(product, source)
        if not _halves(source) or node.args[1] not in (0, 1):
            return False
        product, half = source.args[0], node.args[1]
        if not isinstance(product, fx.Node) or not isinstance(half, int):
            return False
        self._halves[node] = product, half
        return True

    def _multiply(self, node: fx.Node) -> bool:
        """activation(x @ gate.T) * (x @ up.T) as one step in the place of the product's, or of both."""
        for gate, up in (node.args, node.args[::-1]):
            if not isinstance(gate, fx.Node) or not isinstance(up, fx.Node) or gate is up:
                return False
            steps = self._gated(gate, up)
            if steps is None:
                continue
            activation = self._activated.get(gate) or steps[0].activation
            modules = tuple(each.forward.module for each in steps)
            made = _Step(GluForward(modules, self._packs), steps[0].source, node.name, activation)
            self._plan.steps = [each for each in self._plan.steps if each not in steps] + [made]
            if len(steps) == 1:
                self._plan.fused.append(f"{_name(steps[0].forward)} of gate and up, {activation}")
            else:
                self._plan.fused[-1] = f"({self._plan.fused[-1]}) * {_name(steps[1].forward)}"
            self._names[node] = node.name
            return True
        return False

    def _gated(self, gate: fx.Node, up: fx.Node) -> list[_Step] | None:
        """The products of a gate that is activated and of what it gates, which nobody else uses."""
        if len(gate.users) != 1 or len(up.users) != 1:
            return None
        if gate in self._halves and up in self._halves:
            (source, first), (other, second) = self._halves[gate], self._halves[up]
            if source is not other or (first, second) != (0, 1) or gate not in self._activated or up in self._activated:
                return None
            return [self._products[source]]
        a, b = self._products.get(gate), self._products.get(up)
        if a is None or b is None or a is b or a.source != b.source or a.activation is None:
            return None
        same = a.forward.packed.shape == b.forward.packed.shape
        bare = a.residual is None and b.residual is None and b.activation is None
        return [a, b] if same and bare else None

    def _is_bare(self, product: _Step, source: fx.Node) -> bool:
        return product.activation is None and product.residual is None and len(source.users) == 1

    def _become(self, node: fx.Node, source: fx.Node) -> None:
        """The node's value is its source's, of which nobody else may see what it was."""
        self._names[node] = self._names[source]
        if source in self._products and len(source.users) == 1:
            self._products[node] = self._products[source]


def _halves(node: fx.Node) -> bool:
    """True if the node cuts a tensor in two along its last dimension."""
    if (node.op, node.target) not in (("call_method", "chunk"), ("call_function", torch.chunk)):
        return False
    given = dict(zip(("chunks", "dim"), node.args[1:], strict=False)) | node.kwargs
    return bool(given == {"chunks": 2, "dim": -1})


def _name(forward: Forward) -> str:
    return type(forward.module).__name__
