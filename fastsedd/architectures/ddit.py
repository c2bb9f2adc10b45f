"""SEDD: Lou et al.'s diffusion transformer, which predicts scores, under either graph (2024, arXiv:2310.16834)."""

from __future__ import annotations

from typing import Any

from fastsedd.architectures import documents, transformer
from fastsedd.architectures.base import Architecture, ModelConfig, Output, Widths


class DDiT(Architecture):
    """config.json has Lou et al.'s keys; a `model.type` that no other architecture claims is this one."""

    name = "ddit"
    network = "ddit"
    states = transformer.DDIT_STATES
    Document = documents.Stored
    ignored = frozenset({"rotary_emb.inv_freq"})  # a buffer that published files carry
    may_scale = True

    def recognises(self, model_type: str, inner_type: str) -> bool:
        return True

    def config(self, stored: documents.Stored) -> ModelConfig:
        graph = documents.stated_graph(stored)
        return documents.from_stored(self, stored, graph, scale_by_sigma=stored.model.scale_by_sigma)

    def document(self, config: ModelConfig) -> dict[str, Any]:
        return documents.document(config)

    def tensor_shapes(self, config: ModelConfig) -> dict[str, tuple[int, ...]]:
        return transformer.ddit(config)

    def widths(self, config: ModelConfig) -> Widths:
        return transformer.widths(config)

    def output(self, config: ModelConfig) -> Output:
        return "scaled score" if config.scale_by_sigma else "score"
