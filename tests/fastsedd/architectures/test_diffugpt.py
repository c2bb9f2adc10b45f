"""DiffuGPT and DiffuLLaMA: logits of transformers' GPT-2, texts by their authors' loop, a start that is not shown."""

from __future__ import annotations

import json
import math
from pathlib import Path

import masked_models
import numpy as np
import pytest
from fastsedd_kernels import uniform
from safetensors.numpy import load_file, save_file

import fastsedd
from fastsedd import CheckpointError, checkpoint, models
from fastsedd.checkpoint import config_json
from fastsedd.diffusion.sampler import FREE, Batch
from fastsedd.models.backbone import reference as llama_reference
from fastsedd.models.backbone.memory import weight_bytes
from fastsedd.models.backbone.session import Session
from fastsedd.models.gpt2 import reference as gpt2_reference

REFERENCES = {"gpt2": gpt2_reference, "llama": llama_reference}
NEW = 10


def test_logits_are_those_of_transformers() -> None:
    transformers = pytest.importorskip("transformers", reason="another engine, optional")
    torch = pytest.importorskip("torch")
    config = masked_models.config("gpt2")
    tensors = masked_models.tensors(config)
    settings = transformers.GPT2Config(
        vocab_size=300, n_embd=48, n_layer=2, n_head=4, n_positions=128, attn_implementation="eager",
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(settings).eval()
    renamed = {
        name.replace("denoise_model.", "transformer.").replace("embed_tokens.", "transformer.wte."): torch.tensor(each)
        for name, each in tensors.items()
    }
    missing, unexpected = model.load_state_dict(renamed, strict=False)
    assert set(missing) <= {"lm_head.weight"} and not unexpected
    tokens = np.random.default_rng(1).integers(0, 300, (2, 23)).astype(np.int32)
    for block in model.transformer.h:  # as the authors take the causal mask away
        if hasattr(block.attn, "bias"):
            block.attn.bias.fill_(True)
    masked_models.assert_logits(config, masked_models.full_logits(model, tokens), tokens, gpt2_reference)


@pytest.mark.parametrize(("dtype", "bound"), [("bfloat16", 0.1), ("int8", 0.15)])
def test_logits_in_fewer_bits_and_their_memory(dtype: str, bound: float) -> None:
    config = masked_models.config("gpt2", n_embd=384, n_head=6, vocab_size=1536)
    tensors = masked_models.tensors(config)
    tokens = np.random.default_rng(1).integers(0, 1536, (2, 9)).astype(np.int32)
    expected = gpt2_reference.logits(config, tensors, tokens)
    network = models.build(config, tensors, dtype)
    found = Session(network, 2, 9, None).all_logits(tokens)
    assert 0 < np.sqrt(np.mean((found - expected) ** 2)) < bound * expected.std()
    assert network.nbytes == pytest.approx(weight_bytes(config, dtype, narrow=False), rel=0.02)


def written(model: fastsedd.Model, prompt: list[int], steps: int, chances: np.ndarray) -> list[int]:
    """`generate_samples` of the authors' model.py, likeliest tokens, without the mask among them.

    chances : numbers from 0 to 1 of steps and positions
    """
    mask, tensors = model.config.mask_id, masked_models.tensors(model.config)
    text = np.array(prompt + [mask] * NEW)

    def proposed() -> np.ndarray:
        logits = REFERENCES[model.config.architecture].logits(model.config, tensors, text[None])[0]
        logits[:, mask] = -math.inf
        best = logits.argmax(axis=-1)
        return np.where(text == mask, np.concatenate([best[:1], best[:-1]]), text)

    x0 = proposed()
    for turn, t in enumerate(range(steps - 1, 0, -1)):
        falls = (text == mask) & (chances[turn] < 1 / (t + 1))
        text[falls] = x0[falls]
        x0 = proposed()
    return x0.tolist()


@pytest.mark.parametrize("steps", [1, 4, 17])
@pytest.mark.parametrize("family", REFERENCES)
def test_texts_are_those_of_the_authors_loop(tmp_path: Path, family: str, steps: int) -> None:
    folder = masked_models.write(tmp_path / "model", family, template=None)
    model = fastsedd.load(folder)
    start = model.config.backbone.start
    assert start == {"gpt2": 256, "llama": 257}[family]
    prompt = [start, *model.tokenizer.encode("To be").tolist()]
    batch = Batch.of([0], [5], [np.array(prompt + [FREE] * NEW, np.int32)])
    chances = [uniform(batch.seeds_of_draws(), batch.order_streams(step + 1))[0] for step in range(steps)]
    expected = written(model, prompt, steps, np.array(chances))
    found = model.generate(prompt="To be", max_new_tokens=NEW, steps=steps, temperature=0.0, seed=5)
    ends = [i for i in range(len(prompt), len(expected)) if expected[i] in model._process.ends]
    last = ends[0] if ends else len(expected)
    assert found.tokens[0, :last].tolist() == expected[:last]
    assert found.texts[0] == model.tokenizer.decode(np.array(expected[len(prompt) : last]))


def test_defaults_are_the_authors(tmp_path: Path) -> None:
    for family, temperature in (("gpt2", 0.95), ("llama", 0.9)):
        config = masked_models.config(family)
        own = config.backbone.unmasking
        assert (own.order, own.top_p, own.block_length, own.max_new_tokens) == ("independent", 0.9, None, 64)
        assert (config.generation.steps, config.generation.temperature) == (64, temperature)
        assert config.backbone.shift


@pytest.mark.parametrize("family", REFERENCES)
def test_the_start_stands_in_every_state_and_in_no_text(tmp_path: Path, family: str) -> None:
    model = fastsedd.load(masked_models.write(tmp_path / "model", family, eos_token_id=258, template=None))
    start, states = model.config.backbone.start, []
    result = model.generate("ab", "cd", length=12, steps=4, seed=1, on_step=lambda _, __, t: states.append(t.copy()))
    assert all(state[0, 0] == start and state.shape == (1, 13) for state in states)
    assert result.texts[0].startswith("ab") and result.texts[0].endswith("cd")
    assert model.generate(fixed={0: 97}, length=5, steps=2, seed=1).tokens[0, :2].tolist() == [start, 97]
    with pytest.raises(ValueError, match="length is 128, allowed: 1 to 127"):
        model.generate(length=128)


@pytest.mark.parametrize("family", REFERENCES)
def test_likelihoods_are_of_texts_behind_the_start(tmp_path: Path, family: str) -> None:
    """Of one token all masks are the same, so the bound is the loss of the reference, without an error."""
    model = fastsedd.load(masked_models.write(tmp_path / "model", family, template=None))
    mask, start = model.config.mask_id, model.config.backbone.start
    logits = REFERENCES[family].logits(model.config, masked_models.tensors(model.config), np.array([[start, mask]]))
    logits = np.delete(logits[0, 0], mask)  # position 1 is told by those of position 0
    expected = np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[ord("a")]
    letter = int(model.tokenizer.encode("a")[0])
    expected += logits[ord("a")] - logits[letter]
    assert model.evaluate("a", times=2).nats == pytest.approx(expected, abs=1e-5)


def test_heads_and_buffers_that_uploads_hold_beside_the_model(tmp_path: Path) -> None:
    folder = masked_models.write(tmp_path / "model", "gpt2")
    tensors = load_file(folder / "model.safetensors")
    logits = fastsedd.load(folder).logits([[1, 2, 3]])
    both = tensors | {"lm_head.weight": tensors["embed_tokens.weight"]}
    buffers = {f"denoise_model.h.{i}.attn.bias": np.ones((1, 1, 8, 8), np.float32) for i in range(2)}
    head_only = {name: each for name, each in both.items() if name != "embed_tokens.weight"}
    gpt2 = {name.replace("denoise_model.", "transformer."): each for name, each in tensors.items()}
    gpt2["transformer.wte.weight"] = gpt2.pop("embed_tokens.weight")
    for form in (both, both | buffers, head_only, gpt2):
        save_file(form, folder / "model.safetensors")
        np.testing.assert_array_equal(fastsedd.load(folder).logits([[1, 2, 3]]), logits)
    llama = masked_models.write(tmp_path / "llama", "llama")
    tensors = load_file(llama / "model.safetensors")
    save_file({name.replace("model.layers", "denoise_model.layers"): each for name, each in tensors.items()},
              llama / "model.safetensors")  # fmt: skip
    assert checkpoint.read(llama).config.architecture == "llama"


def test_a_mask_that_came_with_a_row_of_its_own(tmp_path: Path) -> None:
    """DiffuGPT-m: 50,257 in its config, a row more in its embedding."""
    folder = masked_models.write(tmp_path / "model", "gpt2", vocab_size=300, mask_token_id=None)
    document = json.loads((folder / "config.json").read_text()) | {"vocab_size": 259}
    (folder / "config.json").write_text(json.dumps(document))
    config = fastsedd.load(folder).config
    assert (config.vocab_size, config.mask_id) == (300, 259)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"activation_function": "relu"}, "activation_function is 'relu', allowed: 'gelu_new' or 'gelu_pytorch_tanh'"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings is False, allowed: True"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True, allowed: False"),
        ({"n_head": 5}, "n_head is 5, allowed: divisors of n_embd, 48"),
    ],
)
def test_a_config_that_is_wrong_is_refused_by_name(changes: dict, said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        masked_models.config("gpt2", **changes)


def test_a_config_is_written_as_it_is_read() -> None:
    config = masked_models.config("gpt2")
    assert config_json.from_document(Path("config.json"), config_json.document(config)) == config


@pytest.mark.parametrize("family", REFERENCES)
def test_an_autoregressive_model_is_refused(tmp_path: Path, family: str) -> None:
    folder = masked_models.write(tmp_path / "model", family, mask_token_id=None)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    with pytest.raises(CheckpointError, match=r"no file names a mask, which a model of type .* needs") as caught:
        fastsedd.load(folder)
    assert "\n" not in str(caught.value)
