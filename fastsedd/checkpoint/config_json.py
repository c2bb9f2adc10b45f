"""config.json -> ModelConfig. The keys are Lou et al.'s own; those that do not matter here are tolerated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import msgspec

from fastsedd.checkpoint import small_file
from fastsedd.config import GenerationConfig, ModelConfig, NoiseConfig
from fastsedd.errors import CheckpointError


class _Graph(msgspec.Struct):
    type: Literal["absorb", "uniform", "simplex"]  # simplex: another's name for uniform


class _Noise(msgspec.Struct):
    type: Literal["geometric", "loglinear"]
    sigma_min: float | None = None
    sigma_max: float | None = None


class _Model(msgspec.Struct):
    hidden_size: int
    cond_dim: int
    length: int
    n_blocks: int
    n_heads: int
    type: str = "ddit"
    scale_by_sigma: bool = False


class _Tokenizer(msgspec.Struct):
    type: str = ""
    characters: str | None = None  # of the type "characters"; other types are kept in files of their own


class _Generation(msgspec.Struct):
    steps: int = 128
    temperature: float = 1.0


class Stored(msgspec.Struct):
    """The keys that matter, in config.json and in the trainer's own config."""

    tokens: int
    graph: _Graph
    noise: _Noise
    model: _Model
    tokenizer: _Tokenizer | str | None = None
    generation: _Generation = msgspec.field(default_factory=_Generation)


def read(path: Path) -> ModelConfig:
    """Read and check a config.json. Raises CheckpointError, naming the key, its value or type and what is allowed."""
    return checked(path, lambda: small_file.decode(path, Stored))


def checked(path: Path, load: Callable[[], Stored]) -> ModelConfig:
    """The config of what `load` returns. Raises CheckpointError, naming the file, for whatever is wrong with it."""
    try:
        return _model_config(load())
    except CheckpointError:
        raise
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: {' '.join(str(error).split())}") from None


def _model_config(stored: Stored) -> ModelConfig:
    model = stored.model
    return ModelConfig(
        architecture="annotated" if model.type == "annotated" else "ddit",
        tokens=stored.tokens,
        width=model.hidden_size,
        blocks=model.n_blocks,
        heads=model.n_heads,
        cond_dim=model.cond_dim,
        length=model.length,
        graph="absorb" if stored.graph.type == "absorb" else "uniform",
        noise=_noise_config(stored.noise),
        scale_by_sigma=model.scale_by_sigma,
        characters=_characters(stored.tokenizer),
        generation=GenerationConfig(stored.generation.steps, stored.generation.temperature),
    )


def _noise_config(stored: _Noise) -> NoiseConfig:
    given = {"sigma_min": stored.sigma_min, "sigma_max": stored.sigma_max}
    return NoiseConfig(stored.type, **{name: value for name, value in given.items() if value is not None})


def _characters(stored: _Tokenizer | str | None) -> str | None:
    if not isinstance(stored, _Tokenizer) or stored.type != "characters":
        return None
    if stored.characters is None:
        raise ValueError("tokenizer.characters is missing, allowed: the model's characters, in order")
    return stored.characters


def document(config: ModelConfig) -> dict[str, Any]:
    """What `read` reads a config from."""
    found: dict[str, Any] = {
        "tokens": config.tokens,
        "graph": {"type": config.graph},
        "noise": {"type": config.noise.type, "sigma_min": config.noise.sigma_min, "sigma_max": config.noise.sigma_max},
        "model": {
            "type": config.architecture, "hidden_size": config.width, "cond_dim": config.cond_dim,
            "length": config.length, "n_blocks": config.blocks, "n_heads": config.heads,
            "scale_by_sigma": config.scale_by_sigma,
        },
        "generation": {"steps": config.generation.steps, "temperature": config.generation.temperature},
    }  # fmt: skip
    if config.characters is not None:
        found["tokenizer"] = {"type": "characters", "characters": config.characters}
    return found
