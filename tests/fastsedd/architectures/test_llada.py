"""LLaDA: its keys and names, logits of transformers' Llama, and texts by its authors' loop, written out."""

from __future__ import annotations

import math
from pathlib import Path

import masked_models
import numpy as np
import pytest

import fastsedd
from fastsedd import CheckpointError
from fastsedd.checkpoint import config_json
from fastsedd.models.backbone import reference

# Llama's name of each of LLaDA's tensors, as its modeling code uses them.
LLAMA = {
    "model.transformer.wte.": "model.embed_tokens.", "model.transformer.ln_f.": "model.norm.",
    "model.transformer.ff_out.": "lm_head.", "model.transformer.blocks.": "model.layers.",
    ".attn_norm.": ".input_layernorm.", ".ff_norm.": ".post_attention_layernorm.", ".attn_out.": ".self_attn.o_proj.",
    ".q_proj.": ".self_attn.q_proj.", ".k_proj.": ".self_attn.k_proj.", ".v_proj.": ".self_attn.v_proj.",
    ".ff_proj.": ".mlp.gate_proj.", ".up_proj.": ".mlp.up_proj.", ".ff_out.": ".mlp.down_proj.",
}  # fmt: skip
PUBLISHED = {
    "d_model": 4096, "n_heads": 32, "n_kv_heads": 32, "n_layers": 32, "mlp_hidden_size": 12288, "vocab_size": 126464,
    "embedding_size": 126464, "max_sequence_length": 4096, "rms_norm_eps": 1e-5, "rope_theta": 5e5,
    "mask_token_id": 126336, "eos_token_id": 126081, "pad_token_id": 126081,
}  # fmt: skip


def llama_name(name: str) -> str:
    for own, other in LLAMA.items():
        name = name.replace(own, other)
    return name


@pytest.mark.parametrize(
    "changes",
    [{}, {"weight_tying": True, "n_kv_heads": None, "multi_query_attention": True}, {"include_qkv_bias": True}],
)
def test_logits_are_those_of_transformers(changes: dict) -> None:
    transformers = pytest.importorskip("transformers", reason="another engine, optional")
    torch = pytest.importorskip("torch")
    config = masked_models.config("llada", **changes)
    tensors = masked_models.tensors(config)
    backbone = config.backbone
    kind = "Qwen2" if backbone.qkv_bias else "Llama"
    settings = getattr(transformers, f"{kind}Config")(
        vocab_size=300, hidden_size=48, intermediate_size=56, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=backbone.kv_heads, rms_norm_eps=1e-5, tie_word_embeddings=backbone.tied,
        rope_parameters={"rope_theta": 10000.0, "rope_type": "default"}, attn_implementation="eager",
    )  # fmt: skip
    model = getattr(transformers, f"{kind}ForCausalLM")(settings).eval()
    renamed = {llama_name(name): torch.tensor(tensor) for name, tensor in tensors.items()}
    missing, unexpected = model.load_state_dict(renamed, strict=False)
    assert set(missing) <= {"lm_head.weight"} and not unexpected
    tokens = np.random.default_rng(1).integers(0, 300, (2, 23)).astype(np.int32)
    masked_models.assert_logits(config, masked_models.full_logits(model, tokens), tokens, reference)


