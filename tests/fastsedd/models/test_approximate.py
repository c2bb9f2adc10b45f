"""Fast-dLLM's caches of full attention against the algorithm in float64: what is kept, from when on, and what of it."""

from __future__ import annotations

import math

import masked_models
import numpy as np
import pytest
from fastsedd_kernels.norm.reference import rms_norm

import fastsedd
from fastsedd import models
from fastsedd.architectures.masked_language import backbone_of
from fastsedd.models.backbone import reference
from fastsedd.models.backbone.approximate import ApproximateSession
from fastsedd.models.reference_layers import linear

LENGTH = 29
CACHES = ("approximate", "approximate-dual")


def forward(config, tensors, tokens: np.ndarray, rows: np.ndarray, kept: list | None) -> tuple[np.ndarray, list]:
    """Logits [n, V] of some positions of a text, and the keys and values of all, by layer.

    kept : keys and values of all positions as an earlier pass had them, of which those at `rows` are computed anew
    """
    backbone = backbone_of(config)
    x = tensors["model.embed_tokens.weight"][tokens[rows]].astype(np.float64)
    found = []
    for i in range(config.blocks):
        name = f"model.layers.{i}"
        y = rms_norm(x, tensors[f"{name}.input_layernorm.weight"], backbone.eps)
        whole = {}
        for part in "qkv":
            projected = linear(tensors, f"{name}.self_attn.{part}_proj", y).reshape(len(rows), -1, backbone.head_dim)
            at = np.zeros((1, projected.shape[1], len(tokens), backbone.head_dim))
            at[0][:, rows] = projected.swapaxes(0, 1)
            norm = tensors.get(f"{name}.self_attn.{part}_norm.weight")
            whole[part] = (at if part == "v" else reference._rotated(config, at, norm))[0]
        keys, values = (whole[part] if kept is None else kept[i][j].copy() for j, part in enumerate("kv"))
        keys[:, rows], values[:, rows] = whole["k"][:, rows], whole["v"][:, rows]
        found.append((keys, values))
        k, v = (np.repeat(each, config.heads // backbone.kv_heads, axis=0) for each in (keys, values))
        weights = whole["q"][:, rows] @ k.swapaxes(1, 2) / math.sqrt(backbone.head_dim)
        weights = np.exp(weights - weights.max(axis=-1, keepdims=True))
        attended = (weights / weights.sum(axis=-1, keepdims=True)) @ v
        x = x + linear(tensors, f"{name}.self_attn.o_proj", attended.swapaxes(0, 1).reshape(len(rows), -1))
        y = rms_norm(x, tensors[f"{name}.post_attention_layernorm.weight"], backbone.eps)
        gate, up = linear(tensors, f"{name}.mlp.gate_proj", y, "silu"), linear(tensors, f"{name}.mlp.up_proj", y)
        x = x + linear(tensors, f"{name}.mlp.down_proj", gate * up)
    y = rms_norm(x, tensors["model.norm.weight"], backbone.eps)
    return linear(tensors, "model.embed_tokens", y), found


@pytest.mark.parametrize("dual", [False, True])
@pytest.mark.parametrize("family", ["a2d-qwen3", "Dream"])
def test_steps_are_those_of_the_algorithm(family: str, dual: bool) -> None:
    """Two texts, two blocks of three steps, with and without the shift; the first step of each is exact."""
    config = masked_models.config(family, tie_word_embeddings=True)
    tensors = masked_models.tensors(config)
    shift = backbone_of(config).shift
    session = ApproximateSession(models.build(config, tensors), 2, LENGTH, dual=dual, shift=shift)
    rng = np.random.default_rng(5)
    tokens = rng.integers(0, 250, (2, LENGTH)).astype(np.int32)
    tokens[:, 13:] = 259
    for first, last in ((13, 18), (18, 24)):
        kept: list = [None, None]
        logits = np.zeros((2, LENGTH, 300))
        for step in range(3):
            rows = np.arange(first, last if dual else LENGTH) if step else np.arange(LENGTH)
            for text in range(2):
                logits[text, rows], found = forward(config, tensors, tokens[text], rows, kept[text])
                kept[text] = found if step == 0 else kept[text]
            asked = np.arange(first, last)
            session.run(tokens, first, last)
            found_here = session.logits(np.concatenate([asked, LENGTH + asked])).reshape(2, last - first, 300)
            expected = logits[:, asked - 1 if shift else asked]
            assert (np.abs(found_here - expected) <= 1e-4 * (1 + np.abs(expected))).all()
            whole = reference.logits(config, tensors, tokens)[:, asked - 1 if shift else asked]
            assert (np.abs(found_here - whole).max() > 1e-3) == (step > 0)
            tokens[:, first + step] = rng.integers(0, 250, 2)
        tokens[:, first:last] = rng.integers(0, 250, (2, last - first))


@pytest.mark.parametrize("cache", CACHES)
def test_texts_depend_on_neither_batches_nor_threads(tmp_path, one_thread, cache: str) -> None:
    pytest.importorskip("tokenizers", reason="an extra")
    model = fastsedd.load(masked_models.write(tmp_path, "a2d-qwen3", eos_token_id=None))
    options = {"prompt": "abc" * 5, "max_new_tokens": 21, "block_length": 8, "seed": 3, "temperature": 1.0}
    texts = model.generate(**options, num_samples=3, cache=cache).tokens
    np.testing.assert_array_equal(model.generate(**options, num_samples=3, batch_size=1, cache=cache).tokens, texts)
    with one_thread():
        np.testing.assert_array_equal(model.generate(**options, num_samples=3, cache=cache).tokens, texts)
    assert (model.generate(**options, num_samples=3).tokens != texts).any()
    at_once = {**options, "block_length": 21, "steps": 1}  # whose one step is exact
    exact = model.generate(**at_once).tokens
    np.testing.assert_array_equal(model.generate(**at_once, cache=cache).tokens, exact)


@pytest.mark.parametrize("cache", CACHES)
def test_blocks_have_an_exact_cache(tmp_path, cache: str) -> None:
    pytest.importorskip("tokenizers", reason="an extra")
    model = fastsedd.load(masked_models.write(tmp_path, "sdar"))
    with pytest.raises(ValueError, match=f"cache is '{cache}', allowed under block-causal attention: 'exact', 'off'"):
        model.generate(prompt="a", cache=cache)
