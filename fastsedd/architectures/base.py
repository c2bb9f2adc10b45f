"""The config that all architectures share, and the facts that each of them states.

An architecture is one file of this folder: keys of its config.json, tensors with their shapes, scratch memory of a
forward pass, and the meaning of its output. `registry.py` is the one list. Nothing here knows a kernel, reads a
file or knows how noise is added.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import msgspec

from fastsedd.architectures.backbone import Backbone
from fastsedd.config import (
    MAX_BLOCKS,
    MAX_LENGTH,
    MAX_PARAMETERS,
    MAX_TOKEN_CHARACTERS,
    MAX_TOKENS,
    MAX_WIDTH,
    GenerationConfig,
    NoiseConfig,
    check_one_of,
    check_range,
)

# What the head's logits mean: log scores p(y) / p(x); the same less the factor that a mask's score owes to the noise
# alone (Lou et al., appendix C); or the distribution of the clean token.
Output = Literal["score", "scaled score", "clean token"]
Graph = Literal["absorb", "uniform"]
Shapes = Mapping[str, tuple[int, ...]]


class Widths(NamedTuple):
    """Scratch memory of a forward pass, in float32 per position.

    stream : of the residual stream; qkv : of queries, keys and values; hidden : of the MLP
    modulation : of all shifts, scales and gates, per noise level instead
    """

    stream: int
    qkv: int
    hidden: int
    modulation: int


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A model's architecture, sizes and process, checked where it is built.

    family : the architecture; tokens : vocabulary without the mask; length : the largest number of positions
    cond_dim : width of the noise embedding; unused by architectures without one
    time_conditioning : whether the network is conditioned on the noise level; most MDLM, all RADD checkpoints are not
    scale_by_sigma : whether the noise's own factor is left out of the head's scores
    mask : id of the mask, if it is not the last one
    characters : the character of each token, where the tokens are characters
    merges : of tokens behind the characters, each of two earlier tokens: see `text.character_merges`
    backbone : of a masked language model, the rest of its sizes, its attention and its special tokens; else None
    Raises ValueError, naming the field, its value and what is allowed.
    """

    family: Architecture = field(repr=False)
    tokens: int
    width: int
    blocks: int
    heads: int
    cond_dim: int
    length: int
    graph: Graph
    noise: NoiseConfig
    scale_by_sigma: bool = False
    time_conditioning: bool = True
    mask: int | None = None
    characters: str | None = None
    merges: tuple[tuple[int, int], ...] = ()
    backbone: Backbone | None = None
    generation: GenerationConfig = field(default_factory=GenerationConfig)

    def __post_init__(self) -> None:
        check_one_of("graph", self.graph, ("absorb", "uniform"))
        check_range("tokens", self.tokens, 2, MAX_TOKENS)
        check_range("width", self.width, 2, MAX_WIDTH)
        check_range("blocks", self.blocks, 1, MAX_BLOCKS)
        check_range("heads", self.heads, 1, self.width)
        check_range("cond_dim", self.cond_dim, 1, MAX_WIDTH)
        check_range("length", self.length, 1, MAX_LENGTH)
        if self.backbone is not None:
            self.backbone.check(self.heads, self.vocab_size)
        elif self.width % self.heads or self.head_dim % 2:
            raise ValueError(f"heads is {self.heads}, allowed: divisors of the width {self.width} into even widths")
        elif self.generation.temperature == 0.0:
            raise ValueError(f"generation.temperature is 0, allowed for the {self.architecture} architecture: above 0")
        self._check_characters()
        if self.mask is not None:
            self._check_mask(self.mask)
        if self.normalised and self.graph != self.family.clean_graph:
            allowed = repr(self.family.clean_graph)
            raise ValueError(f"graph is {self.graph!r}, allowed for the {self.architecture} architecture: {allowed}")
        self.family.check(self)
        check_range("parameters", self.parameters, 1, MAX_PARAMETERS)

    def _check_characters(self) -> None:
        if self.characters is None:
            if self.merges:
                raise ValueError(f"merges has {len(self.merges)}, allowed without characters: none")
            return
        count = self.tokens - len(self.merges)
        if not len(set(self.characters)) == len(self.characters) == count:
            without = " without the merges" if self.merges else ""
            raise ValueError(
                f"characters has {len(self.characters)}, allowed: {count} distinct ones, the tokens{without}"
            )
        if len(set(self.merges)) < len(self.merges):
            raise ValueError("merges has a pair twice, allowed: distinct pairs")
        lengths = [1] * count
        for left, right in self.merges:
            if not 0 <= min(left, right) <= max(left, right) < len(lengths):
                raise ValueError(f"merges has {left}, {right} as token {len(lengths)}, allowed: two earlier tokens")
            lengths.append(lengths[left] + lengths[right])
            if lengths[-1] > MAX_TOKEN_CHARACTERS:
                raise ValueError(f"merges gives token {len(lengths) - 1} more than {MAX_TOKEN_CHARACTERS} characters")

    def _check_mask(self, mask: int) -> None:
        if self.graph != "absorb":
            raise ValueError(f"mask_id is {mask}, allowed: none under the {self.graph} graph")
        check_range("mask_id", mask, 0, self.tokens)
        if self.characters is not None and mask != self.tokens:
            raise ValueError(f"mask_id is {mask}, allowed with characters: the last, {self.tokens}")

    @property
    def architecture(self) -> str:
        """The architecture's name."""
        return self.family.name

    @property
    def output(self) -> Output:
        """The meaning of the head's logits."""
        return self.family.output(self)

    @property
    def normalised(self) -> bool:
        """True if the network predicts the clean token, as a distribution, instead of a score."""
        return self.output == "clean token"

    @property
    def vocab_size(self) -> int:
        """States of a position: the tokens, and the mask under absorb."""
        return self.tokens + (self.graph == "absorb")

    @property
    def mask_id(self) -> int | None:
        """Id of the mask, None where there is none (uniform)."""
        if self.graph != "absorb":
            return None
        return self.tokens if self.mask is None else self.mask

    @property
    def head_dim(self) -> int:
        return self.width // self.heads if self.backbone is None else self.backbone.head_dim

    @property
    def widths(self) -> Widths:
        """Scratch memory of a forward pass."""
        return self.family.widths(self)

    @property
    def tensor_shapes(self) -> Shapes:
        """Every tensor of the model: name -> shape."""
        return self.family.tensor_shapes(self)

    @property
    def parameters(self) -> int:
        """Number of weights, known from the sizes before any memory is taken."""
        return sum(math.prod(shape) for shape in self.tensor_shapes.values())


