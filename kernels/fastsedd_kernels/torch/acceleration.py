"""`accelerate`: give a model's parts to the kernels, list what was given and what was not, and take it back."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from fastsedd_kernels.torch import fusion
from fastsedd_kernels.torch import trial as trials
from fastsedd_kernels.torch.functions import NAMES, Functions
from fastsedd_kernels.torch.modules import Forward, LinearForward, UnaryForward, forward_for
from fastsedd_kernels.torch.rms_norms import rms_norm_forward
from fastsedd_kernels.torch.rotary import RotaryForward, rotary_forward
from fastsedd_kernels.torch.scratch import Scratch
from fastsedd_kernels.torch.tensors import DTYPES, is_traced
from fastsedd_kernels.torch.transformer_layers import LayerForward, is_known, layer_forward
from fastsedd_kernels.torch.weights import Packs

_STORED = ("float32", "bfloat16", "int8", "int8g", "int4")


class _ModelForward(Forward):
    """The whole model, or a module that is swapped itself, with functions caught while it runs."""

    def __init__(self, module: nn.Module, functions: Functions, inner: Forward | None) -> None:
        super().__init__(module)
        self._functions = functions
        self._inner = inner

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        if is_traced():
            return self.original(*arguments, **keywords)
        with self._functions:
            return (self._inner or self.original)(*arguments, **keywords)


@dataclass(repr=False)
class Acceleration:
    """The outcome of `accelerate`, module by module under their names in the model; its repr is a few lines of it.

    swapped : name to class, of each module whose forward the kernels compute
    fused : name to a description, of each module that is computed without its parts, where these need not be seen
    left : name to class, with the reason if there is one, of each module that stays PyTorch's
    classes : name to class, of every module
    functions : calls of functions that the kernels took (`taken`) and left to PyTorch (`left`), counted as it runs
    """

    model: nn.Module
    packs: Packs
    functions: Functions
    swapped: dict[str, str] = field(default_factory=dict)
    fused: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    classes: dict[str, str] = field(default_factory=dict)

    @property
    def dtype(self) -> str:
        """The dtype in which weights are stored and multiplied."""
        return self.packs.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of packed weights, which are held beside the model's own."""
        return self.packs.nbytes

    def refresh(self) -> None:
        """Pack every weight anew at its next use.

        Needed only after a write to some elements that autograd does not see (`weight.data[0] = 0`, or through
        `.numpy()`): all that autograd sees, and all that changes a whole tensor, is noticed.
        """
        self.packs.refresh()

    def undo(self) -> None:
        """Give every module its own forward back, and drop the packed weights. A second time it does nothing."""
        for module in self.model.modules():
            Forward.remove(module)
        self.packs.clear()

    def __enter__(self) -> Acceleration:
        return self

    def __exit__(self, *_: object) -> None:
        self.undo()

    def __repr__(self) -> str:
        lines = [f"Acceleration of {type(self.model).__name__}, {self.dtype}, {self.nbytes / 2**20:.0f} MiB packed"]
        parts = {
            "swapped": _counted(Counter(self.swapped.values())),
            "fused": _counted(Counter(f"{self.classes[name]} ({what})" for name, what in self.fused.items())),
            "left": _counted(Counter(self.left.values())),
            "when called": ", ".join(NAMES),
            "calls taken": _counted(self.functions.taken),
            "calls left": _counted(self.functions.left),
        }
        return "\n".join([*lines, *(f"  {name:<12} {text}" for name, text in parts.items() if text)])


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.most_common())


