"""Mutated files of every format: they are read or refused in one line, soon, and in little memory."""

from __future__ import annotations

import json
import os
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from fastsedd.checkpoint import config_json, hydra_config, weights
from fastsedd.errors import CheckpointError

FILES = int(os.environ.get("FASTSEDD_FUZZ_FILES", "20000"))  # of the slow test

MAX_MEMORY = 64 << 20  # bytes, for files of a hundredth of that
MAX_SECONDS = 20  # a hang, even on a busy machine

# What the formats' own parsers look for.
TOKENS = [
    b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"PK\x06\x06", b"data.pkl", b"archive/data/0",
    b"\0" * 4, b"\xff" * 4, b"\xff" * 8, b"\x7f\xff\xff\xff",
    b'"', b"{", b"}", b"[", b"]", b":", b",", b"1e400", b"-1", b"NaN", b"9" * 30, b"true", b"null", b"F32", b"BF16",
    b"../", b"\x80\x02", b"Q", b"R", b"(", b"t", b".", b"s", b"u", b"2", b"0", b"cos\nsystem\n",
    b"r\xff\xff\xff\x7f", b"\x8b\xff\xff\xff\x7f", b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"&a ", b"*a ", b"<<: *a\n", b"- ", b"0x_", b"1B-words", b"2024-99-99", b"!!int ", b"!!timestamp ", b"!!binary ",
    b'"\\UFFFFFFFF"', b'"\\ud800"', b"%YAML 1." + b"9" * 5000 + b"\n---\n", b"1:59", b"|", b"? ", b"!!set ", b"!%FF ",
]  # fmt: skip


@pytest.fixture
def formats(
    tmp_path: Path, make_config: Any, make_tensors: Any, make_document: Any, torch_file: Any
) -> dict[str, bytes]:
    """A valid file of each format, by the name under which it is read."""
    config = make_config(blocks=1, width=4, heads=2)
    tensors = make_tensors(config)
    save_file(tensors, tmp_path / "model.safetensors")
    torch_file(tmp_path / "pytorch_model.bin", tensors)
    torch_file(tmp_path / "checkpoint.pth", {"model": tensors, "ema": {"shadow_params": list(tensors.values())}})
    found = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with zipfile.ZipFile(tmp_path / "checkpoint.pth") as archive:
        found["data.pkl"] = archive.read("archive/data.pkl")  # behind the archive's checksum
    document = json.dumps(make_document(config)).encode()
    index = {"weight_map": dict.fromkeys(tensors, "model.safetensors")}
    return found | {
        "config.json": document,
        "config.yaml": yaml.safe_dump(json.loads(document)).encode(),
        "model.safetensors.index.json": json.dumps(index).encode(),
    }


