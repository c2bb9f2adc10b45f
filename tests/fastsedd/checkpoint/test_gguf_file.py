"""GGUF files: values bit for bit as the gguf package reads them, and whatever is wrong with a file in one line."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

gguf = pytest.importorskip("gguf")

import gguf_models  # noqa: E402

from fastsedd import loading  # noqa: E402
from fastsedd.checkpoint import gguf_file  # noqa: E402
from fastsedd.checkpoint.gguf_blocks import BLOCKS  # noqa: E402
from fastsedd.checkpoint.stored import CHUNK  # noqa: E402
from fastsedd.errors import CheckpointError  # noqa: E402

MEMORY = 1 << 22  # bytes that a refusal may take
KINDS = ("F32", "F16", "BF16", *BLOCKS)


def string(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data


def tensor(name: str = "a", shape: tuple[int, ...] = (32,), kind: int = 0, offset: int = 0) -> bytes:
    return string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def key(name: str, kind: int, value: bytes) -> bytes:
    return string(name) + struct.pack("<I", kind) + value


def array(kind: int, count: int, content: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, count) + content


def header(tensors: int, keys: int, *parts: bytes, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys) + b"".join(parts)


def whole(content: bytes, data: bytes = bytes(128)) -> bytes:
    return content + bytes(-len(content) % 32) + data


ALIGNMENT = "general.alignment"
FAULTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "it has 0 bytes"),
    "another file": (b"PK\x03\x04" + bytes(40), "a zip archive"),
    "no magic": (b"ABCD" + bytes(40), "begins with b'ABCD'"),
    "version 1": (header(0, 0, version=1), "its version is 1, allowed: 2, 3"),
    "big-endian": (header(0, 0, version=0x03000000), "(big-endian)"),
    "2**63 tensors": (header(1 << 63, 0), "9223372036854775808 tensors"),
    "2**63 keys": (header(0, 1 << 63), "9223372036854775808 keys"),
    "a string of 2**63 bytes": (header(0, 1, key("k", 8, struct.pack("<Q", 1 << 63))), "the value of 'k' would have"),
    "a string longer than the file": (header(0, 1, key("k", 8, struct.pack("<Q", 1 << 20))), "after the file's end"),
    "2**63 numbers": (header(0, 1, key("k", 9, array(4, 1 << 63))), "after the file's end"),
    "2**63 strings": (header(0, 1, key("k", 9, array(8, 1 << 63))), "strings, allowed"),
    "strings without room": (header(0, 1, key("k", 9, array(8, 1 << 20))), "more than the file has room for"),
    "an array of arrays": (header(0, 1, key("k", 9, array(9, 1, array(4, 0)))), "array of arrays"),
    "a type of value": (header(0, 1, key("k", 13, bytes(8))), "a value of type 13"),
    "a type of element": (header(0, 1, key("k", 9, array(77, 1, bytes(8)))), "a value of type 77"),
    "a bool of 2": (header(0, 1, key("k", 7, b"\2")), "neither 0 nor 1"),
    "a key that is not text": (header(0, 1, key("k", 8, string(b"\xff"))), "not UTF-8"),
    "a key twice": (header(0, 2, key("k", 0, b"1"), key("k", 0, b"1")), "the key 'k' occurs twice"),
    "a long key": (header(0, 1, string("k" * 70000)), "key 0 would have 70000 bytes"),
    "a tensor twice": (whole(header(2, 0, tensor(), tensor())), "the tensor 'a' occurs twice"),
    "a long name": (whole(header(1, 0, tensor("n" * 65))), "the name of tensor 0 would have 65 bytes"),
    "no dimensions": (whole(header(1, 0, tensor(shape=()))), "0 dimensions"),
    "five dimensions": (whole(header(1, 0, tensor(shape=(1,) * 5))), "5 dimensions"),
    "no elements": (whole(header(1, 0, tensor(shape=(32, 0)))), "shape [0, 32]"),
    "2**64 elements": (whole(header(1, 0, tensor(shape=(1 << 32, 1 << 32)))), "2**63 - 1 elements"),
    "more than the file": (whole(header(1, 0, tensor(shape=(1 << 40,)))), "the file at"),
    "an unknown type": (whole(header(1, 0, tensor(kind=99))), "has type 99, allowed: F32, F16, BF16, Q8_0"),
    "a type by name": (whole(header(1, 0, tensor(kind=13))), "has type Q5_K"),
    "half a block": (whole(header(1, 0, tensor(shape=(48,), kind=8))), "multiples of 32"),
    "an overlap": (whole(header(2, 0, tensor("a"), tensor("b"))), "has offset 0, expected 128"),
    "a gap": (whole(header(1, 0, tensor(offset=32)), bytes(256)), "has offset 32, expected 0"),
    "an offset beyond": (whole(header(1, 0, tensor(offset=1 << 63))), "expected 0"),
    "alignment 0": (whole(header(0, 1, key(ALIGNMENT, 4, bytes(4)))), "power of two"),
    "alignment 24": (whole(header(0, 1, key(ALIGNMENT, 4, struct.pack("<I", 24)))), "power of two"),
    "alignment 2**31": (whole(header(0, 1, key(ALIGNMENT, 4, struct.pack("<I", 1 << 31)))), "power of two"),
    "alignment as text": (whole(header(0, 1, key(ALIGNMENT, 8, string("32")))), "power of two"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_file_is_refused_in_one_line_and_little_memory(fault: str, tmp_path: Path) -> None:
    content, words = FAULTS[fault]
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    tracemalloc.start()
    with pytest.raises(CheckpointError) as caught:
        gguf_file.read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    message = str(caught.value)
    assert words in message and str(path) in message and "\n" not in message
    assert peak < MEMORY


def test_versions_alignments_and_values(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    values = np.arange(32, dtype="<f4")
    keys = (
        key("general.alignment", 4, struct.pack("<I", 64)), key("a", 9, array(8, 2, string("x") + string("é"))),
        key("b", 9, array(5, 3, struct.pack("<3i", -1, 0, 7))), key("c", 7, b"\1"),
        key("d", 12, struct.pack("<d", 0.1)), key("e", 11, struct.pack("<q", -5)),
    )  # fmt: skip
    for version in (2, 3):
        content = header(1, len(keys), *keys, tensor(), version=version)
        path.write_bytes(content + bytes(-len(content) % 64) + values.tobytes())
        found = gguf_file.read(path)
        assert found.metadata["a"] == ["x", "é"] and found.metadata["b"].tolist() == [-1, 0, 7]
        assert [found.metadata[name] for name in "cde"] == [True, 0.1, -5]
        np.testing.assert_array_equal(found.tensors["a"].read("a"), values)


@pytest.mark.parametrize("kind", KINDS)
def test_values_are_those_of_the_gguf_package(kind: str, tmp_path: Path) -> None:
    """Any bytes of blocks, and more of them than are converted at a time."""
    number = gguf.GGMLQuantizationType[kind]
    rng = np.random.default_rng(3)
    rows = CHUNK // 256 + 5
    if kind in BLOCKS:
        block = BLOCKS[kind]
        data = rng.integers(0, 256, (rows * 256 // block.count, block.nbytes), np.uint8)
        for first in block.halves:
            exponents = rng.integers(-24, 3, (len(data), 1))
            halves = (rng.uniform(-2, 2, exponents.shape) * 2.0**exponents).astype(np.float16)
            data[:, first : first + 2] = halves.view(np.uint8)
        data = data.reshape(rows, -1)
    else:
        data = gguf.quants.quantize(rng.standard_normal((rows, 256)).astype(np.float32), number)
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_tensor("first", np.ones(3, np.float32))
    writer.add_tensor("blocks", data, raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    expected = gguf.quants.dequantize(data, number).astype(np.float32).reshape(rows, 256)
    found = gguf_file.read(path).tensors["blocks"]
    assert found.shape == (rows, 256)
    np.testing.assert_array_equal(found.read("blocks").view(np.uint32), expected.view(np.uint32))
    blocks = found.blocks("blocks")
    assert (blocks is None) == (kind not in BLOCKS)
    if blocks is not None:
        some = np.array([5, 0, rows - 1, 5])
        np.testing.assert_array_equal(blocks.rows(some).view(np.uint32), expected[some].view(np.uint32))


@pytest.mark.parametrize("kind", BLOCKS)
def test_scales_that_are_not_finite_are_refused(kind: str, tmp_path: Path) -> None:
    block = BLOCKS[kind]
    for first in block.halves:
        data = np.zeros((2, block.nbytes), np.uint8)
        data[1, first : first + 2] = np.frombuffer(np.float16(np.inf).tobytes(), np.uint8)
        numbers = {"Q4_0": 2, "Q4_1": 3, "Q8_0": 8, "Q4_K": 12, "Q6_K": 14}
        path = tmp_path / "m.gguf"
        path.write_bytes(whole(header(1, 0, tensor(shape=(block.count, 2), kind=numbers[kind])), data.tobytes()))
        stored = gguf_file.read(path).tensors["a"]
        for look in (stored.read, stored.blocks):
            with pytest.raises(CheckpointError, match="NaN or infinite"):
                look("a")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small model with its tokenizer, of which all parts are in use."""
    sizes: dict[str, Any] = {"intermediate_size": 256, "num_hidden_layers": 1, "tie_word_embeddings": True}
    written = gguf_models.write(tmp_path_factory.mktemp("model"), "a2d-llama", "Q4_K", **sizes)
    return written.file.read_bytes()


