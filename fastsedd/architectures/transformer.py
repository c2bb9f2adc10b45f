"""Tensors of the diffusion transformers, in parts that several architectures have, and their scratch memory."""

from __future__ import annotations

from fastsedd.architectures.base import ModelConfig, Widths
from fastsedd.config import FREQUENCIES

CHUNKS = 6  # of a block's adaLN: shift, scale and gate of attention, then of the MLP
HEAD_CHUNKS = 2  # of the head's: shift and scale

DDIT_STATES = frozenset({"vocab_embed.embedding", "output_layer.linear.weight", "output_layer.linear.bias"})

Shapes = dict[str, tuple[int, ...]]


def widths(config: ModelConfig, *, conditioned: bool = True) -> Widths:
    """Scratch memory; conditioned : whether there are adaLN layers"""
    chunks = CHUNKS * config.blocks + HEAD_CHUNKS if conditioned else 0
    return Widths(config.width, 3 * config.width, 4 * config.width, chunks * config.width)


def sigma_map(config: ModelConfig) -> Shapes:
    """The noise embedding: sinusoids, then an MLP."""
    return {
        "sigma_map.mlp.0.weight": (config.cond_dim, FREQUENCIES),
        "sigma_map.mlp.0.bias": (config.cond_dim,),
        "sigma_map.mlp.2.weight": (config.cond_dim, config.cond_dim),
        "sigma_map.mlp.2.bias": (config.cond_dim,),
    }


def adaln(name: str, config: ModelConfig, chunks: int) -> Shapes:
    """An adaLN layer: from the noise embedding to that many shifts, scales and gates."""
    rows = chunks * config.width
    return {
        f"{name}.adaLN_modulation.weight": (rows, config.cond_dim),
        f"{name}.adaLN_modulation.bias": (rows,),
    }


def norm(name: str, config: ModelConfig, *, bias: bool = False) -> Shapes:
    """A layer norm."""
    return {f"{name}.{part}": (config.width,) for part in (("weight", "bias") if bias else ("weight",))}


def head(name: str, config: ModelConfig, *, bias: bool = False) -> Shapes:
    """The last norm and the linear layer to the vocabulary; bias : of the norm"""
    return {
        **norm(f"{name}.norm_final", config, bias=bias),
        f"{name}.linear.weight": (config.vocab_size, config.width),
        f"{name}.linear.bias": (config.vocab_size,),
    }


def is_conditioning(name: str) -> bool:
    """True for tensors of the noise embedding and of adaLN layers."""
    return "sigma_map." in name or ".adaLN_modulation." in name


def ddit(config: ModelConfig, *, conditioned: bool = True, norm_biases: bool | None = None) -> Shapes:
    """Lou et al.'s transformer; unconditioned, it has neither noise embedding nor adaLN.

    norm_biases : whether norms have biases; None: where it is unconditioned, as RADD's have
    """
    width, bias = config.width, not conditioned if norm_biases is None else norm_biases
    found: Shapes = {"vocab_embed.embedding": (config.vocab_size, width)}
    for i in range(config.blocks):
        name = f"blocks.{i}"
        found |= {
            **norm(f"{name}.norm1", config, bias=bias),
            f"{name}.attn_qkv.weight": (3 * width, width),
            f"{name}.attn_out.weight": (width, width),
            **norm(f"{name}.norm2", config, bias=bias),
            f"{name}.mlp.0.weight": (4 * width, width),
            f"{name}.mlp.0.bias": (4 * width,),
            f"{name}.mlp.2.weight": (width, 4 * width),
            f"{name}.mlp.2.bias": (width,),
            **(adaln(name, config, CHUNKS) if conditioned else {}),
        }
    found |= head("output_layer", config, bias=bias)
    return found | adaln("output_layer", config, HEAD_CHUNKS) | sigma_map(config) if conditioned else found
