"""Models written as GGUF: the same config, tokenizer and logits again, quantised as the gguf package does, and whatever
has no place in such a file refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

gguf = pytest.importorskip("gguf")
tokenizers = pytest.importorskip("tokenizers")

import gguf_models  # noqa: E402
import masked_models  # noqa: E402
from safetensors.numpy import load_file, save_file  # noqa: E402

import fastsedd  # noqa: E402
from fastsedd import checkpoint, cli  # noqa: E402
from fastsedd.checkpoint import gguf_tokenizer, gguf_writer  # noqa: E402
from fastsedd.choices import GGUF_TYPES  # noqa: E402
from fastsedd.errors import CheckpointError  # noqa: E402

TOKENS = np.random.default_rng(0).integers(0, 250, (2, 9))
FAMILIES = ("a2d-qwen3", "sdar", "a2d-qwen2", "qwen2", "Fast_dLLM_Qwen", "a2d-llama", "Dream", "llada")
TEXT = "It's the <extra> 12345 o'clock,  isn't IT?\r\n\n  Ünï 日本 <|im_end|>"


def folder(path: Path, family: str = "a2d-llama", pre: str = "llama-bpe", **changes: Any) -> Path:
    """A model whose rows are multiples of 32, with a tokenizer that cuts text as those of a name do."""
    sizes = gguf_models.LLADA_SIZES if family == "llada" else gguf_models.SIZES
    masked_models.write(path, family, **sizes | changes)
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    pieces = [*alphabet, *masked_models.SPECIAL, "<extra>", "th", "the"]
    added = [
        {"id": i, "content": pieces[i], "special": i < 260, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False}
        for i in range(256, 261)
    ]  # fmt: skip
    merges: list[object] = ["t h", "th e"] if pre == "qwen2" else [("t", "h"), ("th", "e")]
    document = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": {"type": "NFC"},
        "pre_tokenizer": gguf_tokenizer.cutting(gguf_tokenizer.PATTERNS[pre]), "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE", "vocab": {piece: i for i, piece in enumerate(pieces)}, "merges": merges,
            "ignore_merges": pre == "llama-bpe", "unk_token": None, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False,
        },
    }  # fmt: skip
    (path / "tokenizer.json").write_text(json.dumps(document))
    return path


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_and_its_file_are_the_same(family: str, tmp_path: Path) -> None:
    pre = {"a2d-llama": "llama-bpe", "llada": "llada-moe", "sdar": "gpt-2"}.get(family, "qwen2")
    source = folder(tmp_path / "model", family, pre)
    (source / "generation_config.json").write_text('{"eos_token_id": [257, 256]}')
    said: list[str] = []
    written = fastsedd.convert(source, tmp_path / "model.gguf", note=said.append)
    before, after = fastsedd.load(source), fastsedd.load(written, note=said.append)
    assert said == [] and after.config == before.config and after.dtype == "float32"
    np.testing.assert_array_equal(after.logits(TOKENS), before.logits(TOKENS))
    np.testing.assert_array_equal(after.tokenizer.encode(TEXT), before.tokenizer.encode(TEXT))
    assert after.tokenizer.decode(after.tokenizer.encode(TEXT)) == TEXT
    answers = [
        each.chat([{"role": "user", "content": "hi"}], max_new_tokens=4, steps=2, seed=1) for each in (after, before)
    ]
    assert answers[0].texts == answers[1].texts
    keys = gguf.GGUFReader(written).fields
    assert gguf_tokenizer.PREFIX + ".tokens" in keys
    assert len(keys["tokenizer.ggml.tokens"].data) == 300  # a token for each row of the embedding, as llama.cpp wants


@pytest.mark.parametrize("dtype", GGUF_TYPES)
@pytest.mark.parametrize("family", ["a2d-llama", "a2d-qwen3"])
def test_numbers_are_those_of_the_package(family: str, dtype: str, tmp_path: Path) -> None:
    source = folder(tmp_path / "model", family, intermediate_size=520, tie_word_embeddings=family == "a2d-qwen3")
    written = fastsedd.convert(source, tmp_path / "model.gguf", dtype=dtype)
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(written).tensors}
    tensors = load_file(source / "model.safetensors")
    assert len(found) == len(tensors)
    head = "output.weight" if "lm_head.weight" in tensors else "token_embd.weight"
    for name, values in tensors.items():
        own = gguf_models.gguf_name(name)
        kind = dtype.upper()
        if values.ndim == 1:
            kind = "F32"
        elif own == head and kind.startswith("Q4"):
            kind = "Q8_0"
        elif "down" in own and kind.startswith("Q"):  # rows of 520
            kind = "F16"
        if family == "a2d-llama" and (".attn_q." in own or ".attn_k." in own):
            values = gguf_models.paired(values, 4 if ".attn_q." in own else 2)
        expected = gguf.quants.quantize(values, gguf.GGMLQuantizationType[kind])
        assert found[own].tensor_type == gguf.GGMLQuantizationType[kind]
        np.testing.assert_array_equal(
            np.asarray(found[own].data).reshape(-1).view(np.uint8), expected.reshape(-1).view(np.uint8)
        )
        dequantised = gguf.quants.dequantize(expected, gguf.GGMLQuantizationType[kind]).reshape(values.shape)
        if family == "a2d-qwen3":
            np.testing.assert_array_equal(checkpoint.read(written).tensors[name], dequantised)
            tensors[name] = dequantised.astype(np.float32)
    if family == "a2d-qwen3":
        save_file(tensors, source / "model.safetensors")
        expected = fastsedd.load(source).logits(TOKENS)
        np.testing.assert_array_equal(fastsedd.load(written, "float32").logits(TOKENS), expected)
        error = np.linalg.norm(fastsedd.load(written).logits(TOKENS) - expected) / np.linalg.norm(expected)
        assert error < 0.05


@pytest.mark.parametrize("kind", ["Q4_K", "Q8_0"])
def test_blocks_of_a_gguf_file_are_kept(kind: str, tmp_path: Path) -> None:
    written = gguf_models.write(tmp_path, "a2d-llama", {"attn_v": "Q6_K", "": kind})
    again = fastsedd.convert(written.file, tmp_path / "again.gguf")
    before, after = gguf.GGUFReader(written.file).tensors, {each.name: each for each in gguf.GGUFReader(again).tensors}
    assert len(before) == len(after)
    for tensor in before:
        assert after[tensor.name].tensor_type == tensor.tensor_type
        np.testing.assert_array_equal(after[tensor.name].data, tensor.data)
    assert checkpoint.read(again).embedded.document() == checkpoint.read(written.file).embedded.document()


@pytest.mark.parametrize(
    "scaling",
    [
        {"rope_type": "linear", "factor": 4.0},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
        {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
         "original_max_position_embeddings": 8192},
    ],
)  # fmt: skip
def test_scalings_of_positions_are_kept(scaling: dict[str, Any], tmp_path: Path) -> None:
    source = masked_models.write(tmp_path / "model", "a2d-llama", rope_scaling=scaling, rope_theta=5e5)
    written = fastsedd.convert(source, tmp_path / "model.gguf")
    assert checkpoint.read(written).config == checkpoint.read(source).config
    other = scaling | {"low_freq_factor": 2.0, "beta_fast": 16.0}
    folder(tmp_path / "other", rope_scaling=other)
    with pytest.raises(CheckpointError, match=r"rope_scaling is .*, allowed in a GGUF file"):
        fastsedd.convert(tmp_path / "other", tmp_path / "other.gguf")
    assert not (tmp_path / "other.gguf").exists()


def test_a_tokenizer_without_a_name_is_left_out_and_said(tmp_path: Path) -> None:
    source, said = masked_models.write(tmp_path / "model", "Dream"), []
    written = fastsedd.convert(source, tmp_path / "model.gguf", note=said.append)
    assert len(said) == 1 and "holds no tokenizer: its pre_tokenizer is none of those" in said[0]
    read = checkpoint.read(written)
    assert read.embedded is None and read.config == checkpoint.read(source).config
    text = "the <|im_end|>"
    found = fastsedd.load(written, tokenizer=source).tokenizer.encode(text)
    np.testing.assert_array_equal(found, fastsedd.load(source).tokenizer.encode(text))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"normalizer": {"type": "Lowercase"}}, "its normalizer is 'Lowercase', allowed: none, 'NFC'"),
        ({"decoder": {"type": "WordPiece"}}, "allowed: byte pairs"),
        ({"model": {"type": "BPE", "vocab": {}, "merges": [], "unk_token": "?"}}, "has an unknown token"),
        ({"model": {"type": "BPE", "vocab": {}, "merges": [], "end_of_word_suffix": "</w>"}}, "prefix or a suffix"),
    ],
)
def test_tokenizers_that_gguf_does_not_have_are_left_out(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    source, said = folder(tmp_path / "model"), []
    document = json.loads((source / "tokenizer.json").read_text()) | changes
    (source / "tokenizer.json").write_text(json.dumps(document))
    fastsedd.convert(source, tmp_path / "model.gguf", note=said.append)
    assert len(said) == 1 and words in said[0]


def test_a_vocabulary_and_merges_are_gpt_2_s(tmp_path: Path) -> None:
    source = folder(tmp_path / "model", mask_token_id=263)
    vocabulary = json.loads((source / "tokenizer.json").read_text())["model"]["vocab"]
    (source / "tokenizer.json").unlink()
    (source / "vocab.json").write_text(json.dumps(vocabulary | {"<|endoftext|>": 256}))
    (source / "merges.txt").write_text("#version: 0.2\nt h\nth e\n")
    written = fastsedd.convert(source, tmp_path / "model.gguf")
    text = "It's 12345 the<|endoftext|>"
    before, after = (fastsedd.load(path).tokenizer.encode(text) for path in (source, written))
    np.testing.assert_array_equal(after, before)
    assert 262 in after and after[-1] == 256


def test_refusals_leave_nothing_behind(tmp_path: Path, write_checkpoint: Any, make_config: Any) -> None:
    source, target = folder(tmp_path / "model"), tmp_path / "out.gguf"
    with pytest.raises(ValueError, match="dtype is 'q5_0', allowed: 'f32', 'f16', 'bf16', 'q8_0', 'q4_0', 'q4_1'"):
        fastsedd.convert(source, target, dtype="q5_0")
    with pytest.raises(ValueError, match="dtype is 'q4_0', allowed of a folder: none"):
        fastsedd.convert(source, tmp_path / "folder", dtype="q4_0")
    other = write_checkpoint(make_config())
    with pytest.raises(CheckpointError, match="its architecture is 'ddit', allowed of a GGUF file: qwen2, a2d-qwen2"):
        fastsedd.convert(other, target)
    tensors = load_file(source / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 7] = 1e6
    save_file(tensors, source / "model.safetensors")
    for dtype in ("f16", "q4_0"):
        if dtype == "q4_0":
            tensors["model.layers.1.mlp.up_proj.weight"][3, 7] = 1e30
            save_file(tensors, source / "model.safetensors")
        result = CliRunner().invoke(cli.main, ["convert", str(source), str(target), "--dtype", dtype])
        assert result.exit_code == 1 and len(result.stderr.splitlines()) == 1
        assert (
            f"up_proj.weight has values beyond the range of {dtype.upper()}, allowed of a dtype: f32" in result.stderr
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["model", other.name])
    target.write_bytes(b"mine")
    result = CliRunner().invoke(cli.main, ["convert", str(source), str(target)])
    assert "exists already, allowed: a new file" in result.stderr and target.read_bytes() == b"mine"


def test_one_tensor_is_in_memory_at_a_time(tmp_path: Path) -> None:
    import tracemalloc

    source = checkpoint.read(masked_models.write(tmp_path / "model", **gguf_models.SIZES, num_hidden_layers=8))
    tracemalloc.start()
    try:
        gguf_writer.write(tmp_path / "x.gguf", source.config, source.stored, None, None, lambda done, total: None)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 << 20 < (tmp_path / "x.gguf").stat().st_size // 4


def logits_of_llama_cpp(library: Any, file: Path, tokens: list[int]) -> tuple[np.ndarray, list[int]]:
    """Logits of a file's model for some tokens, [tokens, vocabulary], and the tokens of TEXT."""
    library.llama_backend_init()
    model = library.llama_model_load_from_file(str(file).encode(), library.llama_model_default_params())
    parameters = library.llama_context_default_params()
    parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = 32
    parameters.n_threads = parameters.n_threads_batch = 1
    context = library.llama_init_from_model(model, parameters)
    vocabulary = library.llama_model_get_vocab(model)
    rows, room = len(tokens), 100
    batch = library.llama_batch_init(rows, 0, 1)
    batch.n_tokens = rows
    for i, token in enumerate(tokens):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = token, i, 1, 0, 1
    assert library.llama_decode(context, batch) == 0
    width = library.llama_vocab_n_tokens(vocabulary)
    found = np.array([np.ctypeslib.as_array(library.llama_get_logits_ith(context, i), (width,)) for i in range(rows)])
    pieces = (library.llama_token * room)()
    text = TEXT.encode()
    count = library.llama_tokenize(vocabulary, text, len(text), pieces, room, False, True)
    library.llama_batch_free(batch)
    library.llama_free(context)
    library.llama_model_free(model)
    return found, list(pieces[:count])


@pytest.mark.parametrize(
    ("family", "dtype", "pre"),
    [
        ("a2d-llama", "q4_0", "llama-bpe"), ("a2d-llama", "f32", "gpt-2"), ("a2d-qwen3", "q8_0", "qwen2"),
        ("qwen2", "bf16", "qwen2"), ("llada", "f16", "llada-moe"), ("Dream", "f32", "qwen2"),
    ],
)  # fmt: skip
def test_llama_cpp_has_the_same_logits_and_tokens(family: str, dtype: str, pre: str, tmp_path: Path) -> None:
    """Its attention is as full as ours: the file says so. It has float16 for keys and values, and rounds what it
    multiplies with blocks and with halves."""
    library = pytest.importorskip("llama_cpp")
    written = fastsedd.convert(folder(tmp_path / "model", family, pre), tmp_path / "model.gguf", dtype=dtype)
    model = fastsedd.load(written, "float32")
    found, tokens = logits_of_llama_cpp(library, written, TOKENS[0].tolist())
    expected = model.logits(TOKENS[:1])[0]
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert error < {"f32": 0.003, "f16": 0.01, "bf16": 0.03}.get(dtype, 0.1)
    assert tokens == model.tokenizer.encode(TEXT).tolist()
