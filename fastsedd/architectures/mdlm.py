"""MDLM: Lou et al.'s transformer, predicting the clean token (Sahoo et al. 2024, arXiv:2406.07524)."""

from __future__ import annotations

import re
from typing import Any, Literal

from fastsedd.architectures import documents, transformer
from fastsedd.architectures.base import Architecture, ModelConfig, Output, Widths
from fastsedd.config import NoiseConfig

BERT_MASK = 103

BUFFERS = frozenset({"backbone.rotary_emb.inv_freq", "sampling_eps_min", "sampling_eps_max"})  # the latter: trainers'

_BERT = re.compile(r"(?:.*/)?(?:distil)?bert-(?:base|large)-", re.IGNORECASE)


class Stored(documents.Shared, kw_only=True):
    """MDLM's own keys."""

    vocab_size: int  # with the mask
    model_length: int
    hidden_dim: int
    cond_dim: int
    n_blocks: int
    n_heads: int
    time_conditioning: bool = False
    tokenizer_name_or_path: str | None = None
    noise: documents.NoiseKeys | None = None  # of models whose trainer states one


class MDLM(Architecture):
    """config.json has `model_type` "mdlm" and keys of its own; tensors stand under `backbone.`."""

    name = "mdlm"
    network = "ddit"
    states = frozenset(f"backbone.{name}" for name in transformer.DDIT_STATES)
    Document = Stored
    predictor: Literal["analytic", "ddpm"] = "ddpm"
    ignored = BUFFERS
    mask_in_tokenizer = True
    may_ignore_time = True

    def recognises(self, model_type: str, inner_type: str) -> bool:
        return model_type == "mdlm"

    def config(self, stored: Stored) -> ModelConfig:
        noise = NoiseConfig("loglinear") if stored.noise is None else documents.noise(stored.noise)
        return ModelConfig(
            family=self, tokens=stored.vocab_size - 1, width=stored.hidden_dim, blocks=stored.n_blocks,
            heads=stored.n_heads, cond_dim=stored.cond_dim, length=stored.model_length, graph="absorb",
            noise=noise, time_conditioning=stored.time_conditioning, **shared(stored),
        )  # fmt: skip

    def document(self, config: ModelConfig) -> dict[str, Any]:
        stated = {} if config.noise.type == "loglinear" else {"noise": documents.noise_document(config.noise)}
        return stated | {
            "model_type": self.name, "vocab_size": config.vocab_size, "model_length": config.length,
            "hidden_dim": config.width, "cond_dim": config.cond_dim, "n_blocks": config.blocks,
            "n_heads": config.heads, "time_conditioning": config.time_conditioning,
        }  # fmt: skip

    def tensor_shapes(self, config: ModelConfig) -> dict[str, tuple[int, ...]]:
        return {f"backbone.{name}": shape for name, shape in transformer.ddit(config).items()}

    def widths(self, config: ModelConfig) -> Widths:
        return transformer.widths(config)

    def output(self, config: ModelConfig) -> Output:
        return "clean token"


def shared(stored: Stored) -> dict[str, Any]:
    """`documents.shared`, with the mask of BERT's tokenizer where that is named and no mask is."""
    fields = documents.shared(stored)
    names = (stored.tokenizer, stored.tokenizer_name_or_path)
    if fields["mask"] is None and any(isinstance(name, str) and _BERT.match(name) for name in names):
        fields["mask"] = BERT_MASK
    return fields
