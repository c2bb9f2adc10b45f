"""Masked language models: keys, tensors and special tokens of each family, and logits of the same classes elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import masked_models
import numpy as np
import pytest

from fastsedd import CheckpointError, checkpoint
from fastsedd.block_layout import BlockLayout
from fastsedd.checkpoint import config_json
from fastsedd.models.backbone import reference

SCALINGS = {
    "none": None,
    "linear": {"rope_type": "linear", "factor": 2.0},
    "llama3": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
}  # fmt: skip
CLASSES = {
    "a2d-qwen3": "Qwen3", "sdar": "Qwen3", "a2d-qwen2": "Qwen2", "qwen2": "Qwen2", "Fast_dLLM_Qwen": "Qwen2",
    "Dream": "Qwen2", "a2d-llama": "Llama", "llama": "Llama",
}  # fmt: skip


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("family", masked_models.LLAMAS)
def test_logits_are_those_of_transformers(family: str, scaling: str) -> None:
    """Under a full mask and a block-causal one, with blocks counted from a prompt's end."""
    transformers = pytest.importorskip("transformers", reason="another engine, optional")
    torch = pytest.importorskip("torch")
    kind = CLASSES[family]
    changes = {} if kind != "Qwen2" else {"hidden_size": 64, "head_dim": None}  # Qwen2's class has no head_dim
    config = masked_models.config(family, rope_scaling=SCALINGS[scaling], **changes)
    tensors = masked_models.tensors(config)
    stated = {key: value for key, value in masked_models.document(family, **changes).items() if key != "model_type"}
    rope = {"rope_theta": stated.pop("rope_theta"), "rope_type": "default", **(SCALINGS[scaling] or {})}
    if stated["head_dim"] is None:
        del stated["head_dim"]
    settings = getattr(transformers, f"{kind}Config")(**stated, rope_parameters=rope, attn_implementation="eager")
    model = getattr(transformers, f"{kind}ForCausalLM")(settings).eval()
    missing, unexpected = model.load_state_dict(
        {name: torch.tensor(tensor) for name, tensor in tensors.items()}, strict=False
    )
    assert set(missing) <= {"lm_head.weight"} and not unexpected
    tokens = np.random.default_rng(1).integers(0, 300, (2, 23))
    for blocks in (None, BlockLayout(4), BlockLayout(8, 5)):
        of = np.array([0 if blocks is None else blocks.index(i) for i in range(23)])
        mask = torch.where(torch.tensor(of[None, :] <= of[:, None]), 0.0, -torch.inf)[None, None].expand(2, 1, 23, 23)
        with torch.no_grad():
            expected = model(torch.tensor(tokens), attention_mask=mask).logits.numpy()
        found = reference.logits(config, tensors, tokens, blocks)
        assert (np.abs(found - expected) <= 1e-4 * (1 + np.abs(expected))).all()


def test_families_state_their_facts() -> None:
    configs = {family: masked_models.config(family) for family in masked_models.LLAMAS}
    facts = {
        family: (config.backbone.head_norms, config.backbone.qkv_bias, config.backbone.block, config.backbone.shift)
        for family, config in configs.items()
    }
    assert facts == {
        "a2d-qwen3": (True, False, None, False), "a2d-qwen2": (False, True, None, False),
        "a2d-llama": (False, False, None, False), "qwen2": (False, True, None, True),
        "Fast_dLLM_Qwen": (False, True, 32, True), "sdar": (True, False, 4, False), "Dream": (False, True, None, True),
        "llama": (False, False, None, True),
    }  # fmt: skip
    blocks = masked_models.config("a2d-qwen3", block_size=32).backbone
    assert (blocks.block, blocks.origin) == (32, "prompt")
    assert masked_models.config("Fast_dLLM_Qwen", bd_size=16).backbone.block == 16
    assert masked_models.config("qwen2", shift=False).backbone.shift is False
    assert masked_models.config("a2d-llama", attention_bias=True).backbone.output_bias is True


