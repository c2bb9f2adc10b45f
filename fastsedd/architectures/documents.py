"""Keys of config.json that several architectures share, and Lou et al.'s layout of it."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from fastsedd.architectures.base import Architecture, Graph, ModelConfig
from fastsedd.config import LOGLINEAR_REST, GenerationConfig, NoiseConfig


class GraphKeys(msgspec.Struct):
    type: Literal["absorb", "uniform", "simplex"]  # simplex: another name for uniform


class NoiseKeys(msgspec.Struct):
    type: Literal["geometric", "loglinear", "log-linear", "cosine", "sine", "linear"]
    sigma_min: float | None = None
    sigma_max: float | None = None
    eps: float | None = None  # the share that is never noised


class ModelKeys(msgspec.Struct):
    hidden_size: int
    cond_dim: int
    length: int
    n_blocks: int
    n_heads: int
    type: str = "ddit"
    scale_by_sigma: bool = False


class TokenizerKeys(msgspec.Struct):
    type: str = ""
    characters: str | None = None  # of the types "characters" and "character merges"; others have files of their own
    merges: list[tuple[int, int]] | None = None  # of the latter


class GenerationKeys(msgspec.Struct):
    steps: int = 128
    temperature: float = 1.0


class Shared(msgspec.Struct, kw_only=True):
    """Keys of every config.json; the mask stands under one of three names, if it is stated at all."""

    mask_token_id: int | None = None
    mask_index: int | None = None
    mask_id: int | None = None
    tokenizer: TokenizerKeys | str | None = None
    generation: GenerationKeys = msgspec.field(default_factory=GenerationKeys)


class Stored(Shared, kw_only=True):
    """Lou et al.'s keys, in config.json and in their trainer's own config; those that do not matter are left out."""

    tokens: int
    noise: NoiseKeys
    model: ModelKeys
    graph: GraphKeys | None = None  # which RADD's does not state


def shared(stored: Shared) -> dict[str, Any]:
    """The fields of ModelConfig that every config.json states alike."""
    generation = GenerationConfig(stored.generation.steps, stored.generation.temperature)
    return {**_characters(stored.tokenizer), "generation": generation, "mask": stated_mask(stored)}


def from_stored(family: Architecture, stored: Stored, graph: Graph, **fields: Any) -> ModelConfig:
    """The config of a document with Lou et al.'s keys."""
    model = stored.model
    return ModelConfig(
        family=family, tokens=stored.tokens, width=model.hidden_size, blocks=model.n_blocks, heads=model.n_heads,
        cond_dim=model.cond_dim, length=model.length, graph=graph, noise=noise(stored.noise),
        **shared(stored), **fields,
    )  # fmt: skip


def stated_graph(stored: Stored) -> Graph:
    """The graph, which must be stated. Raises ValueError where it is not."""
    if stored.graph is None:
        raise ValueError("Object missing required field `graph`, allowed: absorb, uniform")
    return "absorb" if stored.graph.type == "absorb" else "uniform"


def stated_mask(stored: Shared) -> int | None:
    """The mask's id under whichever of its names it is stated. Raises ValueError where two of them differ."""
    names = ("mask_token_id", "mask_index", "mask_id")
    found = {name: value for name in names if (value := getattr(stored, name)) is not None}
    if len(set(found.values())) > 1:
        raise ValueError(
            f"states {' and '.join(f'{name} {value}' for name, value in found.items())}: they must be equal"
        )
    return next(iter(found.values()), None)


def document(config: ModelConfig) -> dict[str, Any]:
    """A config.json with Lou et al.'s keys."""
    return {
        "tokens": config.tokens,
        "graph": {"type": config.graph},
        "noise": noise_document(config.noise),
        "model": {
            "type": config.architecture, "hidden_size": config.width, "cond_dim": config.cond_dim,
            "length": config.length, "n_blocks": config.blocks, "n_heads": config.heads,
            "scale_by_sigma": config.scale_by_sigma,
        },
    }  # fmt: skip


def common(config: ModelConfig) -> dict[str, Any]:
    """The keys that every document has besides its family's own."""
    found: dict[str, Any] = {
        "generation": {"steps": config.generation.steps, "temperature": config.generation.temperature}
    }
    if config.mask is not None:
        found["mask_token_id"] = config.mask
    if config.characters is not None:
        found["tokenizer"] = {"type": "characters", "characters": config.characters}
        if config.merges:
            found["tokenizer"] |= {"type": "character merges", "merges": [list(pair) for pair in config.merges]}
    return found


def noise(stored: NoiseKeys) -> NoiseConfig:
    """The schedule. Raises ValueError for a share that is never noised other than the one of all authors."""
    if stored.eps not in (None, LOGLINEAR_REST):
        raise ValueError(f"noise.eps is {stored.eps}, allowed: {LOGLINEAR_REST}")
    given = {"sigma_min": stored.sigma_min, "sigma_max": stored.sigma_max}
    kind = "loglinear" if stored.type == "log-linear" else stored.type
    return NoiseConfig(kind, **{name: value for name, value in given.items() if value is not None})


def noise_document(config: NoiseConfig) -> dict[str, Any]:
    """The keys from which `noise` reads the same schedule."""
    return {"type": config.type, "sigma_min": config.sigma_min, "sigma_max": config.sigma_max}


def _characters(stored: TokenizerKeys | str | None) -> dict[str, Any]:
    """The fields of ModelConfig that a table of characters, with or without merges, decides."""
    if not isinstance(stored, TokenizerKeys) or stored.type not in ("characters", "character merges"):
        return {}
    if stored.characters is None:
        raise ValueError("tokenizer.characters is missing, allowed: the model's characters, in order")
    if stored.type == "characters":
        return {"characters": stored.characters}
    if not stored.merges:
        raise ValueError("tokenizer.merges is missing, allowed: pairs of earlier tokens, one for each token")
    return {"characters": stored.characters, "merges": tuple(stored.merges)}
