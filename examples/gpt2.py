"""GPT-2 in NumPy and fastsedd_kernels, from what Hugging Face calls a folder of the model.

    python examples/gpt2.py FOLDER 464 3290 318        the ten likeliest next tokens, by number
    python examples/gpt2.py FOLDER --new 20 464 3290   and a greedy continuation

FOLDER holds config.json and model.safetensors, as `GPT2LMHeadModel.save_pretrained` writes them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import fastsedd_kernels as fk
import numpy as np
from safetensors.numpy import load_file

ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu", "silu": "silu"}


class GPT2:
    """Tokens to logits. Weights are packed once; dtype : "float32", "bfloat16" or "int8"."""

    def __init__(self, folder: Path, dtype: str = "float32") -> None:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        tensors = {name.removeprefix("transformer."): t for name, t in load_file(folder / "model.safetensors").items()}
        self.heads, self.eps = config["n_head"], config["layer_norm_epsilon"]
        self.activation = ACTIVATIONS[config["activation_function"]]
        self.tokens, self.positions = tensors["wte.weight"], tensors["wpe.weight"]
        self.blocks = [Block(tensors, f"h.{i}.", dtype) for i in range(config["n_layer"])]
        self.norm = tensors["ln_f.weight"], tensors["ln_f.bias"]
        self.head = fk.pack(self.tokens, dtype)  # the embedding's own table

    def __call__(self, tokens: np.ndarray) -> np.ndarray:
        """int [B, L] -> logits of the next token, float32 [B, L, V]."""
        x = fk.embedding(tokens, self.tokens, self.positions)
        for block in self.blocks:
            x = block(x, self.heads, self.eps, self.activation)
        return fk.linear(fk.layer_norm(x, *self.norm, eps=self.eps), self.head)


class Block:
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, tensors: dict[str, np.ndarray], prefix: str, dtype: str) -> None:
        def linear(name: str) -> tuple[fk.PackedWeight, np.ndarray]:
            # GPT-2 stores [inputs, outputs]; pack takes [outputs, inputs], of any strides.
            return fk.pack(tensors[f"{prefix}{name}.weight"].T, dtype), tensors[f"{prefix}{name}.bias"]

        def norm(name: str) -> tuple[np.ndarray, np.ndarray]:
            return tensors[f"{prefix}{name}.weight"], tensors[f"{prefix}{name}.bias"]

        self.norm_attention, self.norm_mlp = norm("ln_1"), norm("ln_2")
        self.qkv, self.projection = linear("attn.c_attn"), linear("attn.c_proj")
        self.up, self.down = linear("mlp.c_fc"), linear("mlp.c_proj")

    def __call__(self, x: np.ndarray, heads: int, eps: float, activation: str) -> np.ndarray:
        batch, length, width = x.shape
        qkv = fk.linear(fk.layer_norm(x, *self.norm_attention, eps=eps), *self.qkv)
        q, k, v = qkv.reshape(batch, length, 3, heads, -1).transpose(2, 0, 3, 1, 4)  # views: nothing is copied
        mixed = fk.aligned_empty((batch, length, heads, width // heads))
        fk.attention(q, k, v, causal=True, out=mixed.transpose(0, 2, 1, 3))
        x = fk.linear(mixed.reshape(x.shape), *self.projection, residual=x)
        hidden = fk.linear(fk.layer_norm(x, *self.norm_mlp, eps=eps), *self.up, activation=activation)
        return fk.linear(hidden, *self.down, residual=x)


def main() -> None:
    parser = argparse.ArgumentParser(description="GPT-2 in NumPy and fastsedd_kernels.")
    parser.add_argument("folder", type=Path, help="with config.json and model.safetensors")
    parser.add_argument("tokens", type=int, nargs="+", help="of the text, by number")
    parser.add_argument("--new", type=int, default=0, help="how many tokens to add, each the likeliest")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "int8"])
    options = parser.parse_args()
    model = GPT2(options.folder, options.dtype)
    tokens = list(options.tokens)
    for _ in range(options.new):
        tokens.append(int(model(np.array([tokens]))[0, -1].argmax()))
    print(*tokens)
    logits = model(np.array([tokens]))[0, -1]
    for token in logits.argsort()[:-11:-1]:
        print(f"{token:6}  {logits[token]:.3f}")


if __name__ == "__main__":
    main()
