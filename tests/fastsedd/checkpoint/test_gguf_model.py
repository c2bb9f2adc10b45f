"""Models in GGUF files: the logits of the same weights in safetensors, tokenizers, and what is told of them unread."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

gguf = pytest.importorskip("gguf")
pytest.importorskip("tokenizers")

import fastsedd_kernels as fk  # noqa: E402
import gguf_models  # noqa: E402
import masked_models  # noqa: E402

import fastsedd  # noqa: E402
from fastsedd import checkpoint, cli, loading, models  # noqa: E402
from fastsedd.checkpoint.gguf_blocks import BLOCKS  # noqa: E402
from fastsedd.checkpoint.stored import StoredTensor  # noqa: E402
from fastsedd.errors import CheckpointError  # noqa: E402
from fastsedd.models.backbone.memory import weight_bytes  # noqa: E402
from fastsedd.models.backbone.network import Backbone  # noqa: E402

TOKENS = np.random.default_rng(0).integers(0, 250, (2, 9))
ERRORS = {"Q8_0": 0.05, "Q4_0": 0.05, "Q4_1": 0.05, "Q4_K": 0.05, "Q6_K": 0.1}  # of 8 bits for each number of x


@pytest.mark.parametrize(
    ("family", "kind"),
    [*((family, "F32") for family in gguf_models.ARCHITECTURES), ("a2d-llama", "F16"), ("a2d-llama", "BF16")],
)
def test_logits_are_those_of_the_same_weights_in_safetensors(family: str, kind: str, tmp_path: Path) -> None:
    written = gguf_models.write(tmp_path, family, kind, num_hidden_layers=1)
    model = fastsedd.load(written.file)
    assert model.dtype == ("bfloat16" if kind == "BF16" else "float32")
    for each, dtype in ((model, model.dtype), (fastsedd.load(written.file, "float32"), "float32")):
        expected = fastsedd.load(written.folder, dtype).logits(TOKENS)
        np.testing.assert_array_equal(each.logits(TOKENS), expected)


@pytest.mark.parametrize("kind", BLOCKS)
@pytest.mark.parametrize("family", ["a2d-llama", "a2d-qwen2"])
def test_blocks_are_multiplied_as_they_are_stored(family: str, kind: str, tmp_path: Path) -> None:
    written = gguf_models.write(tmp_path, family, kind, num_hidden_layers=1)
    expected = fastsedd.load(written.folder).logits(TOKENS)
    model = fastsedd.load(written.file)
    assert (model.dtype, model.stored_dtype) == ("stored", kind)
    error = np.linalg.norm(model.logits(TOKENS) - expected) / np.linalg.norm(expected)
    assert 0 < error < ERRORS[kind]
    np.testing.assert_array_equal(fastsedd.load(written.file, "float32").logits(TOKENS), expected)


@pytest.mark.parametrize(("dtype", "exact"), [("stored", BLOCKS.keys() - {"Q6_K"}), ("int4", {"Q4_0", "Q4_1", "Q4_K"})])
@pytest.mark.parametrize("kind", BLOCKS)
def test_packed_weights_have_the_bits_of_the_file(kind: str, dtype: str, exact: set[str], tmp_path: Path) -> None:
    written = gguf_models.write(tmp_path, "a2d-llama", kind, num_hidden_layers=1, tie_word_embeddings=False)
    read = checkpoint.read(written.file)
    network = Backbone(read.config, read.tensors, models.Precision(dtype))
    layer, name = network.layers[0], "model.layers.0"
    found = {
        "self_attn.q_proj": fk.unpack(layer.queries.weight), "mlp.down_proj": fk.unpack(layer.down.weight),
        "self_attn.k_proj": fk.unpack(layer.keys_values.weight)[: 2 * 64], "mlp.up_proj": fk.unpack(layer.gate_up)[1],
    }  # fmt: skip
    for part, values in found.items():
        expected = written.tensors[f"{name}.{part}.weight"]
        if kind in exact:
            np.testing.assert_array_equal(values, expected)
        else:
            error = np.linalg.norm(values - expected) / np.linalg.norm(expected)
            assert error < (0.01 if dtype == "stored" else 0.15)
    out = np.empty((3, 256), np.float32)
    network.embedding(np.array([299, 0, 7]), out)
    np.testing.assert_array_equal(out, written.tensors["model.embed_tokens.weight"][[299, 0, 7]])
    types = {name: tensor.dtype for name, tensor in read.stored.items()}
    told = weight_bytes(read.config, dtype, narrow=False, types=types)
    assert network.nbytes == pytest.approx(told, rel=0.1)  # of 300 outputs, the last panel's padding


def test_types_that_differ_from_layer_to_layer(tmp_path: Path) -> None:
    """Q4_K_M has values in Q6_K beside keys in Q4_K, and an embedding of its own type."""
    kinds = {"attn_v": "Q6_K", "ffn_down": "Q6_K", "token_embd": "F16", "output.": "Q8_0", "": "Q4_K"}
    written = gguf_models.write(tmp_path, "a2d-qwen2", kinds, tie_word_embeddings=False)
    expected = fastsedd.load(written.folder).logits(TOKENS)
    found = fastsedd.load(written.file)
    assert 0 < np.linalg.norm(found.logits(TOKENS) - expected) < 0.1 * np.linalg.norm(expected)
    np.testing.assert_array_equal(fastsedd.load(written.file, "float32").logits(TOKENS), expected)


def test_llama_3_scaling_is_told_from_its_divisors(tmp_path: Path) -> None:
    scaling = {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }  # fmt: skip
    plain = gguf_models.write(tmp_path / "plain", "a2d-llama", rope_theta=5e5)
    table = fk.rotary_table(2, 64, 5e5), fk.rotary_table(2, 64, 5e5, scaling)
    angles = [np.arctan2(each.sines[1].astype(float), each.cosines[1].astype(float)) for each in table]
    divisors = (angles[0] / angles[1]).astype(np.float32)
    reader = gguf.GGUFReader(plain.file)
    for values, works in ((divisors, True), (2 * divisors + np.arange(32, dtype=np.float32), False)):
        path = tmp_path / f"{works}.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        config = checkpoint.read(plain.file).config
        gguf_models.write_keys(writer, config, "llama", {})
        for tensor in reader.tensors:
            writer.add_tensor(tensor.name, np.array(tensor.data))
        writer.add_tensor("rope_freqs.weight", values)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        if works:
            found = dict(checkpoint.read(path).config.backbone.scaling)
            assert found == scaling | {"factor": pytest.approx(8.0, rel=1e-4)}
        else:
            with pytest.raises(CheckpointError, match="not Llama 3's scaling"):
                checkpoint.read(path)


def test_the_tokenizer_is_the_file_s_own(tmp_path: Path) -> None:
    written = gguf_models.write(tmp_path)
    model = fastsedd.load(written.file)
    text = "the <extra> <|im_end|>é"
    tokens = model.tokenizer.encode(text)
    assert tokens[0] == 260 and 261 in tokens and 258 in tokens
    assert model.tokenizer.decode(tokens) == text and model.chats
    answer = model.chat([{"role": "user", "content": "hi"}], max_new_tokens=4, steps=2)
    assert len(answer.texts) == 1
    assert model.config.mask_id == 259 and model.config.backbone.ends == (256, 258)


@pytest.mark.parametrize("pre", ["qwen2", "llama-bpe", "gpt-2"])
def test_text_is_cut_as_the_tokenizer_of_that_name_does(pre: str, tmp_path: Path) -> None:
    regex = pytest.importorskip("regex")
    from fastsedd.checkpoint import gguf_tokenizer

    pattern = (
        gguf_tokenizer.PATTERNS[pre] or r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    )
    text = "It's 12345 o'clock,  isn't IT?\r\n\n  Ünï 日本 x_1"
    import tokenizers

    embedded = gguf_tokenizer.read(gguf_tokenizer.Facts(tmp_path, _tokenizer_metadata(pre)))
    library = tokenizers.Tokenizer.from_str(embedded.document())
    pieces = [text[first:last] for _, (first, last) in library.pre_tokenizer.pre_tokenize_str(text)]
    assert pieces == [match.group() for match in regex.finditer(pattern, text)]


def _tokenizer_metadata(pre: str) -> dict[str, object]:
    return {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": pre, "tokenizer.ggml.tokens": ["a", "b"]}


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"general.architecture": "bert"}, "general.architecture"),
        ({"qwen3.attention.head_count": "four"}, "allowed: an integer"),
        ({"qwen3.block_count": None}, "lack"),
        ({"qwen3.attention.value_length": 32}, "not the heads' width"),
        ({"qwen3.rope.scaling.type": "longrope"}, "is 'longrope', allowed"),
        ({"qwen3.rope.scaling.type": "yarn"}, "lacks its factor"),
        ({"tokenizer.ggml.mask_token_id": 300}, "allowed: 0 to 299"),
        ({"tokenizer.ggml.model": "llama"}, "tokenizer.ggml.model is 'llama', allowed: 'gpt2'"),
        ({"tokenizer.ggml.pre": "tekken"}, "tokenizer.ggml.pre is 'tekken'"),
        ({"split.count": 2}, "one of 2 parts"),
        ({"fastsedd.model_type": "Dream"}, "fastsedd.model_type is 'Dream', allowed for qwen3: 'a2d-qwen3', 'sdar'"),
        ({"qwen3.block_count": 3}, "blk.2."),
    ],
)
def test_metadata_that_is_not_read_is_refused_in_one_line(
    metadata: dict, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastsedd.checkpoint import gguf_file

    written = gguf_models.write(tmp_path)
    read = gguf_file.read

    def changed(path: Path) -> gguf_file.Gguf:
        found = read(path)
        kept = {key: value for key, value in (found.metadata | metadata).items() if value is not None}
        return gguf_file.Gguf(path, kept, found.tensors)

    monkeypatch.setattr(gguf_file, "read", changed)
    with pytest.raises(CheckpointError) as caught:
        fastsedd.load(written.file)
    assert "\n" not in str(caught.value) and str(written.file) in str(caught.value)
    assert words in str(caught.value) or (words == "blk.2." and "model.layers.2" in str(caught.value))


def test_a_file_without_a_mask_is_refused(tmp_path: Path) -> None:
    written = gguf_models.write(tmp_path, metadata={"tokenizer.ggml.mask_token_id": None}, pre=None)
    with pytest.raises(CheckpointError, match="names no mask"):
        fastsedd.load(written.file)


def test_inspect_reads_no_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: StoredTensor, name: str) -> None:
        raise AssertionError(name)

    written = gguf_models.write(tmp_path, "Dream", "Q4_0")
    monkeypatch.setattr(StoredTensor, "read", refuse)
    monkeypatch.setattr(StoredTensor, "blocks", refuse)
    result = CliRunner().invoke(cli.main, ["inspect", str(written.file)])
    assert (result.exit_code, result.stderr) == (0, "")
    shown = dict(re.split(" {2,}", line, maxsplit=1) for line in result.stdout.splitlines())
    names = ("architecture", "stored dtype", "logits", "conversations")
    assert {name: shown[name] for name in names} == {
        "architecture": "Dream", "stored dtype": "Q4_0", "logits": "of the next position",
        "conversations": "by its chat template",
    }  # fmt: skip
    assert "memory, stored" in shown


def test_a_folder_with_one_gguf_file_is_it(tmp_path: Path) -> None:
    written = gguf_models.write(tmp_path / "model", pre=None)
    assert checkpoint.read(written.file.parent).path == written.file
    assert loading.outline(written.file.parent).tokenizer.description
    (tmp_path / "model" / "config.json").write_text(
        json.dumps(masked_models.document("sdar"))
    )  # which is not looked at
    assert checkpoint.read(written.file).config.architecture == "a2d-qwen3"


@pytest.mark.parametrize("kind", ["F16", "Q4_K"])
def test_convert_makes_safetensors_of_the_same_numbers(kind: str, tmp_path: Path) -> None:
    written = gguf_models.write(tmp_path, "a2d-llama", kind, num_hidden_layers=1)
    folder = fastsedd.convert(written.file, tmp_path / "converted")
    before, after = fastsedd.load(written.file, "float32"), fastsedd.load(folder)
    np.testing.assert_array_equal(after.logits(TOKENS), before.logits(TOKENS))
    assert after.stored_dtype == ("float16" if kind == "F16" else "float32")
    text = "the <extra> <|im_end|>"
    np.testing.assert_array_equal(after.tokenizer.encode(text), before.tokenizer.encode(text))
    assert after.chats and after.config == before.config