def written(
    model: fastsedd.LanguageModel, tensors: dict, prompt: list[int], new: int, block: int, steps: int, cfg: float
) -> list[int]:
    """generate.py of LLaDA at temperature 0, without the mask among the tokens that are proposed."""
    mask = model.config.mask_id
    text = np.array(prompt + [mask] * new)
    known = text != mask
    steps //= new // block
    for number in range(new // block):
        end = len(prompt) + (number + 1) * block
        least, more = divmod(int((text[end - block : end] == mask).sum()), steps)
        for step in range(steps):
            logits = reference.logits(model.config, tensors, text[None])[0]
            if cfg:
                blind = reference.logits(model.config, tensors, np.where(known, mask, text)[None])[0]
                logits = blind + (cfg + 1) * (logits - blind)
            logits[:, mask] = -math.inf
            best = logits.argmax(axis=-1)
            shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
            sure = np.take_along_axis(shares / shares.sum(axis=-1, keepdims=True), best[:, None], axis=-1)[:, 0]
            sure = np.where(text == mask, sure, -math.inf)
            sure[end:] = -math.inf
            first = np.argsort(-sure, kind="stable")[: least + (step < more)]
            text[first] = best[first]
    return text.tolist()


@pytest.mark.parametrize(("block", "steps", "cfg"), [(12, 5, 0.0), (6, 8, 0.0), (4, 12, 0.0), (6, 4, 1.5)])
def test_texts_are_those_of_the_authors_loop(tmp_path: Path, block: int, steps: int, cfg: float) -> None:
    folder = masked_models.write(tmp_path / "model", "llada", eos_token_id=None, template=None)
    (folder / "tokenizer_config.json").unlink()
    model = fastsedd.load(folder)
    tensors = masked_models.tensors(model.config)
    prompt = model.tokenizer.encode("To be")
    expected = written(model, tensors, prompt.tolist(), 12, block, steps, cfg)
    found = model.generate(prompt="To be", max_new_tokens=12, block_length=block, steps=steps, cfg_scale=cfg, stop=())
    ends = [i for i in range(len(prompt), len(expected)) if expected[i] in model.config.backbone.ends]
    assert not ends
    assert found.tokens[0].tolist() == expected


def test_a_config_as_published() -> None:
    config = config_json.from_document(Path("config.json"), {"model_type": "llada", **PUBLISHED})
    assert config.parameters == 8_015_581_184
    backbone = config.backbone
    assert (config.mask_id, config.vocab_size, config.length, backbone.ends) == (126336, 126464, 4096, (126081,))
    assert (backbone.head_dim, backbone.hidden, backbone.theta, backbone.eps) == (128, 12288, 5e5, 1e-5)
    assert (backbone.shift, backbone.block, backbone.tied, backbone.unmasking.quota) == (False, None, False, "llada")
    assert config_json.from_document(Path("config.json"), config_json.document(config)) == config
    improved = {"n_kv_heads": 8, "mlp_hidden_size": 14336, "vocab_size": 155136, "embedding_size": 155136}
    improved |= {"max_sequence_length": 8192, "weight_tying": True, "mask_token_id": 5}  # iLLaDA, by its model card
    stated = {"model_type": "llada", **PUBLISHED, **improved}
    assert round(config_json.from_document(Path("config.json"), stated).parameters / 1e9, 2) == 7.62
    other = config_json.from_document(Path("config.json"), {"model_type": "llada", **PUBLISHED, "mask_token_id": 5})
    assert other.mask_id == 5


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"block_type": "sequential"}, "block_type is 'sequential', allowed: 'llama'"),
        ({"activation_type": "swiglu"}, "activation_type is 'swiglu', allowed: 'silu'"),
        ({"alibi": True}, "alibi is True, allowed: False"),
        ({"attention_layer_norm": True}, "attention_layer_norm is True, allowed: False"),
        ({"n_heads": 5}, "n_heads is 5, allowed: divisors of d_model, 48"),
        ({"n_kv_heads": 3}, "num_key_value_heads is 3, allowed: divisors of the 4 heads"),
        ({"mask_token_id": 300}, "mask_id is 300, allowed: 0 to 299"),
    ],
)
def test_a_config_that_is_wrong_is_refused_by_name(changes: dict, said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        masked_models.config("llada", **changes)


def test_a_tensor_that_is_missing_is_named(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = masked_models.write(tmp_path / "model", "llada")
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.transformer.blocks.1.ff_out.weight"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.transformer\.blocks\.1\.ff_out\.weight is missing") as caught:
        fastsedd.load(folder)
    assert "\n" not in str(caught.value)
