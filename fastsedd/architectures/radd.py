"""RADD: the same transformer without the noise, which predicts the clean token (Ou et al. 2024, arXiv:2406.03736)."""

from __future__ import annotations

from typing import Any

from fastsedd.architectures import documents, transformer
from fastsedd.architectures.base import Architecture, ModelConfig, Output, Widths


class RADD(Architecture):
    """config.json has Lou et al.'s keys, of which `graph` may be missing and `cond_dim` is unused."""

    name = "radd"
    network = "ddit"
    states = transformer.DDIT_STATES
    Document = documents.Stored
    ignored = frozenset({"rotary_emb.inv_freq"})
    may_ignore_time = True

    def recognises(self, model_type: str, inner_type: str) -> bool:
        return inner_type in ("radd", "ddit_wot")

    def config(self, stored: documents.Stored) -> ModelConfig:
        graph = "absorb" if stored.graph is None else documents.stated_graph(stored)
        return documents.from_stored(self, stored, graph, time_conditioning=False)

    def document(self, config: ModelConfig) -> dict[str, Any]:
        return documents.document(config)

    def tensor_shapes(self, config: ModelConfig) -> dict[str, tuple[int, ...]]:
        return transformer.ddit(config, conditioned=False)

    def widths(self, config: ModelConfig) -> Widths:
        return transformer.widths(config, conditioned=False)

    def output(self, config: ModelConfig) -> Output:
        return "clean token"
