"""SMDM: fused projections against transformers' Llama, configs from shapes, texts by its authors' loop."""

from __future__ import annotations

from pathlib import Path

import masked_models
import numpy as np
import pytest
from fastsedd_kernels import uniform
from safetensors.numpy import load_file, save_file

import fastsedd
from fastsedd import CheckpointError, checkpoint
from fastsedd.architectures.smdm import SMDM, Stored
from fastsedd.checkpoint import config_json
from fastsedd.diffusion.sampler import FREE, Batch
from fastsedd.models.backbone import reference

NEW = 10
LLAMA = {
    "transformer.wte.": "model.embed_tokens.", "transformer.ln_f.": "model.norm.", "transformer.h.": "model.layers.",
    ".norm_1.": ".input_layernorm.", ".norm_2.": ".post_attention_layernorm.", ".attn.proj.": ".self_attn.o_proj.",
    ".mlp.swiglu.w1.": ".mlp.gate_proj.", ".mlp.swiglu.w2.": ".mlp.up_proj.", ".mlp.swiglu.w3.": ".mlp.down_proj.",
}  # fmt: skip


def as_llama(tensors: dict[str, np.ndarray], groups: int, dim: int) -> dict[str, np.ndarray]:
    """Llama's tensors: q, k and v as `qkv.view(..., groups, q_per_kv + 2, head_size)` of lit_gpt splits them."""
    found = {}
    for name, tensor in tensors.items():
        if name.endswith(".attn.attn.weight"):
            q, k, v = np.split(tensor.reshape(groups, -1, dim, tensor.shape[1]), [-2, -1], axis=1)
            layer = name.replace("transformer.h.", "model.layers.").removesuffix(".attn.attn.weight")
            for part, rows in (("q", q), ("k", k), ("v", v)):
                found[f"{layer}.self_attn.{part}_proj.weight"] = rows.reshape(-1, tensor.shape[1])
            continue
        for own, other in LLAMA.items():
            name = name.replace(own, other)
        found[name] = tensor
    found["lm_head.weight"] = np.pad(found["lm_head.weight"], ((0, 1), (0, 0)))
    return found


