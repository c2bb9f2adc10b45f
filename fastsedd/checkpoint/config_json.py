"""config.json -> ModelConfig. The keys are Lou et al.'s own, which RADD has kept, or MDLM's; those that do not matter
here are tolerated."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import msgspec

from fastsedd.checkpoint import mask, small_file
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


class _Masked(msgspec.Struct):
    """The keys that configs state the mask under; here it is the last state."""

    mask_token_id: int | None = None
    mask_index: int | None = None
    mask_id: int | None = None


class Stored(_Masked, kw_only=True):
    """The keys that matter, in config.json and in the trainer's own config."""

    tokens: int
    noise: _Noise
    model: _Model
    graph: _Graph | None = None  # which RADD's does not state
    tokenizer: _Tokenizer | str | None = None
    generation: _Generation = msgspec.field(default_factory=_Generation)


class _Mdlm(_Masked, tag_field="model_type", tag="mdlm", kw_only=True):
    vocab_size: int  # with the mask
    model_length: int
    hidden_dim: int
    cond_dim: int
    n_blocks: int
    n_heads: int
    time_conditioning: bool = False
    tokenizer: _Tokenizer | str | None = None
    tokenizer_name_or_path: str | None = None
    generation: _Generation = msgspec.field(default_factory=_Generation)


class _Kind(msgspec.Struct):
    model_type: str = ""


_BERT = re.compile(r"(?:.*/)?(?:distil)?bert-(?:base|large)-", re.IGNORECASE)

_ARCHITECTURES: dict[str, Literal["annotated", "ddit", "radd"]] = {
    "annotated": "annotated", "ddit": "ddit", "radd": "radd", "ddit_wot": "radd",
}  # fmt: skip


def read(path: Path) -> ModelConfig:
    """Read and check a config.json. Raises CheckpointError, naming the key, its value or type and what is allowed."""
    if small_file.decode(path, _Kind).model_type == "mdlm":
        return checked(path, lambda: _mdlm_config(small_file.decode(path, _Mdlm)))
    return checked(path, lambda: model_config(small_file.decode(path, Stored)))


def from_document(path: Path, document: Any) -> ModelConfig:
    """The config that a decoded document states, as `read` reads one from a file."""
    if document.get("model_type") == "mdlm":
        return checked(path, lambda: _mdlm_config(msgspec.convert(document, _Mdlm)))
    return checked(path, lambda: model_config(msgspec.convert(document, Stored)))


def checked(path: Path, load: Callable[[], ModelConfig]) -> ModelConfig:
    """The config that `load` returns. Raises CheckpointError, naming the file, for whatever is wrong with it."""
    try:
        return load()
    except CheckpointError:
        raise
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: {' '.join(str(error).split())}") from None


def model_config(stored: Stored) -> ModelConfig:
    """Raises ValueError, naming the field, for what no model can be."""
    model = stored.model
    architecture = _ARCHITECTURES.get(model.type, _ARCHITECTURES["ddit"])
    config = ModelConfig(
        architecture=architecture,
        tokens=stored.tokens,
        width=model.hidden_size,
        blocks=model.n_blocks,
        heads=model.n_heads,
        cond_dim=model.cond_dim,
        length=model.length,
        graph=_graph(stored.graph, architecture),
        noise=_noise_config(stored.noise),
        scale_by_sigma=model.scale_by_sigma and architecture != "radd",
        time_conditioning=architecture != "radd",
        characters=_characters(stored.tokenizer),
        generation=GenerationConfig(stored.generation.steps, stored.generation.temperature),
    )
    _check_mask(stored, config)
    return config


def _graph(stored: _Graph | None, architecture: str) -> Literal["absorb", "uniform"]:
    if stored is None and architecture != "radd":
        raise ValueError("Object missing required field `graph`, allowed: absorb, uniform")
    return "absorb" if stored is None or stored.type == "absorb" else "uniform"


def _mdlm_config(stored: _Mdlm) -> ModelConfig:
    config = ModelConfig(
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
        characters=_characters(stored.tokenizer),
        generation=GenerationConfig(stored.generation.steps, stored.generation.temperature),
    )
    _check_mask(stored, config)
    for name in (stored.tokenizer, stored.tokenizer_name_or_path):
        if isinstance(name, str) and _BERT.match(name) and config.mask_token != mask.BERT_MASK:
            raise ValueError(f"tokenizer is {name!r}, whose mask is {mask.BERT_MASK}, allowed: one without a mask")
    return config


def _check_mask(stored: _Masked, config: ModelConfig) -> None:
    for key in _Masked.__struct_fields__:
        value = getattr(stored, key)
        if value is not None and value != config.mask_token:
            allowed = "none" if config.mask_token is None else f"{config.mask_token}, the last of {config.vocab_size}"
            raise ValueError(f"{key} is {value}, allowed: {allowed}")


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
    found = _mdlm_document(config) if config.architecture == "mdlm" else _document(config)
    found["generation"] = {"steps": config.generation.steps, "temperature": config.generation.temperature}
    if config.characters is not None:
        found["tokenizer"] = {"type": "characters", "characters": config.characters}
    return found


def _document(config: ModelConfig) -> dict[str, Any]:
    return {
        "tokens": config.tokens,
        "graph": {"type": config.graph},
        "noise": {"type": config.noise.type, "sigma_min": config.noise.sigma_min, "sigma_max": config.noise.sigma_max},
        "model": {
            "type": config.architecture, "hidden_size": config.width, "cond_dim": config.cond_dim,
            "length": config.length, "n_blocks": config.blocks, "n_heads": config.heads,
            "scale_by_sigma": config.scale_by_sigma,
        },
    }  # fmt: skip


def _mdlm_document(config: ModelConfig) -> dict[str, Any]:
    return {
        "model_type": "mdlm", "vocab_size": config.vocab_size, "model_length": config.length,
        "hidden_dim": config.width, "cond_dim": config.cond_dim, "n_blocks": config.blocks, "n_heads": config.heads,
        "time_conditioning": config.time_conditioning,
    }  # fmt: skip