def outcome(path: Path, content: bytes) -> bool:
    """True if a file is described; whatever else than one line raises fails the test."""
    path.write_bytes(content)
    try:
        assert loading.outline(path) is not None
        message = None
    except CheckpointError as error:
        message = str(error)
    assert message is None or ("\n" not in message and str(path) in message)
    return message is None


def cuts(model: bytes) -> range:
    end = max(index for index, byte in enumerate(model[-64:]) if byte) + len(model) - 64
    return range(end)


def test_a_file_that_is_cut_short_is_refused(model: bytes, tmp_path: Path) -> None:
    some = np.random.default_rng(0).choice(cuts(model), 100)
    assert not any(outcome(tmp_path / "m.gguf", model[:end]) for end in (*range(24), *some.tolist()))


NUMBERS = (0, 1, 255, 1 << 31, 1 << 40, 1 << 63, (1 << 64) - 1)


def mutated(model: bytes, rng: np.random.Generator) -> bytes:
    """A file with some bytes changed, most of them in its header: at random, or a number that is far too large."""
    found = bytearray(model)
    size = 14000 if rng.random() < 0.5 else 1200
    for _ in range(rng.integers(1, 4)):
        place = int(rng.integers(0, size))
        choice = rng.integers(0, 5)
        if choice == 0:
            found[place] = rng.integers(0, 256)
        elif choice == 1:
            found[place : place + 8] = struct.pack("<Q", NUMBERS[rng.integers(len(NUMBERS))])
        elif choice == 2:
            found[place] ^= 1 << int(rng.integers(0, 8))
        elif choice == 3:
            del found[place : place + int(rng.integers(1, 20))]
        else:
            found[place:place] = rng.bytes(int(rng.integers(1, 20)))
    return bytes(found)


def survive(model: bytes, path: Path, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    described = sum(outcome(path, mutated(model, rng)) for _ in range(count))
    assert 0 < described < count


def test_mutated_files(model: bytes, tmp_path: Path) -> None:
    survive(model, tmp_path / "m.gguf", 200, 0)


@pytest.mark.slow
def test_many_mutated_files(model: bytes, tmp_path: Path) -> None:
    survive(model, tmp_path / "m.gguf", 20000, 1)


@pytest.mark.slow
def test_a_header_that_is_cut_at_any_byte_is_refused(model: bytes, tmp_path: Path) -> None:
    assert not any(outcome(tmp_path / "m.gguf", model[:end]) for end in range(14000))
