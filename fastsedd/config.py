"""What a model is, in frozen dataclasses that are checked where they are built."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

# Bounds that no real model is near, so that a hostile file is refused before it takes memory.
MOST_TOKENS = 1 << 20
MOST_WIDTH = 1 << 15
MOST_BLOCKS = 512
MOST_LENGTH = 1 << 17
MOST_PARAMETERS = 1 << 34
MOST_STEPS = (1 << 16) - 2
MOST_TIMES = 1 << 12

FREQUENCIES = 256  # sinusoids of sigma that condition a model


@dataclass(frozen=True)
class NoiseConfig:
    """The noise schedule; loglinear has no parameters and ignores both sigmas."""

    type: Literal["geometric", "loglinear"]
    sigma_min: float = 1e-4
    sigma_max: float = 20.0

    def __post_init__(self) -> None:
        _check_one_of("noise.type", self.type, ("geometric", "loglinear"))
        _check_number("noise.sigma_min", self.sigma_min)
        _check_number("noise.sigma_max", self.sigma_max)
        if self.type == "geometric" and not 0 < self.sigma_min < self.sigma_max < math.inf:
            raise ValueError(
                f"noise.sigma_min is {self.sigma_min} and noise.sigma_max is {self.sigma_max}, "
                "allowed: 0 < sigma_min < sigma_max, finite"
            )


@dataclass(frozen=True)
class GenerationConfig:
    """What a checkpoint says reads best: the default steps and temperature of a request."""

    steps: int = 128
    temperature: float = 1.0

    def __post_init__(self) -> None:
        _check_range("generation.steps", self.steps, 1, MOST_STEPS)
        _check_number("generation.temperature", self.temperature)
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"generation.temperature is {self.temperature}, allowed: above 0, finite")


@dataclass(frozen=True)
class FittedTimes:
    """Times of a grid that was fitted to a model: falling from 1 to 0, with as many steps between each two of them."""

    times: tuple[float, ...]

    def __post_init__(self) -> None:
        _check_range("times: their number", len(self.times), 2, MOST_TIMES)
        if (self.times[0], self.times[-1]) != (1.0, 0.0):
            raise ValueError(f"times run from {self.times[0]} to {self.times[-1]}, allowed: from 1 to 0")
        for before, after in pairwise(self.times):
            if not before > after:
                raise ValueError(f"times has {after} after {before}, allowed: falling values")


@dataclass(frozen=True)
class ModelConfig:
    """A model's architecture, sizes and process.

    tokens : what texts are made of, without the mask; length : the most positions
    cond_dim : of the noise embedding; of radd, which has none, unused
    time_conditioning : whether the network is told the noise, which of mdlm's and radd's most are not
    characters : the character of each token, where the tokens are characters
    """

    architecture: Literal["annotated", "ddit", "mdlm", "radd"]
    tokens: int
    width: int
    blocks: int
    heads: int
    cond_dim: int
    length: int
    graph: Literal["absorb", "uniform"]
    noise: NoiseConfig
    scale_by_sigma: bool
    time_conditioning: bool = True
    characters: str | None = None
    generation: GenerationConfig = field(default_factory=GenerationConfig)

    def __post_init__(self) -> None:
        _check_one_of("architecture", self.architecture, ("annotated", "ddit", "mdlm", "radd"))
        _check_one_of("graph", self.graph, ("absorb", "uniform"))
        _check_range("tokens", self.tokens, 2, MOST_TOKENS)
        _check_range("width", self.width, 2, MOST_WIDTH)
        _check_range("blocks", self.blocks, 1, MOST_BLOCKS)
        _check_range("heads", self.heads, 1, self.width)
        _check_range("cond_dim", self.cond_dim, 1, MOST_WIDTH)
        _check_range("length", self.length, 1, MOST_LENGTH)
        if self.width % self.heads or self.head_dim % 2:
            raise ValueError(f"heads is {self.heads}, allowed: divisors of the width {self.width} into even widths")
        if self.scale_by_sigma and self.architecture != "ddit":
            raise ValueError("scale_by_sigma is true, allowed for the ddit architecture only")
        if self.normalised and self.graph != "absorb":
            raise ValueError(f"graph is {self.graph!r}, allowed for the {self.architecture} architecture: 'absorb'")
        if not self.time_conditioning and not self.normalised:
            raise ValueError("time_conditioning is false, allowed for the mdlm and radd architectures only")
        if self.characters is not None and not len(set(self.characters)) == len(self.characters) == self.tokens:
            raise ValueError(f"characters has {len(self.characters)}, allowed: {self.tokens} distinct ones, the tokens")
        _check_range("parameters", self.parameters, 1, MOST_PARAMETERS)

    @property
    def vocab_size(self) -> int:
        """States of a position: the tokens, and the mask under absorb."""
        return self.tokens + (self.graph == "absorb")

    @property
    def mask_token(self) -> int | None:
        """Id of the mask, the last state, under absorb."""
        return self.tokens if self.graph == "absorb" else None

    @property
    def normalised(self) -> bool:
        """Whether the network predicts the clean token, as a distribution, instead of a score."""
        return self.architecture in ("mdlm", "radd")

    @property
    def tensor_prefix(self) -> str:
        """What the names of a checkpoint's tensors begin with."""
        return "backbone." if self.architecture == "mdlm" else ""

    @property
    def modulations(self) -> int:
        """Shifts, scales and gates of the noise, each of the width: six a block, and two of the head."""
        return 0 if self.architecture == "radd" else 6 * self.blocks + 2

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @property
    def parameters(self) -> int:
        """Weights of the model, from its sizes alone: known before any memory is taken."""
        width = self.width
        sigma_map = self.cond_dim * (FREQUENCIES + 1) + self.cond_dim * (self.cond_dim + 1)
        conditioning = sigma_map + self.modulations * width * (self.cond_dim + 1) if self.modulations else 0
        block, head = 2 * width + 12 * width**2, width + self.vocab_size * (width + 1)
        embedding = self.vocab_size * width
        if self.architecture == "annotated":
            embedding += self.length * width + width  # positions, and the norm after the last block
        else:
            block += 5 * width  # the biases of the MLP
        if self.architecture == "radd":
            block, head = block + 2 * width, head + width  # the biases of the norms
        return embedding + conditioning + self.blocks * block + head


def _check_range(name: str, value: int, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{name} is {value!r}, allowed: {least} to {most}")


def _check_number(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{name} is {value!r}, allowed: a number")


def _check_one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}, allowed: {', '.join(map(repr, allowed))}")
