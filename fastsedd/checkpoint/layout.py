"""Which tensors an architecture has, and of what shapes: what a file must hold, exactly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fastsedd.config import FREQUENCIES, ModelConfig, NoiseConfig
from fastsedd.errors import CheckpointError

Shapes = Mapping[str, tuple[int, ...]]

IGNORED = frozenset({"rotary_emb.inv_freq", "backbone.rotary_emb.inv_freq"})  # a buffer that published files carry


def shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor of a model: name -> shape."""
    found = _annotated(config) if config.architecture == "annotated" else _ddit(config)
    if config.modulations:
        found |= {
            "sigma_map.mlp.0.weight": (config.cond_dim, FREQUENCIES),
            "sigma_map.mlp.0.bias": (config.cond_dim,),
            "sigma_map.mlp.2.weight": (config.cond_dim, config.cond_dim),
            "sigma_map.mlp.2.bias": (config.cond_dim,),
        }
    return {f"{config.tensor_prefix}{name}": shape for name, shape in found.items()}


def _annotated(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    width = config.width
    found: dict[str, tuple[int, ...]] = {
        "transformer.wte.weight": (config.vocab_size, width),
        "transformer.wpe.weight": (config.length, width),
        "transformer.ln_f.weight": (width,),
    }
    for i in range(config.blocks):
        name = f"transformer.h.{i}"
        found |= {
            f"{name}.ln_1.weight": (width,),
            f"{name}.attn.c_attn.weight": (3 * width, width),
            f"{name}.attn.c_proj.weight": (width, width),
            f"{name}.ln_2.weight": (width,),
            f"{name}.mlp.c_fc.weight": (4 * width, width),
            f"{name}.mlp.c_proj.weight": (width, 4 * width),
            **_modulation(f"{name}.adaLN_modulation", config, 6),
        }
    return found | _head("lm_head", config)


def _ddit(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    width = config.width
    found: dict[str, tuple[int, ...]] = {"vocab_embed.embedding": (config.vocab_size, width)}
    for i in range(config.blocks):
        name = f"blocks.{i}"
        found |= {
            **_norm(f"{name}.norm1", config),
            f"{name}.attn_qkv.weight": (3 * width, width),
            f"{name}.attn_out.weight": (width, width),
            **_norm(f"{name}.norm2", config),
            f"{name}.mlp.0.weight": (4 * width, width),
            f"{name}.mlp.0.bias": (4 * width,),
            f"{name}.mlp.2.weight": (width, 4 * width),
            f"{name}.mlp.2.bias": (width,),
            **_modulation(f"{name}.adaLN_modulation", config, 6),
        }
    return found | _head("output_layer", config)


def _head(name: str, config: ModelConfig) -> dict[str, tuple[int, ...]]:
    return {
        **_norm(f"{name}.norm_final", config),
        f"{name}.linear.weight": (config.vocab_size, config.width),
        f"{name}.linear.bias": (config.vocab_size,),
        **_modulation(f"{name}.adaLN_modulation", config, 2),
    }


def _norm(name: str, config: ModelConfig) -> dict[str, tuple[int, ...]]:
    parts = ("weight", "bias") if config.architecture == "radd" else ("weight",)
    return {f"{name}.{part}": (config.width,) for part in parts}


def _modulation(name: str, config: ModelConfig, chunks: int) -> dict[str, tuple[int, ...]]:
    rows = chunks * config.width
    return {f"{name}.weight": (rows, config.cond_dim), f"{name}.bias": (rows,)} if config.modulations else {}


def check(path: Path, config: ModelConfig, found: Shapes) -> None:
    """Raise CheckpointError, naming the tensor, unless a file holds exactly the tensors of its model."""
    expected = shapes(config)
    for name, shape in expected.items():
        if name not in found:
            raise CheckpointError(f"{path}: {name} is missing, expected with shape {list(shape)}")
        if found[name] != shape:
            raise CheckpointError(f"{path}: {name} has shape {list(found[name])}, expected {list(shape)}")
    extra = sorted(found.keys() - expected.keys() - IGNORED)
    if extra:
        more = f" and {len(extra) - 1} more" if len(extra) > 1 else ""
        raise CheckpointError(f"{path}: {extra[0]!r}{more}: not expected in the {config.architecture} architecture")


def infer_annotated(path: Path, found: Shapes, heads: int) -> ModelConfig:
    """The config of the article's bare file, whose every size but the heads' follows from its shapes."""
    tokens, width = _matrix(path, found, "transformer.wte.weight")
    length, _ = _matrix(path, found, "transformer.wpe.weight")
    cond_dim, _ = _matrix(path, found, "sigma_map.mlp.0.weight")
    blocks = len({name.split(".")[2] for name in found if name.startswith("transformer.h.")})
    try:
        return ModelConfig(
            "annotated", tokens, width, blocks, heads, cond_dim, length,
            graph="uniform", noise=NoiseConfig("geometric"), scale_by_sigma=False,
        )  # fmt: skip
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _matrix(path: Path, found: Shapes, name: str) -> tuple[int, int]:
    shape = found.get(name)
    if shape is None or len(shape) != 2:
        problem = "is missing" if shape is None else f"has shape {list(shape)}"
        raise CheckpointError(f"{path}: {name} {problem}: without a config.json, the article's tensors are expected")
    return shape[0], shape[1]
