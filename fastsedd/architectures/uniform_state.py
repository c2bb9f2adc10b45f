"""UDLM and Duo: MDLM's transformer under the uniform graph, without a mask (arXiv:2412.10193, arXiv:2506.10892)."""

from __future__ import annotations

from fastsedd.architectures import documents, mdlm
from fastsedd.architectures.base import ModelConfig
from fastsedd.config import NoiseConfig


class Stored(mdlm.Stored, kw_only=True):
    """MDLM's keys, of which vocab_size counts every state, and what is refused."""

    time_conditioning: bool = True
    causal: bool = False  # Duo's: an autoregressive model of the same trainer
    cfg: bool = False  # UDLM's: the network reads a class label, for guidance


class _UniformState(mdlm.MDLM):
    """config.json has MDLM's keys; every row of the embedding is a token, whatever the tokenizer calls it."""

    Document = Stored
    ignored = mdlm.BUFFERS | {"limiting_distribution"}
    predictor = "analytic"
    clean_graph = "uniform"
    mask_in_tokenizer = False

    def recognises(self, model_type: str, inner_type: str) -> bool:
        return model_type.lower() == self.name

    def config(self, stored: mdlm.Stored) -> ModelConfig:
        for name in ("causal", "cfg"):
            if getattr(stored, name):
                raise ValueError(f"{name} is true, allowed for the {self.name} architecture: false")
        noise = NoiseConfig("loglinear") if stored.noise is None else documents.noise(stored.noise)
        return ModelConfig(
            family=self, tokens=stored.vocab_size, width=stored.hidden_dim, blocks=stored.n_blocks,
            heads=stored.n_heads, cond_dim=stored.cond_dim, length=stored.model_length, graph="uniform",
            noise=noise, time_conditioning=stored.time_conditioning, **documents.shared(stored),
        )  # fmt: skip


class UDLM(_UniformState):
    """Schiff et al. 2024; `model_type` is "udlm"."""

    name = "udlm"


class Duo(_UniformState):
    """Sahoo et al. 2025, distilled or not; `model_type` is "DUO" or "duo". It is always told the noise."""

    name = "duo"
    may_ignore_time = False