@pytest.mark.parametrize("groups", [4, 2, 1])
def test_logits_are_those_of_transformers(groups: int) -> None:
    transformers = pytest.importorskip("transformers", reason="another engine, optional")
    torch = pytest.importorskip("torch")
    config = masked_models.config("smdm", n_query_groups=groups)
    tensors = masked_models.tensors(config)
    settings = transformers.LlamaConfig(
        vocab_size=260, hidden_size=48, intermediate_size=56, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=groups, rms_norm_eps=1e-5, attn_implementation="eager",
        rope_parameters={"rope_theta": 10000.0, "rope_type": "default"},
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(settings).eval()
    model.load_state_dict({name: torch.tensor(each) for name, each in as_llama(tensors, groups, 12).items()})
    tokens = np.random.default_rng(1).integers(0, 260, (2, 19)).astype(np.int32)
    masked_models.assert_logits(config, masked_models.full_logits(model, tokens), tokens, reference)


def written(model: fastsedd.Model, prompt: list[int], alg: str, steps: int, chances: np.ndarray) -> list[int]:
    """`diff_sample` of the authors at temperature 0, without guidance; chances : numbers of steps and positions"""
    mask, tensors = model.config.mask_id, masked_models.tensors(model.config)
    text = np.array(prompt + [mask] * NEW)
    times = np.linspace(1, 1e-5, steps + 1)
    for i in range(steps):
        masked = np.flatnonzero(text == mask)
        logits = reference.logits(model.config, tensors, text[None])[0][masked, :mask]
        share = 1 - times[i + 1] / times[i] if i < steps - 1 else 1
        best = logits.argmax(axis=-1)
        if alg == "origin":
            taken = np.flatnonzero(chances[i][masked] < share)
        else:
            p = np.exp(logits - logits.max(axis=-1, keepdims=True))
            taken = np.argsort(-(p / p.sum(axis=-1, keepdims=True)).max(axis=-1), kind="stable")
            taken = taken[: int(len(masked) * share)]
        text[masked[taken]] = best[taken]
    return text.tolist()


@pytest.mark.parametrize("steps", [3, 10])
@pytest.mark.parametrize(("alg", "order"), [("origin", "independent"), ("greddy", "confidence")])
def test_texts_are_those_of_the_authors_loop(tmp_path: Path, alg: str, order: str, steps: int) -> None:
    model = fastsedd.load(masked_models.write(tmp_path / "model", "smdm", template=None, eos_token_id=None))
    prompt = [257, *model.tokenizer.encode("To be").tolist()]
    batch = Batch.of([0], [5], [np.array(prompt + [FREE] * NEW, np.int32)])
    chances = [uniform(batch.seeds_of_draws(), batch.order_streams(step + 1))[0] for step in range(steps)]
    expected = written(model, prompt, alg, steps, np.array(chances))
    found = model.generate(prompt="To be", max_new_tokens=NEW, steps=steps, temperature=0.0, seed=5, order=order)
    ends = [i for i in range(len(prompt), len(expected)) if expected[i] in model._process.ends]
    last = ends[0] if ends else len(expected)
    assert found.tokens[0, :last].tolist() == expected[:last]


def test_weights_alone_are_read_by_their_shapes(tmp_path: Path) -> None:
    """Every size of the authors' own, as lit_gpt's config has them, and where there is none."""
    sizes = [(6, 4, 256, 1024), (16, 8, 640, 1600), (18, 12, 768, 3072), (18, 10, 1280, 5120), (20, 14, 1792, 7168)]
    for layers, heads, width, hidden in sizes:
        stored = Stored(n_layer=layers, n_head=heads, n_embd=width, intermediate_size=hidden, padded_vocab_size=32000)
        config = SMDM().config(stored)
        assert SMDM().from_shapes(config.tensor_shapes, None) == config
        assert (config.mask_id, config.vocab_size, config.length) == (32000, 32001, 2048)
    assert 1.02e9 < config.parameters < 1.2e9
    folder = masked_models.write(tmp_path / "model", "smdm", bos_token_id=1, eos_token_id=2)
    tensors = load_file(folder / "model.safetensors")
    alone = tmp_path / "mdm-48-10e18.safetensors"
    save_file({f"_forward_module.{name}": each for name, each in tensors.items()}, alone)
    with pytest.raises(CheckpointError, match="does not say how many heads share its width of 48") as caught:
        checkpoint.read(alone)
    assert "\n" not in str(caught.value)
    read = checkpoint.read(alone, heads=4)
    assert (read.config.backbone.kv_heads, read.config.heads, read.assumed) == (2, 4, "")
    np.testing.assert_array_equal(
        fastsedd.load(alone, heads=4).logits([[1, 2, 259]]), fastsedd.load(folder).logits([[1, 2, 259]])
    )


def test_assumed_heads_are_told_and_it_converts(tmp_path: Path) -> None:
    config = SMDM().config(
        Stored(n_layer=1, n_head=4, n_embd=256, intermediate_size=1024, padded_vocab_size=259, n_query_groups=4)
    )
    save_file(masked_models.tensors(config), tmp_path / "mdm-6M.safetensors")
    said: list[str] = []
    model = fastsedd.load(tmp_path / "mdm-6M.safetensors", note=said.append)
    assert said[0] == "assumed: 4 heads of 64, as the authors' models of its sizes have (--heads N)"
    fastsedd.convert(tmp_path / "mdm-6M.safetensors", tmp_path / "converted")
    again = fastsedd.load(tmp_path / "converted")
    assert again.config == model.config
    np.testing.assert_array_equal(again.logits([[3, 4]]), model.logits([[3, 4]]))


def test_a_config_is_written_as_it_is_read() -> None:
    config = masked_models.config("smdm")
    assert config_json.from_document(Path("config.json"), config_json.document(config)) == config


def test_a_tensor_that_is_missing_is_named(tmp_path: Path) -> None:
    config = masked_models.config("smdm")
    tensors = masked_models.tensors(config)
    del tensors["lm_head.weight"]
    save_file(tensors, tmp_path / "mdm.safetensors")
    with pytest.raises(CheckpointError, match=r"lm_head\.weight is missing"):
        checkpoint.read(tmp_path / "mdm.safetensors")
