"""config.json -> ModelConfig. The keys are Lou et al.'s own, which RADD has kept, or MDLM's; those that do not matter
here are tolerated."""

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


class _Mdlm(msgspec.Struct, tag_field="model_type", tag="mdlm"):
    vocab_size: int  # with the mask
    model_length: int
    hidden_dim: int
    cond_dim: int
    n_blocks: int
    n_heads: int
    time_conditioning: bool = False
    tokenizer: _Tokenizer | None = None
    generation: _Generation = msgspec.field(default_factory=_Generation)


class _Kind(msgspec.Struct):
    model_type: str = ""


_ARCHITECTURES: dict[str, Literal["annotated", "ddit", "radd"]] = {
    "annotated": "annotated", "ddit": "ddit", "radd": "radd", "ddit_wot": "radd",
}  # fmt: skip


def read(path: Path) -> ModelConfig:
    """Read and check a config.json. Raises CheckpointError, naming the key, its value or type and what is allowed."""
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise CheckpointError(f"{path}: has more than {MOST_BYTES} bytes, allowed: at most that")
        if msgspec.json.decode(data, type=_Kind).model_type == "mdlm":
            return _mdlm_config(msgspec.json.decode(data, type=_Mdlm))
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
    architecture = _ARCHITECTURES.get(model.type, _ARCHITECTURES["ddit"])
    return ModelConfig(
        architecture=architecture,
        tokens=stored.tokens,
        width=model.hidden_size,
        blocks=model.n_blocks,
        heads=model.n_heads,
        cond_dim=model.cond_dim,
        length=model.length,
        graph="absorb" if stored.graph.type == "absorb" else "uniform",
        noise=NoiseConfig(stored.noise.type, stored.noise.sigma_min, stored.noise.sigma_max),
        scale_by_sigma=model.scale_by_sigma and architecture != "radd",
        time_conditioning=architecture != "radd",
        characters=None if stored.tokenizer is None else stored.tokenizer.characters,
        generation=GenerationConfig(stored.generation.steps, stored.generation.temperature),
    )


def _mdlm_config(stored: _Mdlm) -> ModelConfig:
    return ModelConfig(
        architecture="mdlm",
        tokens=stored.vocab_size - 1,
        width=stored.hidden_dim,
        blocks=stored.n_blocks,
        heads=stored.n_heads,
        cond_dim=stored.cond_dim,
        length=stored.model_length,
        graph="absorb",
        noise=NoiseConfig("loglinear"),
        scale_by_sigma=False,
        time_conditioning=stored.time_conditioning,
        characters=None if stored.tokenizer is None else stored.tokenizer.characters,
        generation=GenerationConfig(stored.generation.steps, stored.generation.temperature),
    )
