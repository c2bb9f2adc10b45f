"""The memory that loading a masked language model takes: its packed weights, and some rows on their way."""

from __future__ import annotations

import gc
import json
import math
import tracemalloc
from io import FileIO
from pathlib import Path

import fastsedd_kernels as fk
import masked_models
import numpy as np
import pytest
from safetensors.numpy import save_file

from fastsedd import checkpoint, models
from fastsedd.checkpoint.stored import StoredFile
from fastsedd.models.backbone import parts
from fastsedd.models.backbone.naming import Named
from fastsedd.models.backbone.network import Backbone

PART = 1 << 17  # bytes of rows at a time: large matrices are small here


def write_shards(folder: Path, family: str, shards: int = 3, **changes: object) -> Path:
    """A folder of shards in bfloat16 with an index, as large uploads come."""
    masked_models.write(folder, family, **changes)
    tensors = masked_models.tensors(masked_models.config(family, **changes))
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    index = {}
    for i in range(shards):
        file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        part = {name: to_bfloat16(tensors[name]) for name in names[i::shards]}
        save_bfloat16(folder / file, part)
        index |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return folder


def to_bfloat16(tensor: np.ndarray) -> np.ndarray:
    return (tensor.view(np.uint32) >> 16).astype(np.uint16)


def save_bfloat16(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """NumPy has no bfloat16: the file is written as uint16, and its header says so afterwards, in as many bytes."""
    save_file(tensors, path)
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + size].replace(b'"U16"', b'"BF16"').rstrip(b" ")
    path.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + size :])


def check_peak(path: Path, dtype: str) -> None:
    read = checkpoint.read(path)
    Backbone(read.config, read.tensors, models.Precision(dtype))  # which compiles what packs
    gc.collect()
    tracemalloc.start()
    try:
        network = Backbone(read.config, read.tensors, models.Precision(dtype))
        now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert network.nbytes <= now < 1.05 * network.nbytes + (1 << 18)
    assert peak - network.nbytes < 8 * PART + (1 << 20), f"{peak - network.nbytes} bytes beside the weights"


@pytest.mark.parametrize("dtype", ["bfloat16", "int8", "int4"])
@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llada", {"d_model": 256, "mlp_hidden_size": 384, "vocab_size": 6000, "embedding_size": 6000}),
        ("Dream", {"hidden_size": 256, "intermediate_size": 384, "vocab_size": 6000, "tie_word_embeddings": False}),
        ("a2d-qwen3", {"hidden_size": 256, "intermediate_size": 384, "vocab_size": 6000}),
    ],
)
def test_some_rows_beside_the_weights(
    tmp_path: Path, family: str, changes: dict, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "AT_ONCE", PART)
    folder = write_shards(tmp_path / "model", family, **changes)
    check_peak(folder, dtype)


@pytest.mark.parametrize(
    ("kind", "dtype"), [("Q8_0", "stored"), ("Q4_K", "stored"), ("Q6_K", "stored"), ("Q8_0", "int8")]
)
def test_some_blocks_beside_the_weights(tmp_path: Path, kind: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gguf_models = pytest.importorskip("gguf_models", reason="the gguf package is not installed")
    monkeypatch.setattr(parts, "AT_ONCE", PART)
    written = gguf_models.write(tmp_path / "model", "a2d-qwen3", kind, pre=None, vocab_size=6000)
    check_peak(written.file, dtype)


def test_every_byte_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_shards(tmp_path / "model", "a2d-qwen3", hidden_size=256, vocab_size=2000)
    counts: list[int] = []
    whole = StoredFile.read_into

    def counted(self: StoredFile, file: FileIO, offset: int, memory: memoryview) -> None:
        counts.append(len(memory))
        whole(self, file, offset, memory)

    monkeypatch.setattr(parts, "AT_ONCE", PART)
    read = checkpoint.read(folder)
    monkeypatch.setattr(StoredFile, "read_into", counted)
    Backbone(read.config, read.tensors, models.Precision("int8"))
    assert sum(counts) == sum(2 * math.prod(tensor.shape) for tensor in read.stored.values())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "int4", "int8g"])
@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("outputs", [1, 257, 768, 1000])
def test_parts_have_the_bits_of_the_whole(
    outputs: int, paired: bool, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "AT_ONCE", 1)
    weights = list(np.random.default_rng(outputs).standard_normal((2, outputs, 70)).astype(np.float32))
    made = 0

    def part(first: int, last: int) -> fk.PackedWeight:
        nonlocal made
        made += 1
        cut = [weight[first:last] for weight in weights]
        return fk.pack(cut if paired else cut[0], dtype)

    found = parts.packed(part, (outputs, 70), dtype, paired=paired)
    whole = fk.pack(weights if paired else weights[0], dtype)
    assert (found.shape, found.dtype, found.paired) == (whole.shape, whole.dtype, whole.paired)
    assert made > 1 or outputs < 768
    pairs = zip((found.panels, *found.quantisation), (whole.panels, *whole.quantisation), strict=True)
    for array, expected in pairs:
        assert (array.dtype, array.flags.writeable) == (expected.dtype, False)
        np.testing.assert_array_equal(array.view(np.uint8), expected.view(np.uint8))


@pytest.mark.parametrize(
    ("family", "kind"), [("smdm", ""), ("gpt2", ""), ("a2d-llama", "F16"), ("a2d-llama", "Q8_0"), ("llada", "Q4_K")]
)
def test_rows_are_those_of_the_whole(tmp_path: Path, family: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind:
        gguf_models = pytest.importorskip("gguf_models", reason="the gguf package is not installed")
        path = gguf_models.write(tmp_path / "model", family, kind, pre=None).file
    else:
        path = masked_models.write(tmp_path / "model", family, template=None)
    read = checkpoint.read(path)
    tensors = read.tensors
    for name in tensors:
        whole, blocks = tensors[name], tensors.blocks(name, 0, len(tensors[name]))
        for first, last in ((0, 1), (3, 35), (len(whole) - 5, len(whole))):
            np.testing.assert_array_equal(tensors.rows(name, first, last), whole[first:last])
            if blocks is not None:
                np.testing.assert_array_equal(tensors.blocks(name, first, last).data, blocks.data[first:last])
    named = Named(read.config, tensors)
    for name in named:
        whole = named[name]
        assert whole.shape == named.shape(name)
        np.testing.assert_array_equal(named.rows(name, len(whole) - 5, len(whole)), whole[-5:])
