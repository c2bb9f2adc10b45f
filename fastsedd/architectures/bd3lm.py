"""BD3-LM: MDLM's transformer under block-causal attention (Arriola et al. 2025, arXiv:2503.09573)."""

from __future__ import annotations

from typing import Any

from fastsedd.architectures import mdlm, transformer
from fastsedd.architectures.backbone import Backbone, Unmasking
from fastsedd.architectures.base import ModelConfig, Shapes, Widths
from fastsedd.architectures.masked_language import MaskedLanguageModel, Traits, backbone_of, width_of_heads
from fastsedd.config import MAX_LENGTH, MAX_STEPS, GenerationConfig, check_range

PREFIX = "backbone."
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"  # the names that the network's memory is told by

_NAMES = {EMBEDDING: f"{PREFIX}vocab_embed.embedding", HEAD: f"{PREFIX}output_layer.linear.weight"}
_PARTS = ("vocab_embed.", "sigma_map.", "rotary_emb.", "blocks.", "output_layer.")
_STARTS = {50258: 50256, 30522: 101, 28996: 101}  # GPT-2's <|endoftext|> and BERT's [CLS], by the vocabulary


class Stored(mdlm.Stored, kw_only=True):
    """MDLM's keys, and its own."""

    block_size: int
    cross_attn: bool = True
    adaln: bool = True
    causal: bool = False
    bos_token_id: int | None = None


class BD3LM(MaskedLanguageModel):
    """config.json has `model_type` "bd3lm". A text begins with a start token, and may be longer than the model."""

    network = "bd3lm"
    Document = Stored
    ignored = mdlm.BUFFERS
    mask_required = False
    ends_answers = False

    def __init__(self) -> None:
        super().__init__("bd3lm", Traits(), {part: f"{PREFIX}{part}" for part in _PARTS})

    def config(self, stored: Stored) -> ModelConfig:
        _check(stored)
        fields = mdlm.shared(stored)
        head_dim = width_of_heads("n_heads", stored.n_heads, "hidden_dim", stored.hidden_dim)
        start = _STARTS.get(stored.vocab_size) if stored.bos_token_id is None else stored.bos_token_id
        unmasking = Unmasking(
            max_new_tokens=max(1, stored.model_length - (start is not None)), block_length=stored.block_size,
            order="random", quota="single", of_draws=True, top_p=0.9, top_p_within=True,
        )  # fmt: skip
        backbone = Backbone(
            kv_heads=stored.n_heads, head_dim=head_dim, hidden=4 * stored.hidden_dim,
            eps=1e-5, theta=1e4, tied=False, modulated=stored.adaln, block=stored.block_size,
            context=stored.model_length, start=start, unmasking=unmasking,
        )  # fmt: skip
        steps = GenerationConfig(min(stored.model_length, MAX_STEPS), 1.0)
        return self.sized(
            backbone, cond_dim=stored.cond_dim, tokens=stored.vocab_size - 1, width=stored.hidden_dim,
            blocks=stored.n_blocks, heads=stored.n_heads, length=stored.model_length,
            **(fields | {"generation": steps}),
        )  # fmt: skip

    def document(self, config: ModelConfig) -> dict[str, Any]:
        backbone = backbone_of(config)
        return {
            "model_type": self.name, "vocab_size": config.vocab_size, "model_length": config.length,
            "block_size": backbone.block, "hidden_dim": config.width, "cond_dim": config.cond_dim,
            "n_blocks": config.blocks, "n_heads": config.heads, "adaln": backbone.modulated, "cross_attn": True,
            "causal": False, "time_conditioning": False, "bos_token_id": backbone.start,
        }  # fmt: skip

    def own_name(self, name: str) -> str:
        return _NAMES.get(name, name)

    def network_shapes(self, config: ModelConfig) -> Shapes:
        shapes = transformer.ddit(config, conditioned=backbone_of(config).modulated, norm_biases=False)
        names = {own: name for name, own in _NAMES.items()}
        return {names.get(f"{PREFIX}{name}", f"{PREFIX}{name}"): shape for name, shape in shapes.items()}

    def widths(self, config: ModelConfig) -> Widths:
        return transformer.widths(config, conditioned=False)


def _check(stored: Stored) -> None:
    """Raise ValueError, naming the key, for a model of the same code that no published one is."""
    check_range("model_length", stored.model_length, 1, MAX_LENGTH)
    if stored.block_size < 1 or stored.model_length % stored.block_size:
        raise ValueError(f"block_size is {stored.block_size}, allowed: divisors of model_length, {stored.model_length}")
    if not stored.cross_attn and stored.block_size != stored.model_length:
        raise ValueError(f"cross_attn is false, allowed: true, or one block of model_length, {stored.model_length}")
    for name in ("causal", "time_conditioning"):
        if getattr(stored, name):
            raise ValueError(f"{name} is true, allowed for the bd3lm architecture: false")
