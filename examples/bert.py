"""BERT's encoder in NumPy and fastsedd_kernels, from what Hugging Face calls a folder of the model.

    python examples/bert.py FOLDER 101 7592 2088 102   the text's vector: the mean of its tokens' last hidden states

FOLDER holds config.json and model.safetensors, as `BertModel.save_pretrained` writes them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import fastsedd_kernels as fk
import numpy as np
from safetensors.numpy import load_file

ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "silu": "silu"}


class Bert:
    """Tokens to hidden states. Weights are packed once; dtype : "float32", "bfloat16" or "int8"."""

    def __init__(self, folder: Path, dtype: str = "float32") -> None:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        tensors = {name.removeprefix("bert."): t for name, t in load_file(folder / "model.safetensors").items()}
        self.heads, self.eps = config["num_attention_heads"], config["layer_norm_eps"]
        self.activation = ACTIVATIONS[config["hidden_act"]]
        self.tokens = tensors["embeddings.word_embeddings.weight"]
        # Every text here is a single segment, the first: its embedding is part of each position's.
        segment = tensors["embeddings.token_type_embeddings.weight"][0]
        self.positions = tensors["embeddings.position_embeddings.weight"] + segment
        self.norm = tensors["embeddings.LayerNorm.weight"], tensors["embeddings.LayerNorm.bias"]
        self.layers = [Layer(tensors, f"encoder.layer.{i}.", dtype) for i in range(config["num_hidden_layers"])]

    def __call__(self, tokens: np.ndarray) -> np.ndarray:
        """int [B, L] -> float32 [B, L, N]."""
        x = fk.embedding(tokens, self.tokens, self.positions)
        fk.layer_norm(x, *self.norm, eps=self.eps, out=x)
        for layer in self.layers:
            x = layer(x, self.heads, self.eps, self.activation)
        return x


class Layer:
    """norm(x + attention(x)), then norm(x + mlp(x))."""

    def __init__(self, tensors: dict[str, np.ndarray], prefix: str, dtype: str) -> None:
        def linear(*names: str) -> tuple[fk.PackedWeight, np.ndarray]:
            weights, biases = ([tensors[f"{prefix}{name}.{part}"] for name in names] for part in ("weight", "bias"))
            return fk.pack(np.concatenate(weights), dtype), np.concatenate(biases)

        def norm(name: str) -> tuple[np.ndarray, np.ndarray]:
            return tensors[f"{prefix}{name}.weight"], tensors[f"{prefix}{name}.bias"]

        self.qkv = linear(*(f"attention.self.{name}" for name in ("query", "key", "value")))  # one product for three
        self.projection = linear("attention.output.dense")
        self.up, self.down = linear("intermediate.dense"), linear("output.dense")
        self.norm_attention, self.norm_mlp = norm("attention.output.LayerNorm"), norm("output.LayerNorm")

    def __call__(self, x: np.ndarray, heads: int, eps: float, activation: str) -> np.ndarray:
        batch, length, width = x.shape
        qkv = fk.linear(x, *self.qkv)
        q, k, v = qkv.reshape(batch, length, 3, heads, -1).transpose(2, 0, 3, 1, 4)  # views: nothing is copied
        mixed = fk.aligned_empty((batch, length, heads, width // heads))
        fk.attention(q, k, v, out=mixed.transpose(0, 2, 1, 3))
        x = fk.linear(mixed.reshape(x.shape), *self.projection, residual=x)
        fk.layer_norm(x, *self.norm_attention, eps=eps, out=x)
        hidden = fk.linear(x, *self.up, activation=activation)
        fk.linear(hidden, *self.down, residual=x, out=x)
        return fk.layer_norm(x, *self.norm_mlp, eps=eps, out=x)


def main() -> None:
    parser = argparse.ArgumentParser(description="BERT's encoder in NumPy and fastsedd_kernels.")
    parser.add_argument("folder", type=Path, help="with config.json and model.safetensors")
    parser.add_argument("tokens", type=int, nargs="+", help="of the text, by number")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "int8"])
    options = parser.parse_args()
    states = Bert(options.folder, options.dtype)(np.array([options.tokens]))
    print(*(f"{value:.5f}" for value in states[0].mean(axis=0)))


if __name__ == "__main__":
    main()
