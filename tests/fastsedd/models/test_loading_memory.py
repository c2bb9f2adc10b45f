"""The memory that loading a masked language model takes: its packed weights, and one tensor on its way."""

from __future__ import annotations

import gc
import json
import math
import tracemalloc
from pathlib import Path

import masked_models
import numpy as np
import pytest
from safetensors.numpy import save_file

from fastsedd import checkpoint, models
from fastsedd.models.backbone.network import Backbone


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


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llada", {"d_model": 256, "mlp_hidden_size": 384, "vocab_size": 6000, "embedding_size": 6000}),
        ("Dream", {"hidden_size": 256, "intermediate_size": 384, "vocab_size": 6000, "tie_word_embeddings": False}),
        ("a2d-qwen3", {"hidden_size": 256, "intermediate_size": 384, "vocab_size": 6000}),
    ],
)
def test_no_more_than_one_tensor_beside_the_weights(tmp_path: Path, family: str, changes: dict, dtype: str) -> None:
    read = checkpoint.read(write_shards(tmp_path / "model", family, **changes))
    largest = 4 * max(math.prod(tensor.shape) for tensor in read.stored.values())
    Backbone(read.config, read.tensors, models.Precision(dtype))  # which compiles what packs
    gc.collect()
    tracemalloc.start()
    try:
        network = Backbone(read.config, read.tensors, models.Precision(dtype))
        now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert network.nbytes <= now < 1.05 * network.nbytes + (1 << 18)
    assert peak - network.nbytes < 1.1 * largest + (1 << 20)