def accelerate(model: nn.Module, dtype: str = "float32", *, trial: bool = True) -> Acceleration:
    """Have this library's kernels compute a model's Linear layers, norms, activations, softmax and attention.

    model : in eval mode, on the CPU; changed in place, but for its class, parameters, hooks and state_dict
    dtype : how Linear weights are stored and multiplied: "float32", "bfloat16", "int8", "int8g" or "int4", as `fk.pack`
        says; with all but the first, attention's products are bfloat16. Tensors keep their dtype, and sums are float32.
    trial : time each kind of layer both ways, some tenths of a second in all, and each function when it is first called
        with more than a few elements; leave alone what PyTorch computes faster here
    Known are nn.Linear and transformers' Conv1D; nn.LayerNorm and RMS norms of any class; GELU, SiLU and Softmax; the
    same as functions, and scaled_dot_product_attention, while the model's own forward runs; transformers' function for
    rotary positions. Small modules that hold nothing else are computed as one (`fusion`), such as SwiGLU's three
    products as two. The rest is left as it is.
    PyTorch computes as before wherever a gradient of any kind is needed, within torch.func's transforms, under
    autocast, in training mode where dropout matters, on another device, and while it traces, compiles or exports. A
    weight that is changed is packed again at its next use; see `Acceleration.refresh`.
    Returns the Acceleration. Raises ValueError for a model in training mode, on another device, compiled, scripted
    or traced, or accelerated already.
    """
    _check(model, dtype)
    packs, scratch = Packs(dtype), Scratch()
    result = Acceleration(model, packs, Functions("float32" if dtype == "float32" else "bfloat16", trial))
    free = {module: name for name, module in model.named_modules() if not _is_replaced(module)}
    result.classes.update({name: type(module).__name__ for module, name in free.items()})
    inner = _Swaps(result, trial)
    layers: dict[nn.Module, LayerForward] = {}
    for module, name in free.items():
        if is_known(module):
            layer = inner.layer(module, name, packs, scratch)
            if layer is not None:
                layers[module] = layer
                continue
        inner.take(module, name)
    fused = {}
    for module, name in free.items():
        plan = None if module in layers or inner.has_left_a_product(module) else fusion.plan(module, inner.known, packs)
        if plan is not None:
            fused[module] = fusion.FusedForward(module, plan)
            result.fused[name] = ", ".join(plan.fused)
    forwards: dict[nn.Module, Forward] = {**inner.forwards, **fused, **layers}
    _pack(model, forwards)
    forwards[model] = _ModelForward(model, result.functions, forwards.get(model))
    for forward in forwards.values():
        forward.install()
    for each in (*fused.values(), *layers.values()):
        each.family.settle()
    return result


class _Swaps:
    """The forwards of a model's modules, decided one module at a time; a kind is timed once."""

    def __init__(self, result: Acceleration, trial: bool) -> None:
        self.forwards: dict[nn.Module, Forward] = {}
        self.known: dict[nn.Module, Forward] = {}  # also those that gain nothing alone, but may as part of a product
        self._result, self._trial = result, trial
        self._gains: dict[Any, float] = {}

    def layer(self, module: nn.Module, name: str, packs: Packs, scratch: Scratch) -> LayerForward | None:
        """The module as a whole layer, or None, with the reason in the list."""
        made = layer_forward(module, packs, scratch)
        if not isinstance(made, str) and self._trial and self._gain(made) < trials.LEAST_GAIN:
            made = trials.in_words(self._gain(made))
        if isinstance(made, str):
            self._result.left[name] = f"{type(module).__name__} as a whole ({made})"
            return None
        self._result.fused[name] = "the whole layer"
        return made

    def take(self, module: nn.Module, name: str) -> None:
        """Swap the module's forward, or list it as left."""
        kind = type(module).__name__
        self._rotate(module, name)
        known = _has_known_dtypes(module)
        forward = (forward_for(module, self._result.packs) or rms_norm_forward(module)) if known else None
        if forward is not None:
            self.known[module] = forward
        gain = self._gain(forward) if forward is not None and self._trial else math.inf
        if forward is not None and forward.function and self._trial:
            self._result.functions.judge(forward.function, gain)
        if gain < trials.LEAST_GAIN:
            self._result.left[name] = f"{kind} ({trials.in_words(gain)})"
        elif forward is not None:
            self.forwards[module] = forward
            self._result.swapped[name] = kind
        elif not any(module.children()) or _has_matrices(module):
            self._result.left[name] = kind + _why_left(module)
        elif _has_softcap(module):
            self._result.left[name] = f"scores of {kind} (capped, which the kernel has no form for)"

    def _rotate(self, module: nn.Module, name: str) -> None:
        """Swap the rotary positions of a layer, or list them as left; what else it does stays its class's."""
        forward, kind = rotary_forward(module), f"rotary positions of {type(module).__name__}"
        if isinstance(forward, RotaryForward) and self._trial and self._gain(forward) < trials.LEAST_GAIN:
            forward = trials.in_words(self._gain(forward))
        if isinstance(forward, RotaryForward):
            self.forwards[module] = forward
            self._result.swapped[name] = kind
        elif forward is not None:
            self._result.left[name] = f"{kind} ({forward})"

    def has_left_a_product(self, module: nn.Module) -> bool:
        """True if a linear layer right below the module gained nothing."""
        return any(
            isinstance(self.known.get(child), LinearForward) and child not in self.forwards
            for child in module.children()
        )

    def _gain(self, forward: UnaryForward | LayerForward | RotaryForward) -> float:
        """The speed-up over PyTorch, measured once for modules of a class with equal shapes."""
        module: Any = forward.module
        key = (
            type(module),
            getattr(forward, "function", ""),
            tuple(each.shape for each in module.parameters()),
            getattr(module, "bias", 0) is None,
        )
        if key not in self._gains:
            x: Any = forward.example(trials.TOKENS)
            self._gains[key] = trials.gain(lambda: forward.compute(x), lambda: forward.reference(x))
        return self._gains[key]


