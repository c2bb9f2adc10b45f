"""Transformer layers whose forward is known, as seven calls of kernels, which are replayed as one.

    x + attention(norm(x)), then x + mlp(norm(x))          before: ViT, SigLIP, GPT-2
    norm(x + attention(x)), then norm(x + mlp(x))          after: BERT and what is built like it

q, k and v are one product, attention reads them where they lie, residuals and the activation are added to the products'
tiles, and what passes between the kernels stays in scratch memory. Which class is what, and where its parts are, stands
in a table; that it is right is measured: a layer that gives another result than its class's own forward, on random
tokens, is left alone.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import fastsedd_kernels as fk
from fastsedd_kernels.torch import tensors
from fastsedd_kernels.torch.modules import Family, Forward, activation_of, is_layer_norm, is_linear
from fastsedd_kernels.torch.replays import Replays
from fastsedd_kernels.torch.scratch import Scratch
from fastsedd_kernels.torch.weights import Packed, Packs, Watch, has_parameters, parameter

# Relative to the norm of the layer's own result.
_AGREEMENT = {"float32": 1e-4, "bfloat16": 0.03, "int8": 0.06, "int8g": 0.06, "int4": 0.25}
_TRIAL = 12  # tokens

# Of keywords, those that do not bear on the result of a layer that gets no cache.
_IGNORED = {"use_cache", "position_ids", "cache_position"}
_MASK = "attention_mask"


@dataclass(frozen=True)
class Anatomy:
    """Paths from a layer to its parts; projections, heads and scale lie below `attention`."""

    attention: str
    projections: tuple[str, ...]  # of q, k and v, or of all three together
    heads: str
    output: str
    norms: tuple[str, str]  # the attention's, and the MLP's
    up: str
    activation: str
    down: str
    norm_first: bool
    causal: bool = False
    scale: str = "scaling"


_BERT = Anatomy(
    "attention.self", ("query", "key", "value"), "num_attention_heads", "attention.output.dense",
    ("attention.output.LayerNorm", "output.LayerNorm"), "intermediate.dense", "intermediate.intermediate_act_fn",
    "output.dense", norm_first=False,
)  # fmt: skip
_DISTILBERT = Anatomy(
    "attention", ("q_lin", "k_lin", "v_lin"), "n_heads", "attention.out_lin",
    ("sa_layer_norm", "output_layer_norm"), "ffn.lin1", "ffn.activation", "ffn.lin2", norm_first=False,
)  # fmt: skip
_VIT = Anatomy(
    "attention", ("q_proj", "k_proj", "v_proj"), "num_attention_heads", "attention.o_proj",
    ("layernorm_before", "layernorm_after"), "mlp.fc1", "mlp.activation_fn", "mlp.fc2", norm_first=True,
)  # fmt: skip
_SIGLIP = Anatomy(
    "self_attn", ("q_proj", "k_proj", "v_proj"), "num_heads", "self_attn.out_proj",
    ("layer_norm1", "layer_norm2"), "mlp.fc1", "mlp.activation_fn", "mlp.fc2", norm_first=True, scale="scale",
)  # fmt: skip
_GPT2 = Anatomy(
    "attn", ("c_attn",), "num_heads", "attn.c_proj", ("ln_1", "ln_2"), "mlp.c_fc", "mlp.act", "mlp.c_proj",
    norm_first=True, causal=True,
)  # fmt: skip

_KNOWN = {
    **dict.fromkeys(
        ("BertLayer", "RobertaLayer", "XLMRobertaLayer", "CamembertLayer", "ElectraLayer", "Data2VecTextLayer"), _BERT
    ),
    **dict.fromkeys(("ViTLayer", "DeiTLayer", "IJepaLayer"), _VIT),
    **dict.fromkeys(("SiglipEncoderLayer", "CLIPEncoderLayer"), _SIGLIP),
    "GPT2Block": _GPT2,
    "TransformerBlock": _DISTILBERT,
}


class LayerForward(Forward):
    """A whole layer. Takes hidden states [B, L, N] and, once a trial agrees, a mask that broadcasts to [B, H, L, L].

    With a cache, or a mask of another kind, the layer runs as its class has it.
    """

    def __init__(self, module: nn.Module, anatomy: Anatomy, packs: Packs, scratch: Scratch) -> None:
        super().__init__(module)

        def part(path: str) -> Any:
            return operator.attrgetter(path)(module)

        self._anatomy, self._scratch, self._replays, self._dtype = anatomy, scratch, Replays(), packs.dtype
        self._products = "float32" if packs.dtype == "float32" else "bfloat16"
        self._names = list(self.__signature__.parameters)[1:]
        self._masks: dict[torch.dtype, bool] = {}  # kinds of masks that were tried, and whether they are the class's
        self.attention: Any = part(anatomy.attention)
        self.norms: tuple[Any, Any] = part(anatomy.norms[0]), part(anatomy.norms[1])
        projections = [getattr(self.attention, name) for name in anatomy.projections]
        output, up, down = part(anatomy.output), part(anatomy.up), part(anatomy.down)
        self.activation = activation_of(part(anatomy.activation))
        linears = (*projections, output, up, down)
        if not all(map(is_linear, linears)) or not all(map(is_layer_norm, self.norms)) or self.activation is None:
            raise AttributeError("a part of the layer is another than its name says")
        self._projections, self._output = packs.of(*projections), packs.of(output)
        self._up, self._down = packs.of(up), packs.of(down)
        self._packs = (self._projections, self._output, self._up, self._down)
        self._linears = linears
        self._watch = Watch()
        self.family = Family(module)

    def __call__(self, x: Any, *arguments: Any, **keywords: Any) -> Any:
        given = dict(zip(self._names, arguments, strict=False)) | keywords
        mask = given.pop(_MASK, None)
        alone = all(value is None or value is False or name in _IGNORED for name, value in given.items())
        if alone and self.takes(x) and (mask is None or self._takes_mask(x, mask)):
            return self.compute(x, mask)
        return self.original(x, *arguments, **keywords)

    def takes(self, x: Any) -> bool:
        """Plain hidden states, and nothing inside that would notice that it is not called."""
        if not isinstance(x, torch.Tensor) or x.ndim != 3 or not self.family.is_undisturbed():
            return False
        parts = (*self._linears, *self.norms)
        if not all(map(has_parameters, parts)):
            return False
        norms = (each for each in self._norm_parameters() if each is not None)
        return tensors.usable(x, *(each for pack in self._packs for each in pack.parameters), *norms)

    def _takes_mask(self, x: torch.Tensor, mask: Any) -> bool:
        """True for a plain mask of a kind that means to the class what it means to the kernel: tried at its first."""
        if not isinstance(mask, torch.Tensor) or mask.ndim != 4 or not tensors.usable_mask(x, mask):
            return False
        if not tensors.broadcasts(mask, (len(x), self._heads, x.shape[1], x.shape[1])):
            return False
        if mask.dtype not in self._masks:
            self._masks[mask.dtype] = self._agrees(mask.dtype)
        return self._masks[mask.dtype]

    def _agrees(self, kind: torch.dtype) -> bool:
        """True if the class gives the same for a random mask of that kind."""
        seen = torch.rand(1, 1, _TRIAL, _TRIAL, generator=torch.Generator().manual_seed(0)) < 0.5
        seen |= torch.eye(_TRIAL, dtype=torch.bool)
        hidden = torch.zeros(seen.shape, dtype=torch.float32).masked_fill(~seen, torch.finfo(torch.float32).min)
        try:
            return self.difference(seen if kind == torch.bool else hidden.to(kind)) <= self.most
        except Exception:  # whatever another class does with such a mask
            return False

    def _norm_parameters(self) -> list[torch.Tensor | None]:
        return [parameter(norm, name) for norm in self.norms for name in ("weight", "bias")]

    def example(self, tokens: int) -> torch.Tensor:
        """Random hidden states of one text."""
        norm = self.norms[0]
        noise = torch.randn(1, tokens, norm.normalized_shape[0], generator=torch.Generator().manual_seed(0))
        return noise.to(norm.weight.dtype)

    def reference(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> Any:
        """The class's own result, without whatever else it must be given."""
        required = [
            name
            for name, each in list(self.__signature__.parameters.items())[1:]
            if each.default is each.empty and each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)
        ]
        return self.original(x, **dict.fromkeys(required) | ({} if mask is None else {_MASK: mask}))

    def difference(self, mask: torch.Tensor | None = None) -> float:
        """The relative difference between the layer and its class for random tokens. Raises what the class raises."""
        with torch.no_grad(), tensors.plainly():  # PyTorch's functions, also while a model runs
            tokens = self.example(_TRIAL)
            expected = self.reference(tokens, mask)
            if not isinstance(expected, torch.Tensor):
                raise TypeError(f"the layer returned {type(expected).__name__}, must be a tensor")
            if not self.takes(tokens):
                raise ValueError("the layer's tensors are not plain ones on the CPU")
            difference = torch.linalg.norm((self.compute(tokens, mask) - expected).float())
            return float(difference / torch.linalg.norm(expected.float()))

    @property
    def most(self) -> float:
        """The difference that is allowed."""
        of_parameters = str(self.norms[0].weight.dtype).removeprefix("torch.")
        return max(_AGREEMENT[self._dtype], _AGREEMENT[of_parameters])

    def compute(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """The layer's result for hidden states [B, L, N]."""
        with tensors.plainly():
            array, out = tensors.as_array(x), torch.empty(x.shape, dtype=torch.float32)
            shown = () if mask is None else (_shown(mask),)
            if array.flags.c_contiguous and all(each.flags.c_contiguous for each in shown):
                key = self._state(x), *((each.shape, each.dtype) for each in shown)
                self._replays.run(self._run, key, array, out.numpy(), *shown)
            else:
                self._run(array, out.numpy(), *shown)
            return out.to(x.dtype)

    @property
    def _heads(self) -> int:
        return int(getattr(self.attention, self._anatomy.heads))

    def _scale(self) -> float:
        return float(getattr(self.attention, self._anatomy.scale))

    def _state(self, x: torch.Tensor) -> tuple[Any, ...]:
        """All that the calls of kernels depend on beside their arrays."""
        norms = (*(norm.eps for norm in self.norms), *self._watch.traces(self._norm_parameters()))
        return x.shape, fk.get_num_threads(), self._scale(), *(pack.state() for pack in self._packs), norms

    def _run(self, x: Any, out: Any, mask: Any = None) -> None:
        array, first = self._scratch.array, self._anatomy.norm_first
        inner = array("inner", x.shape)
        heads = self._attend(self._norm(0, x, inner) if first else x, mask)
        middle = _linear(self._output, heads, array("middle", x.shape), residual=x)
        if not first:
            self._norm(0, middle, middle)
        hidden = self._scratch.padded("hidden", (*x.shape[:2], self._up.shape[0]))
        _linear(self._up, self._norm(1, middle, inner) if first else middle, hidden, activation=self.activation)
        _linear(self._down, hidden, out, residual=middle)
        if not first:
            self._norm(1, out, out)

    def _attend(self, x: Any, mask: Any) -> Any:
        """The heads' results, side by side: [B, L, N]. A mask, for classes that are causal, holds that too."""
        batch, length, _ = x.shape
        heads, width = self._heads, self._projections.shape[0] // 3
        projected = _linear(self._projections, x, self._scratch.array("projected", (batch, length, 3 * width)))
        q, k, v = projected.reshape(batch, length, 3, heads, width // heads).transpose(2, 0, 3, 1, 4)
        result = self._scratch.array("heads", (batch, length, width))
        out = result.reshape(batch, length, heads, -1).transpose(0, 2, 1, 3)
        causal = self._anatomy.causal and mask is None
        fk.attention(q, k, v, self._scale(), causal, out, self._products, mask=mask)
        return result

    def _norm(self, which: int, x: Any, out: Any) -> Any:
        norm = self.norms[which]
        weight, bias = (None if part is None else tensors.as_array(part) for part in (norm.weight, norm.bias))
        return fk.layer_norm(x, weight, bias, eps=norm.eps, out=out)


def _shown(mask: torch.Tensor) -> Any:
    """A mask as an array; dimensions along which it repeats have one element."""
    first = tuple(slice(1) if stride == 0 else slice(None) for stride in mask.stride())
    part = mask[first]
    return part.detach().numpy() if part.dtype == torch.bool else tensors.as_array(part)


def _linear(packed: Packed, x: Any, out: Any, activation: str | None = None, residual: Any = None) -> Any:
    weight, bias = packed.current()
    return fk.linear(x, weight, bias, activation, residual=residual, out=out)


def is_known(module: nn.Module) -> bool:
    """True if it is of a class whose forward the table describes."""
    return type(module).__name__ in _KNOWN and type(module).__module__.startswith("transformers.models.")


def layer_forward(module: nn.Module, packs: Packs, scratch: Scratch) -> LayerForward | str:
    """The module as a layer, if it agrees with its own forward, else the reason; call it before anything is swapped."""
    try:
        forward = LayerForward(module, _KNOWN[type(module).__name__], packs, scratch)
        difference = forward.difference()
    except Exception as error:  # another version of the library has other parts, or other shapes
        return f"its trial raised {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    if difference > forward.most:
        return f"its trial differs by {difference:.1e}, allowed: {forward.most:g}"
    return forward