@st.composite
def mutations(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """A few changes of bytes, most of them where the structure is: near the beginning and the end."""
    changes = draw(
        st.lists(
            st.tuples(
                st.sampled_from(["set", "insert", "delete", "copy", "cut"]),
                st.sampled_from(["anywhere", "beginning", "end"]),
                st.floats(0, 1, exclude_max=True),
                st.sampled_from(TOKENS) | st.binary(min_size=1, max_size=8),
                st.integers(1, 64),
            ),
            min_size=1,
            max_size=4,
        )
    )

    def mutate(content: bytes) -> bytes:
        for kind, where, at, token, count in changes:
            span = len(content) if where == "anywhere" else min(len(content), 2000)
            position = int(at * span) + (len(content) - span if where == "end" else 0)
            before, after = content[:position], content[position:]
            if kind == "set":
                content = before + token + after[len(token) :]
            elif kind == "insert":
                content = before + token * (1 + count // 16) + after
            elif kind == "delete":
                content = before + after[count:]
            elif kind == "copy":
                content = before + after[:count] + after
            else:
                content = before
        return content

    return mutate


def read_mutated(folder: Path, formats: dict[str, bytes], name: str, mutate: Callable[[bytes], bytes]) -> str:
    """The refusal, "" where it is read; asserts that it comes soon, in one line, and within little memory."""
    damaged = mutate(formats[name])
    if name == "data.pkl":
        with zipfile.ZipFile(folder / "x.bin", "w") as archive:
            archive.writestr("archive/data.pkl", damaged)
            archive.writestr("archive/data/0", b"\0" * 96)
        path = folder / "x.bin"
    else:
        path = folder / name
        path.write_bytes(damaged)
    if name == "model.safetensors.index.json":
        (folder / "model.safetensors").write_bytes(formats["model.safetensors"])
    started = time.monotonic()
    tracemalloc.start()
    try:
        if path.name.startswith("config."):
            (hydra_config if path.suffix == ".yaml" else config_json).read(path)
        else:
            for key, tensor in weights.read(path).items():
                if len(tensor.shape) < 32 and tensor._span < 1 << 20:
                    tensor.read(key)
        said = ""
    except CheckpointError as error:
        said = str(error)
        assert said.isprintable() and said
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < MAX_MEMORY
    assert time.monotonic() - started < MAX_SECONDS
    return said


def fuzz(folder: Path, formats: dict[str, bytes], files: int) -> dict[str, int]:
    """Numbers of mutated files that were tried, and that were refused."""
    for name in formats.keys() - {"data.pkl"}:
        assert read_mutated(folder, formats, name, bytes) == ""
    counts = {"tried": 0, "refused": 0}

    @settings(
        max_examples=files,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.nested_given],
    )
    @given(st.sampled_from(sorted(formats)), mutations())
    def try_one(name: str, mutate: Callable[[bytes], bytes]) -> None:
        counts["tried"] += 1
        counts["refused"] += bool(read_mutated(folder, formats, name, mutate))

    try_one()
    return counts


@st.composite
def values_of_yaml(draw: st.DrawFn) -> str:
    """What may stand behind a key: a tag or none, then text from the characters that YAML's own words are made of."""
    tag = draw(st.sampled_from(["", "", "", "!!int ", "!!float ", "!!bool ", "!!timestamp ", "!!binary ", "!!omap "]))
    words = st.sampled_from(
        ["0x", "0b", "0o", "1_", ".inf", "1e", "2024-", "-02-30", "T25:61:00", "\\U", "FFFF", "[" * 999]
    )
    return tag + draw(
        st.text("0123456789abefxyz+-._:eE%@!&*|>?#,'\"\\[]{}= \n\té\x85", max_size=12) | st.lists(words).map("".join)
    )


def fuzz_yaml(folder: Path, text: str, files: int) -> set[str]:
    """Read a config.yaml with one value or key replaced, `files` times; the messages of those that are refused."""
    path = folder / "config.yaml"
    lines = text.splitlines()
    messages = set()

    @settings(max_examples=files, deadline=None, database=None)
    @given(st.integers(0, len(lines) - 1), values_of_yaml(), st.booleans())
    def try_one(line: int, value: str, is_key: bool) -> None:
        key = value if is_key else lines[line].partition(":")[0]
        path.write_text("\n".join([*lines[:line], f"{key}: {value}", *lines[line + 1 :]]), encoding="utf-8")
        try:
            assert hydra_config.read(path).family
        except CheckpointError as error:
            messages.add(str(error))

    try_one()
    assert all(message.isprintable() and message.startswith(f"{path}: ") for message in messages)
    return messages


@pytest.mark.parametrize("files", [100, pytest.param(FILES // 4, marks=pytest.mark.slow)])
def test_mutated_training_configs(tmp_path: Path, formats: dict[str, bytes], files: int) -> None:
    messages = fuzz_yaml(tmp_path, formats["config.yaml"].decode(), files)
    assert len(messages) > 20 and any("not a valid" in message for message in messages)


def test_some_mutated_files(tmp_path: Path, formats: dict[str, bytes]) -> None:
    counts = fuzz(tmp_path, formats, 400)
    assert counts["refused"] > counts["tried"] // 4


@pytest.mark.slow
def test_many_mutated_files(tmp_path: Path, formats: dict[str, bytes], record_property: Any) -> None:
    counts = fuzz(tmp_path, formats, FILES)
    record_property("files", counts)
    assert counts["tried"] >= FILES and counts["refused"] > FILES // 4