def _why_left(module: nn.Module) -> str:
    """The reason why a module that the kernels have nothing for is left, in brackets; empty if its class says it."""
    others = sorted({str(each.dtype) for each in module.parameters(recurse=False) if each.dtype not in DTYPES})
    if others:
        return f" (its parameters are {', '.join(others).replace('torch.', '')})"
    return " (its projections are parameters, not layers)" if _has_matrices(module) else ""


def _has_matrices(module: nn.Module) -> bool:
    """True if it multiplies by parameters of its own, as experts of mixtures and MultiheadAttention do."""
    known = (nn.Linear, nn.Embedding, nn.LayerNorm, nn.modules.conv._ConvNd)
    return not isinstance(module, known) and any(each.ndim >= 2 for each in module.parameters(recurse=False))


def _has_softcap(module: nn.Module) -> bool:
    """True for an attention layer that caps its scores, as Gemma 2's do."""
    return getattr(module, "attn_logit_softcapping", None) is not None


def _pack(module: nn.Module, forwards: dict[nn.Module, Forward]) -> None:
    """Pack the weights of the usual way through the model: not the parts of a whole layer, which has packed its own."""
    forward = forwards.get(module)
    if isinstance(forward, LinearForward):
        forward.packed.current()
    elif isinstance(forward, fusion.FusedForward):
        forward.plan.pack()
    elif not isinstance(forward, LayerForward):
        for child in module.children():
            _pack(child, forwards)


def _has_known_dtypes(module: nn.Module) -> bool:
    return all(parameter.dtype in DTYPES for parameter in module.parameters(recurse=False))


def _is_replaced(module: nn.Module) -> bool:
    """True if somebody else has given the instance a forward of its own."""
    return "forward" in module.__dict__


def _is_compiled(module: nn.Module) -> bool:
    """True for what `torch.compile` returns, and for a module that was compiled in place."""
    return hasattr(module, "_orig_mod") or module._compiled_call_impl is not None


def _check(model: nn.Module, dtype: str) -> None:
    if not isinstance(model, nn.Module):
        raise ValueError(f"model is {type(model).__name__}, must be a torch.nn.Module")
    if dtype not in _STORED:
        raise ValueError(f"dtype is {dtype!r}, allowed: {', '.join(map(repr, _STORED))}")
    if any(isinstance(module.__dict__.get("forward"), Forward) for module in model.modules()):
        raise ValueError("model is accelerated already: undo that first")
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise ValueError("model is a program of torch.jit: accelerate it as it was before")
    if any(_is_compiled(module) for module in model.modules()):
        raise ValueError("model is compiled, which leaves nothing to the kernels: accelerate it as it was before")
    if _is_replaced(model):
        raise ValueError("model has a forward of its own, which accelerate would replace")
    if any(module.training for module in model.modules()):
        raise ValueError("model is in training mode, must be in eval mode: model.eval()")
    for name, parameter in model.named_parameters():
        if parameter.device.type != "cpu":
            raise ValueError(f"model has {name} on {parameter.device}, must be on the CPU")
