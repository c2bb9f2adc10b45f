"""The memory that a request takes: the weights as they are multiplied, and little besides."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import masked_models
import numpy as np
import pytest

import fastsedd

pytest.importorskip("resource", reason="the system does not tell of memory")

PROGRAM = """
import resource, sys
import fastsedd.engine
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
fastsedd.load(dtype=sys.argv[1]).generate(steps=3, seed=0)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""

MOST_BESIDE_WEIGHTS = 64  # MiB: compiled kernels, scratch memory, a tensor on its way


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the unit is another")
@pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("bfloat16", 2), ("int8", 1)])
def test_a_generation_of_the_shipped_model(dtype: str, size: int) -> None:
    """The peak of a process over what it has after importing; kernels are compiled by an earlier one."""
    command = [sys.executable, "-c", PROGRAM, dtype]
    subprocess.run(command, check=True, capture_output=True)
    peak = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) / 1024
    weights = size * fastsedd.load().parameters / (1 << 20)
    assert peak < weights + MOST_BESIDE_WEIGHTS


QWEN3 = {
    "vocab_size": 151936, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
    "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "rope_theta": 1e6, "mask_token_id": 151669,
    "eos_token_id": None, "max_position_embeddings": 4096,
}  # fmt: skip
LOADING = """
import re, sys
import fastsedd
model = fastsedd.load(sys.argv[1], sys.argv[2])
status = open("/proc/self/status").read()
print(*(re.search(name + r":\\s+(\\d+) kB", status)[1] for name in ("VmRSS", "VmHWM")))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_loading_a_language_model_of_600_million_weights(tmp_path: Path) -> None:
    """Qwen3-0.6B's sizes in int8, random: resident once loaded, and at most while it loads, of the whole process."""
    pytest.importorskip("tokenizers", reason="an extra")
    write_bfloat16(tmp_path, masked_models.config("a2d-qwen3", **QWEN3).tensor_shapes)
    (tmp_path / "config.json").write_text(json.dumps(masked_models.document("a2d-qwen3", **QWEN3)))
    command = [sys.executable, "-c", LOADING, str(tmp_path), "int8"]
    subprocess.run(command, check=True, capture_output=True)  # which compiles
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    loaded, peak = (int(size) / 1024 for size in done.stdout.split())
    assert loaded < 0.9 * 1024
    assert peak < loaded + 100


def write_bfloat16(folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Small random numbers, tensor by tensor: all of them take gigabytes."""
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    encoded = json.dumps(header).encode()
    rng = np.random.default_rng(0)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for shape in shapes.values():
            values = np.float32(0.02) * rng.standard_normal(shape, np.float32)
            file.write((values.view(np.uint32) >> 16).astype("<u2").tobytes())
