"""config.json -> ModelConfig. The keys are Lou et al.'s own; those that do not matter here are tolerated."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from fastsedd.config import GenerationConfig, ModelConfig, NoiseConfig
from fastsedd.errors import CheckpointError

MOST_BYTES = 1 << 24


class _Graph(msgspec.Struct):
    type: Literal["absorb", "uniform", "simplex"]  # simplex: another's name for uniform


class _Noise(msgspec.Struct):
    type: Literal["geometric", "loglinear"]
    sigma_min: float = 1e-4
    sigma_max: float = 20.0


class _Model(msgspec.Struct):
    hidden_size: int
    cond_dim: int
    length: int
    n_blocks: int
    n_heads: int
    type: str = "ddit"
    scale_by_sigma: bool = False


class _Tokenizer(msgspec.Struct):
    type: Literal["characters"]
    characters: str


class _Generation(msgspec.Struct):
    steps: int = 128
    temperature: float = 1.0


class _Config(msgspec.Struct):
    tokens: int
    graph: _Graph
    noise: _Noise
    model: _Model
    tokenizer: _Tokenizer | None = None
    generation: _Generation = msgspec.field(default_factory=_Generation)


def read(path: Path) -> ModelConfig:
    """Read and check a config.json. Raises CheckpointError, naming the key, its value or type and what is allowed."""
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise CheckpointError(f"{path}: has more than {MOST_BYTES} bytes, allowed: at most that")
        return _model_config(msgspec.json.decode(data, type=_Config))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: {' '.join(str(error).split())}") from None
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _model_config(stored: _Config) -> ModelConfig:
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
        noise=NoiseConfig(stored.noise.type, stored.noise.sigma_min, stored.noise.sigma_max),
        scale_by_sigma=model.scale_by_sigma,
        characters=None if stored.tokenizer is None else stored.tokenizer.characters,
        generation=GenerationConfig(stored.generation.steps, stored.generation.temperature),
    )
