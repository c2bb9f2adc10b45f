"""Reading checkpoints: what is written comes back, and every fault is one line that names it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from fastsedd import checkpoint
from fastsedd.checkpoint import config_json, safetensors_file, small_file
from fastsedd.errors import CheckpointError


def refusal_if_any(path: Path) -> str:
    try:
        for _ in checkpoint.read(path).tensors.values():
            pass
    except CheckpointError as error:
        return str(error)
    return ""


def refusal(path: Path) -> str:
    message = refusal_if_any(path)
    assert message and "\n" not in message
    return message


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(("architecture", "graph"), [("annotated", "uniform"), ("ddit", "absorb"), ("ddit", "uniform")])
def test_round_trip(write_checkpoint, make_config, make_tensors, architecture, graph, dtype) -> None:
    config = make_config(architecture, graph)
    found = checkpoint.read(write_checkpoint(config, dtype=dtype))
    assert found.config == config
    assert found.stored_dtype == np.dtype(dtype).name
    for name, tensor in make_tensors(config).items():
        np.testing.assert_array_equal(found.tensors[name], tensor.astype(dtype).astype(np.float32))
        assert found.tensors[name].dtype == np.float32 and not found.tensors[name].flags.writeable


def raw_file(path: Path, entries: dict[str, tuple[str, list[int], bytes]]) -> None:
    header, data = {}, b""
    for name, (dtype, shape, body) in entries.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(body)]}
        data += body
    encoded = json.dumps(header).encode()
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + data)


@pytest.mark.parametrize(("architecture", "graph"), [("annotated", "uniform"), ("ddit", "absorb")])
def test_bfloat16(write_checkpoint, make_config, make_tensors, architecture, graph) -> None:
    config = make_config(architecture, graph)
    folder = write_checkpoint(config)
    tensors = make_tensors(config)
    upper = {name: (tensor.view(np.uint32) >> 16).astype("<u2") for name, tensor in tensors.items()}
    raw_file(
        folder / "model.safetensors",
        {name: ("BF16", list(bits.shape), bits.tobytes()) for name, bits in upper.items()},
    )
    found = checkpoint.read(folder)
    assert found.stored_dtype == "bfloat16"
    for name, bits in upper.items():
        np.testing.assert_array_equal(found.tensors[name], (bits.astype(np.uint32) << 16).view(np.float32))


def test_rotary_buffer_is_ignored(write_checkpoint, make_config, make_tensors) -> None:
    config = make_config()
    tensors = make_tensors(config) | {"rotary_emb.inv_freq": np.ones(4, np.float32)}
    assert "rotary_emb.inv_freq" not in checkpoint.read(write_checkpoint(config, tensors)).tensors


@pytest.mark.parametrize("beside", [True, False])
def test_a_file_on_its_own_uses_the_config_beside_it(write_checkpoint, make_config, beside: bool) -> None:
    config = make_config("annotated", "uniform", width=128, heads=4)
    folder = write_checkpoint(config)
    if not beside:
        (folder / "config.json").unlink()
    if beside:
        assert checkpoint.read(folder / "model.safetensors").config.heads == 4
    else:
        assert "does not say how many heads" in refusal(folder / "model.safetensors")


def test_a_folder_prefers_model_safetensors(write_checkpoint, make_config) -> None:
    folder = write_checkpoint(make_config())
    (folder / "earlier.safetensors").write_bytes(b"")
    assert checkpoint.read(folder).path == folder / "model.safetensors"


def test_no_such_file(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "nowhere")
    assert "no such file" in refusal(tmp_path / "nowhere.safetensors")


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    assert "cannot be read" in refusal(tmp_path / ("x" * 5000))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_paths_that_are_neither_file_nor_folder(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    assert "no such file" in refusal(tmp_path / "pipe.safetensors")


def test_sizes_are_bounded_before_memory_is_taken(write_checkpoint, make_config, monkeypatch) -> None:
    folder = write_checkpoint(make_config())
    monkeypatch.setattr(safetensors_file, "MAX_HEADER", 100)
    assert "its header has" in refusal(folder)
    (folder / "config.json").write_bytes(b" " * (small_file.MAX_BYTES + 1))
    assert f"more than {small_file.MAX_BYTES} bytes" in refusal(folder)


def test_a_faulty_config_is_told_before_the_weights_are_read(write_checkpoint, make_config) -> None:
    folder = write_checkpoint(make_config())
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")
    assert "config.json" in refusal(folder)


def test_folder_without_weights(tmp_path: Path) -> None:
    assert "no file of weights" in refusal(tmp_path)


def test_folder_with_several_weights(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_file({"x": np.zeros(1, np.float32)}, tmp_path / f"{name}.safetensors")
    message = refusal(tmp_path)
    assert "2 files of weights" in message and "a.safetensors, b.safetensors" in message


def test_other_suffix(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"")
    assert ".safetensors" in refusal(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a whole safetensors file"),
        (b"abc", "not a whole safetensors file"),
        (b"\xff" * 64, "not a whole safetensors file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-lfs pointer"),
        (b"<!DOCTYPE html><html></html>", "HTML page"),
        (b"\x80\x02}q\x00.", "pickle"),
        (b"PK\x03\x04rest", "zip archive"),
    ],
)
def test_files_that_are_something_else(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    message = refusal(path)
    assert words in message and str(path) in message


@pytest.mark.parametrize("space", [b"", b" ", b"\n\t"])
@pytest.mark.parametrize("length", [0x80, 0x280, 0x3C80, 0x4B50])
def test_a_header_may_be_as_long_as_another_formats_mark(tmp_path: Path, length: int, space: bytes) -> None:
    """The length comes first: its bytes may be those that a pickle begins with, an HTML page or a zip archive."""
    header = (space + b'{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}').ljust(length)
    content = length.to_bytes(8, "little") + header + np.arange(2, dtype="<f4").tobytes()
    (tmp_path / "x.safetensors").write_bytes(content)
    np.testing.assert_array_equal(safetensors_file.read(tmp_path / "x.safetensors")["x"].read("x"), [0, 1])


def test_truncated_file(write_checkpoint, make_config) -> None:
    path = write_checkpoint(make_config()) / "model.safetensors"
    for length in (4, 100, len(path.read_bytes()) - 1):
        path.write_bytes(path.read_bytes()[:length])
        assert "not a whole safetensors file" in refusal(path)


def test_wrong_dtype_is_named(write_checkpoint, make_config, make_tensors) -> None:
    tensors = make_tensors(make_config())
    message = refusal(write_checkpoint(make_config(), tensors, dtype=np.float64))
    assert "dtype float64" in message and any(name in message for name in tensors)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("blocks.1.norm2.weight"), ["blocks.1.norm2.weight is missing", "[16]"]),
        (lambda t: t.update(surplus=np.zeros(3, np.float32)), ["surplus", "not expected"]),
        (
            lambda t: t.update({"blocks.0.attn_qkv.weight": t["blocks.0.attn_qkv.weight"].T.copy()}),
            ["blocks.0.attn_qkv.weight has shape [16, 48], expected [48, 16]"],
        ),
        (lambda t: t["blocks.0.mlp.0.bias"].__setitem__(3, np.nan), ["blocks.0.mlp.0.bias", "NaN"]),
        (lambda t: t["output_layer.linear.weight"].__setitem__((1, 2), np.inf), ["output_layer.linear.weight"]),
    ],
)
def test_every_tensor_is_accounted_for(write_checkpoint, make_config, make_tensors, change, words) -> None:
    tensors = make_tensors(make_config())
    change(tensors)
    message = refusal(write_checkpoint(make_config(), tensors))
    assert all(word in message for word in words), message


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_name_in_the_file_cannot_write_to_the_terminal(write_checkpoint, make_config, make_tensors, dtype) -> None:
    hostile = {"evil\n\x1b[2J": np.ones(1, dtype)}
    folder = write_checkpoint(make_config())
    save_file(make_tensors(make_config()) | hostile, folder / "model.safetensors")
    message = refusal(folder)
    assert "evil" in message and message.isprintable()


def test_a_bare_file_of_another_architecture(write_checkpoint, make_config) -> None:
    folder = write_checkpoint(make_config())
    (folder / "config.json").unlink()
    assert "without a config.json" in refusal(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.pop("tokens"), "tokens"),
        (lambda d: d.update(tokens="5"), "$.tokens"),
        (lambda d: d.update(tokens=True), "$.tokens"),
        (lambda d: d["model"].update(hidden_size=16.5), "$.model.hidden_size"),
        (lambda d: d["model"].update(n_heads=3), "heads is 3"),
        (lambda d: d["model"].update(n_heads=True), "$.model.n_heads"),
        (lambda d: d["model"].update(hidden_size=1 << 15, n_blocks=512), "parameters is"),
        (lambda d: d["model"].update(n_blocks=0), "blocks is 0"),
        (lambda d: d["model"].update(hidden_size=1 << 40), "width is"),
        (lambda d: d["graph"].update(type="ring"), "$.graph.type"),
        (lambda d: d["noise"].update(type="polynomial"), "$.noise.type"),
        (lambda d: d["noise"].update(type="geometric", sigma_min=30.0), "sigma_min is 30.0"),
        (lambda d: d["tokenizer"].update(characters="ab"), "characters has 2"),
        (lambda d: d["generation"].update(steps=0), "steps is 0"),
        (lambda d: d["generation"].update(temperature=-1.0), "temperature is -1.0"),
    ],
)
def test_config_faults(
    write_checkpoint, make_config, make_document, change: Callable[[dict], object], words: str
) -> None:
    config = make_config()
    folder = write_checkpoint(config)
    document = make_document(config)
    change(document)
    (folder / "config.json").write_text(json.dumps(document))
    message = refusal(folder)
    assert words in message and "config.json" in message


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"tokens": NaN}', '{"tokens": 1e400}', "[" * 5000, "\xff"])
def test_files_that_are_not_configs(write_checkpoint, make_config, text: str) -> None:
    folder = write_checkpoint(make_config())
    (folder / "config.json").write_text(text, encoding="latin-1")
    assert "config.json" in refusal(folder)


def test_simplex_is_another_name_for_uniform(write_checkpoint, make_config, make_document) -> None:
    config = make_config("ddit", "uniform")
    folder = write_checkpoint(config)
    document = make_document(config)
    document["graph"]["type"] = "simplex"
    (folder / "config.json").write_text(json.dumps(document))
    assert checkpoint.read(folder).config.graph == "uniform"


def test_the_configs_that_are_read_are_written_the_same(tmp_path: Path, make_config) -> None:
    for config in (make_config(), make_config("annotated", "uniform"), make_config(characters=None)):
        (tmp_path / "config.json").write_text(json.dumps(config_json.document(config)))
        assert config_json.read(tmp_path / "config.json") == config


def test_a_byte_order_mark_and_line_ends_of_windows(write_checkpoint, make_config, make_document) -> None:
    folder = write_checkpoint(make_config())
    text = json.dumps(make_document(make_config()), indent=2).replace("\n", "\r\n")
    (folder / "config.json").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert checkpoint.read(folder).config == make_config()
    (folder / "config.json").unlink()
    (folder / ".hydra").mkdir()
    (folder / ".hydra" / "config.yaml").write_bytes(b"\xef\xbb\xbf" + text.encode())  # JSON is YAML
    assert checkpoint.read(folder).config == make_config()


@pytest.mark.parametrize("name", ["config.json", ".hydra/config.yaml", "model.safetensors.index.json"])
def test_utf_16_is_named(write_checkpoint, make_config, make_document, name: str) -> None:
    folder = write_checkpoint(make_config())
    if name != "config.json":
        (folder / "config.json").unlink()
    if name.startswith("model"):
        (folder / "model.safetensors").unlink()
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(json.dumps(make_document(make_config())).encode("utf-16"))
    assert "is UTF-16, allowed: UTF-8" in refusal(folder)


def test_links_and_names_with_spaces(write_checkpoint, make_config, tmp_path: Path) -> None:
    folder = write_checkpoint(make_config())
    spaced = tmp_path / "my models (1)"
    spaced.mkdir()
    (spaced / "the weights.safetensors").symlink_to(folder / "model.safetensors")
    (spaced / "config.json").symlink_to(folder / "config.json")
    (tmp_path / "link").symlink_to(spaced, target_is_directory=True)
    for path in (spaced, tmp_path / "link", spaced / "the weights.safetensors"):
        assert checkpoint.read(path).config == make_config()
    (tmp_path / "loop.safetensors").symlink_to(tmp_path / "loop.safetensors")
    assert "loop.safetensors: " in refusal(tmp_path / "loop.safetensors")


def test_an_empty_path_is_not_the_current_folder(write_checkpoint, make_config, monkeypatch) -> None:
    """An unset variable in a script."""
    monkeypatch.chdir(write_checkpoint(make_config()))
    assert checkpoint.read(".").config == make_config()
    with pytest.raises(CheckpointError, match="the model is an empty path"):
        checkpoint.read("")


@pytest.mark.parametrize(
    ("model_type", "told"),
    [
        ("gidd", " (GIDD, which is not run)"),
        ("dit", " (GIDD, which is not run)"),
        ("bert", ""),
    ],
)
def test_a_model_of_another_kind_is_refused_by_name(tmp_path: Path, model_type: str, told: str) -> None:
    sizes = {"vocab_size": 6, "model_length": 12, "hidden_dim": 16, "cond_dim": 8, "n_blocks": 2, "n_heads": 2}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type, **sizes}))
    save_file({"x": np.zeros(1, np.float32)}, tmp_path / "model.safetensors")
    message = refusal(tmp_path)
    assert message.startswith(f"{tmp_path / 'config.json'}: model_type is {model_type!r}{told}, allowed: 'mdlm', ")
    assert message.endswith("or none with SEDD's keys")


def test_sedds_keys_are_read_under_any_model_type(write_checkpoint, make_config) -> None:
    folder = write_checkpoint(make_config("ddit"))
    document = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({"model_type": "sedd"} | document))
    assert checkpoint.read(folder).config == make_config("ddit")