def test_a_config_is_written_as_it_is_read() -> None:
    for family in masked_models.LLAMAS:
        config = masked_models.config(family, rope_scaling=SCALINGS["yarn"], block_size=8, num_key_value_heads=None)
        assert config_json.from_document(Path("config.json"), config_json.document(config)) == config


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_key_value_heads": 3}, "num_key_value_heads is 3, allowed: divisors of the 4 heads"),
        ({"head_dim": 15}, "head_dim is 15, allowed: even"),
        ({"mask_token_id": 300}, "mask_id is 300, allowed: 0 to 299"),
        ({"eos_token_id": [2, 400]}, "eos_token_id or pad_token_id is 400, allowed: 0 to 299"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu', mlp_bias False, allowed: 'silu', false"),
        ({"block_size": 0}, "block_size is 0, allowed: 1 to 131072"),
        ({"rope_theta": 0.0}, "rope_theta is 0.0, allowed: above 0, finite"),
        ({"rope_parameters": {"rope_theta": "x"}, "rope_theta": None}, "rope_theta is 'x', allowed: a number"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0, allowed: 1 or more"),
    ],
)
def test_a_config_that_is_wrong_is_refused_by_name(changes: dict, said: str) -> None:
    with pytest.raises(CheckpointError, match=said.replace("[", r"\[")):
        masked_models.config("a2d-qwen3", **changes)


def test_rope_keys_of_old_and_new_transformers() -> None:
    old = masked_models.config("a2d-qwen3", rope_theta=5.0, rope_scaling={"type": "linear", "factor": 2.0})
    new = masked_models.config(
        "a2d-qwen3", rope_theta=None, rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 5.0}
    )
    assert (old.backbone.theta, new.backbone.theta) == (5.0, 5.0)
    assert dict(old.backbone.scaling) == {"type": "linear", "factor": 2.0}
    assert dict(new.backbone.scaling) == {"rope_type": "linear", "factor": 2.0}
    assert masked_models.config("a2d-qwen3", rope_theta=None).backbone.theta == 1e6


def test_a_checkpoint_is_read_in_shards(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = masked_models.write(tmp_path / "model")
    whole = load_file(folder / "model.safetensors")
    names = sorted(whole)
    shards = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for shard, held in shards.items():
        save_file({name: whole[name] for name in held}, folder / shard)
    index = {name: shard for shard, held in shards.items() for name in held}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (folder / "model.safetensors").unlink()
    read = checkpoint.read(folder)
    assert sorted(read.tensors) == names
    np.testing.assert_array_equal(read.tensors[names[3]], whole[names[3]])
    save_file(whole | {"lm_head.weight": whole["model.embed_tokens.weight"]}, folder / "model.safetensors")
    assert "lm_head.weight" not in checkpoint.read(folder).tensors  # tied, and stored all the same


def test_special_tokens_are_found_in_the_stated_order(tmp_path: Path) -> None:
    folder = masked_models.write(tmp_path / "model", mask_token_id=None, eos_token_id=None)
    found = checkpoint.read(folder).config
    assert (found.mask_id, found.backbone.ends, found.backbone.pad) == (259, (258,), 256)
    (folder / "generation_config.json").write_text(
        json.dumps({"mask_token_id": 270, "eos_token_id": [271, 272], "pad_token_id": 273})
    )
    found = checkpoint.read(folder).config
    assert (found.mask_id, found.backbone.ends, found.backbone.pad) == (270, (271, 272, 258), 273)
    (folder / "config.json").write_text(
        json.dumps(masked_models.document("sdar", mask_token_id=280, eos_token_id=281, pad_token_id=282))
    )
    from safetensors.numpy import save_file

    save_file(masked_models.tensors(masked_models.config("sdar")), folder / "model.safetensors")
    found = checkpoint.read(folder).config
    assert (found.mask_id, found.backbone.ends, found.backbone.pad) == (280, (281, 271, 272, 258), 282)


def test_the_mask_may_be_named_in_the_map_of_special_tokens_alone(tmp_path: Path) -> None:
    folder = masked_models.write(tmp_path / "model", mask_token_id=None)
    (folder / "tokenizer_config.json").unlink()
    (folder / "special_tokens_map.json").write_text(json.dumps({"mask_token": {"content": "<|im_start|>"}}))
    assert checkpoint.read(folder).config.mask_id == 257


def test_a_model_without_a_mask_is_refused(tmp_path: Path) -> None:
    folder = masked_models.write(tmp_path / "model", "qwen2", mask_token_id=None)
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(CheckpointError, match="no file names a mask, which a model of type 'qwen2' needs"):
        checkpoint.read(folder)
