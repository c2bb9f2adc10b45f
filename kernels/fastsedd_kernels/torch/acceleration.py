"""`accelerate`: what of a model the kernels compute from now on, what they do not, and how to take it back."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from fastsedd_kernels.torch import fusion
from fastsedd_kernels.torch.functions import NAMES, Functions
from fastsedd_kernels.torch.modules import Forward, LinearForward, Packs, forward_for
from fastsedd_kernels.torch.scratch import Scratch
from fastsedd_kernels.torch.tensors import DTYPES
from fastsedd_kernels.torch.transformer_layers import LayerForward, layer_forward

_STORED = ("float32", "bfloat16", "int8")


class _ModelForward(Forward):
    """The whole model, or a module that is swapped itself, with functions caught while it runs."""

    def __init__(self, module: nn.Module, functions: Functions, inner: Forward | None) -> None:
        super().__init__(module)
        self._functions = functions
        self._inner = inner

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        with self._functions:
            return (self._inner or self.original)(*arguments, **keywords)


@dataclass(repr=False)
class Acceleration:
    """What `accelerate` did, module by module under their names in the model; its repr says it in a few lines.

    swapped : name to class, of each module whose forward the kernels compute
    fused : name to what is computed there without its parts, if they need not be seen
    left : name to class, of each module without children that stays PyTorch's
    functions : calls of functions that the kernels took (`taken`) and left to PyTorch (`left`), counted as it runs
    """

    model: nn.Module
    packs: Packs
    functions: Functions
    swapped: dict[str, str] = field(default_factory=dict)
    fused: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)

    @property
    def dtype(self) -> str:
        """In which weights are stored and multiplied."""
        return self.packs.dtype

    @property
    def nbytes(self) -> int:
        """Of packed weights, which are held beside the model's own."""
        return self.packs.nbytes

    def undo(self) -> None:
        """Give every module its own forward back, and drop the packed weights. A second time it does nothing."""
        for module in self.model.modules():
            if isinstance(module.__dict__.get("forward"), Forward):
                del module.forward
        self.packs.clear()

    def __enter__(self) -> Acceleration:
        return self

    def __exit__(self, *_: object) -> None:
        self.undo()

    def __repr__(self) -> str:
        lines = [f"Acceleration of {type(self.model).__name__}, {self.dtype}, {self.nbytes / 2**20:.0f} MiB packed"]
        fused = Counter(
            f"{type(self.model.get_submodule(name)).__name__} ({what})" for name, what in self.fused.items()
        )
        parts = {
            "swapped": _counted(Counter(self.swapped.values())),
            "fused": _counted(fused),
            "left": _counted(Counter(self.left.values())),
            "when called": ", ".join(NAMES),
            "calls taken": _counted(self.functions.taken),
            "calls left": _counted(self.functions.left),
        }
        return "\n".join([*lines, *(f"  {name:<12} {text}" for name, text in parts.items() if text)])


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.most_common())


def accelerate(model: nn.Module, dtype: str = "float32") -> Acceleration:
    """Have this library's kernels compute a model's Linear layers, norms, activations, softmax and attention.

    model : in eval mode, on the CPU; changed in place, but for its class, parameters, hooks and state_dict
    dtype : how Linear weights are stored and multiplied: "float32", "bfloat16" or "int8"; with the latter two,
        attention's products are bfloat16. Tensors keep their dtype, and everything is summed in float32.
    Known are nn.Linear and transformers' Conv1D; nn.LayerNorm; GELU, SiLU and Softmax; the same as functions, and
    scaled_dot_product_attention without a mask, while the model's own forward runs. Small modules that hold nothing
    else are computed as one (`fusion`). The rest is left as it is.
    PyTorch computes as before whenever a gradient is asked for, under autocast, in training mode where dropout matters,
    on another device, and while it traces or compiles. A weight that is changed is packed again at its next use.
    Returns the Acceleration. Raises ValueError for a model in training mode, on another device or accelerated already.
    """
    _check(model, dtype)
    packs, scratch = Packs(dtype), Scratch()
    result = Acceleration(model, packs, Functions("float32" if dtype == "float32" else "bfloat16"))
    free = {module: name for name, module in model.named_modules() if not _is_replaced(module)}
    forwards: dict[nn.Module, Forward] = {}
    layers: dict[nn.Module, Forward] = {}
    for module, name in free.items():
        layer = layer_forward(module, packs, scratch)
        forward = forward_for(module, packs) if _has_known_dtypes(module) else None
        if layer is not None:
            layers[module] = layer
            result.fused[name] = "the whole layer"
        elif forward is not None:
            forwards[module] = forward
            result.swapped[name] = type(module).__name__
        elif not any(module.children()):
            result.left[name] = type(module).__name__
    for module, name in free.items():
        plan = fusion.plan(module, forwards)
        if plan is not None:
            layers[module] = fusion.FusedForward(module, plan)
            result.fused[name] = ", ".join(plan.fused)
    forwards |= layers
    _pack(model, forwards)
    forwards[model] = _ModelForward(model, result.functions, forwards.get(model))
    for module, forward in forwards.items():
        module.forward = forward
    return result


def _pack(module: nn.Module, forwards: dict[nn.Module, Forward]) -> None:
    """Pack what the model's usual way needs: not the parts of a whole layer, which has packed its own."""
    forward = forwards.get(module)
    if isinstance(forward, LinearForward):
        forward.packed.current()
    elif not isinstance(forward, LayerForward):
        for child in module.children():
            _pack(child, forwards)


def _has_known_dtypes(module: nn.Module) -> bool:
    return all(parameter.dtype in DTYPES for parameter in module.parameters(recurse=False))


def _is_replaced(module: nn.Module) -> bool:
    """Whether somebody else has given the instance a forward of its own."""
    return "forward" in module.__dict__


def _check(model: nn.Module, dtype: str) -> None:
    if not isinstance(model, nn.Module):
        raise ValueError(f"model is {type(model).__name__}, must be a torch.nn.Module")
    if dtype not in _STORED:
        raise ValueError(f"dtype is {dtype!r}, allowed are {', '.join(map(repr, _STORED))}")
    if any(isinstance(module.__dict__.get("forward"), Forward) for module in model.modules()):
        raise ValueError("model is accelerated already: undo that first")
    if _is_replaced(model):
        raise ValueError("model has a forward of its own, which accelerate would replace")
    if any(module.training for module in model.modules()):
        raise ValueError("model is in training mode, must be in eval mode: model.eval()")
    for name, parameter in model.named_parameters():
        if parameter.device.type != "cpu":
            raise ValueError(f"model has {name} on {parameter.device}, must be on the CPU")