class Architecture(ABC):
    """The facts of one family of models.

    name : in `ModelConfig.architecture`; network : folder of fastsedd/models that runs it
    states : tensors that have a row per id of the vocabulary
    predictor : the default one of its requests; clean_graph : the one graph, where it predicts the clean token
    Document : the keys of its config.json that matter; ignored : tensors that its files may hold beside the model's
    aliases : other beginnings of its tensors' names, without those of wrappers, and what they stand for
    mask_in_tokenizer : whether a tokenizer's own mask is the model's; else the mask is added behind the tokens
    mask_required : whether a model whose files name no mask is refused: it would be an ordinary language model
    ends_answers : whether a text ends at the tokenizer's end, which else stands between the documents of one text
    may_scale, may_ignore_time : whether `scale_by_sigma` may be true, and `time_conditioning` false
    """

    name: str
    network: str
    states: frozenset[str]
    Document: type[msgspec.Struct]
    predictor: Literal["analytic", "ddpm"] = "analytic"
    clean_graph: Graph = "absorb"
    ignored: frozenset[str] = frozenset()
    aliases: Mapping[str, str] = MappingProxyType({})
    mask_in_tokenizer = False
    mask_required = False
    ends_answers = True
    may_scale = False
    may_ignore_time = False

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __hash__(self) -> int:
        return hash(type(self))

    @abstractmethod
    def recognises(self, model_type: str, inner_type: str) -> bool:
        """True if a config.json is this family's. model_type : its key of that name; inner_type : its `model.type`"""

    @abstractmethod
    def config(self, stored: Any) -> ModelConfig:
        """The config of a decoded Document. Raises ValueError, naming the key."""

    @abstractmethod
    def document(self, config: ModelConfig) -> dict[str, Any]:
        """The config.json from which `config` reads the same sizes; all keys but those of `documents.common`."""

    @abstractmethod
    def tensor_shapes(self, config: ModelConfig) -> Shapes:
        """Every tensor of a model: name -> shape."""

    def network_shapes(self, config: ModelConfig) -> Shapes:
        """The same tensors under the names that the network reads."""
        return self.tensor_shapes(config)

    def own_name(self, name: str) -> str:
        """The name in its authors' files of a tensor of `network_shapes`."""
        return name

    def rows(self, config: ModelConfig, name: str) -> list[int] | None:
        """Rows of the tensor under `own_name(name)` that are the network's, None for all; zeros are added behind."""
        return None

    def fitted(self, config: ModelConfig, shapes: Shapes) -> ModelConfig:
        """The config of a file with tensors of these shapes, of what its document may leave behind."""
        return config

    @abstractmethod
    def widths(self, config: ModelConfig) -> Widths:
        """Scratch memory of a forward pass."""

    @abstractmethod
    def output(self, config: ModelConfig) -> Output:
        """The meaning of the head's logits."""

    def check(self, config: ModelConfig) -> None:
        """Raise ValueError, naming the field, for a config that this family does not have."""
        if config.scale_by_sigma and not self.may_scale:
            raise ValueError(f"scale_by_sigma is true, not allowed for the {self.name} architecture")
        if not (config.time_conditioning or self.may_ignore_time):
            raise ValueError(f"time_conditioning is false, not allowed for the {self.name} architecture")
