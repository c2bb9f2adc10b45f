"""The article's character-level model: learned positions, attention twice per block (ash80, annotated diffusion)."""

from __future__ import annotations

from typing import Any

from fastsedd.architectures import documents, transformer
from fastsedd.architectures.base import Architecture, ModelConfig, Output, Shapes, Widths
from fastsedd.config import NoiseConfig


class Annotated(Architecture):
    """config.json has Lou et al.'s keys; a bare file of weights tells all sizes but the number of heads."""

    name = "annotated"
    network = "annotated"
    states = frozenset({"transformer.wte.weight", "lm_head.linear.weight", "lm_head.linear.bias"})
    Document = documents.Stored

    def recognises(self, model_type: str, inner_type: str) -> bool:
        return inner_type == "annotated"

    def config(self, stored: documents.Stored) -> ModelConfig:
        graph = documents.stated_graph(stored)
        return documents.from_stored(self, stored, graph, scale_by_sigma=stored.model.scale_by_sigma)

    def document(self, config: ModelConfig) -> dict[str, Any]:
        return documents.document(config)

    def tensor_shapes(self, config: ModelConfig) -> dict[str, tuple[int, ...]]:
        width = config.width
        found: dict[str, tuple[int, ...]] = {
            "transformer.wte.weight": (config.vocab_size, width),
            "transformer.wpe.weight": (config.length, width),
            **transformer.norm("transformer.ln_f", config),
        }
        for i in range(config.blocks):
            name = f"transformer.h.{i}"
            found |= {
                **transformer.norm(f"{name}.ln_1", config),
                f"{name}.attn.c_attn.weight": (3 * width, width),
                f"{name}.attn.c_proj.weight": (width, width),
                **transformer.norm(f"{name}.ln_2", config),
                f"{name}.mlp.c_fc.weight": (4 * width, width),
                f"{name}.mlp.c_proj.weight": (width, 4 * width),
                **transformer.adaln(name, config, transformer.CHUNKS),
            }
        found |= transformer.head("lm_head", config) | transformer.adaln("lm_head", config, transformer.HEAD_CHUNKS)
        return found | transformer.sigma_map(config)

    def widths(self, config: ModelConfig) -> Widths:
        return transformer.widths(config)

    def output(self, config: ModelConfig) -> Output:
        return "score"

    def from_shapes(self, shapes: Shapes, heads: int, noise: NoiseConfig | None = None) -> ModelConfig:
        """The config of a bare file, from its shapes and what these do not tell. Raises ValueError, naming a tensor."""
        tokens, width = _matrix(shapes, "transformer.wte.weight")
        length, _ = _matrix(shapes, "transformer.wpe.weight")
        cond_dim, _ = _matrix(shapes, "sigma_map.mlp.0.weight")
        blocks = len({name.split(".")[2] for name in shapes if name.startswith("transformer.h.")})
        return ModelConfig(
            family=self, tokens=tokens, width=width, blocks=blocks, heads=heads, cond_dim=cond_dim, length=length,
            graph="uniform", noise=noise or NoiseConfig("geometric"),
        )  # fmt: skip


def _matrix(shapes: Shapes, name: str) -> tuple[int, int]:
    shape = shapes.get(name)
    if shape is None or len(shape) != 2:
        problem = "is missing" if shape is None else f"has shape {list(shape)}"
        raise ValueError(f"{name} {problem}: without a config.json, the article's tensors are expected")
    return shape[0], shape[1]
