"""Every fault that a file may have ends in one line, from Python and on the command line."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save_file

from fastsedd import checkpoint, cli
from fastsedd.checkpoint import hydra_config, safetensors_file, stored
from fastsedd.errors import CheckpointError

NAME = "blocks.0.norm1.weight"  # 16 float32 values
MATRIX = "blocks.0.attn_qkv.weight"  # [48, 16]


def with_header(edit: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    """A fault in the header alone, whose length is set right."""

    def change(content: bytes) -> bytes:
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        edit(header)
        encoded = json.dumps(header).encode()
        return len(encoded).to_bytes(8, "little") + encoded + content[8 + length :]

    return change


def header_of(text: bytes) -> Callable[[bytes], bytes]:
    return lambda content: len(text).to_bytes(8, "little") + text


def offsets(begin: int, end: int) -> Callable[[bytes], bytes]:
    """Moved by so much."""

    def edit(header: dict[str, Any]) -> None:
        old = header[NAME]["data_offsets"]
        header[NAME]["data_offsets"] = [old[0] + begin, old[1] + end]

    return with_header(edit)


def entry(**changes: Any) -> Callable[[bytes], bytes]:
    return with_header(lambda header: header[NAME].update(changes))


def duplicated(content: bytes) -> bytes:
    length = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + length].decode()
    twice = re.sub(r'("blocks\.0\.norm1\.weight":\{[^}]*\})', r"\1,\1", header).encode()
    return len(twice).to_bytes(8, "little") + twice + content[8 + length :]


def poisoned(value: float) -> Callable[[bytes], bytes]:
    return lambda content: content[:-4] + np.float32(value).tobytes()


WEIGHTS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "3 bytes": lambda content: content[:3],
    "header truncated": lambda content: content[:100],
    "header longer than the file": lambda content: (len(content)).to_bytes(8, "little") + content[8:],
    "header of 2**63 bytes": lambda content: (1 << 63).to_bytes(8, "little") + content[8:],
    "header not JSON": header_of(b"{]"),
    "header a list": header_of(b"[1, 2]"),
    "header a number": header_of(b"12"),
    "header not UTF-8": header_of(b'{"\xff": 1}'),
    "header 5000 deep": header_of(b"[" * 5000 + b"]" * 5000),
    "header 5000 deep in objects": header_of(b'{"a":' * 5000 + b"1" + b"}" * 5000),
    "duplicate keys": duplicated,
    "offsets overlap": offsets(-4, -4),
    "offsets leave a hole": offsets(4, 4),
    "offsets reversed": with_header(lambda header: header[NAME]["data_offsets"].reverse()),
    "offsets past the end": offsets(1 << 40, 1 << 40),
    "offsets negative": offsets(-(1 << 40), -(1 << 40)),
    "offsets of 5000 digits": lambda content: header_of(b'{"a":' + b"9" * 5000 + b"}")(content),
    "three offsets": entry(data_offsets=[0, 1, 2]),
    "shape against size": entry(shape=[17]),
    "shape of other rank": entry(shape=[4, 4]),
    "unknown dtype": entry(dtype="F8_E4M3"),
    "dtype a number": entry(dtype=32),
    "dimension negative": entry(shape=[-16]),
    "dimension a float": entry(shape=[16.0]),
    "dimension a boolean": entry(shape=[True, 16]),
    "dimension of 2**40": entry(shape=[1 << 40]),
    "dimensions whose product overflows": entry(shape=[1 << 40] * 8),
    "1000 dimensions": entry(shape=[1] * 1000),
    "entry a string": with_header(lambda header: header.update({NAME: "x"})),
    "entry without a shape": with_header(lambda header: header[NAME].pop("shape")),
    "body truncated": lambda content: content[:-5],
    "body missing": lambda content: content[: 8 + int.from_bytes(content[:8], "little")],
    "trailing bytes": lambda content: content + b"\0",
    "NaN": poisoned(np.nan),
    "infinity": poisoned(-np.inf),
    "a pickle": lambda content: b"\x80\x04\x95",
    "an HTML page": lambda content: b"<!DOCTYPE html><html>",
    "a git-lfs pointer": lambda content: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    "a zip": lambda content: b"PK\x03\x04" + content,
}

CONFIGS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "true": lambda d: d["model"].update(hidden_size=True),
    "a string": lambda d: d["model"].update(hidden_size="768"),
    "null": lambda d: d["model"].update(hidden_size=None),
    "a negative width": lambda d: d["model"].update(hidden_size=-16),
    "2**40": lambda d: d["model"].update(hidden_size=1 << 40),
    "2**70": lambda d: d["model"].update(hidden_size=1 << 70),
    "many parameters": lambda d: d["model"].update(hidden_size=1 << 15, n_blocks=512),
    "heads that do not divide": lambda d: d["model"].update(n_heads=3),
    "no heads": lambda d: d["model"].update(n_heads=0),
    "no model": lambda d: d.pop("model"),
    "unknown graph": lambda d: d["graph"].update(type="ring"),
    "unknown noise": lambda d: d["noise"].update(type="polynomial"),
    "infinite noise": lambda d: d["noise"].update(type="geometric", sigma_max="X1e400X"),
    "NaN in noise": lambda d: d["noise"].update(type="geometric", sigma_min="XNaNX"),
    "5000 digits": lambda d: d.update(tokens=f"X{'7' * 5000}X"),
    "1e400 tokens": lambda d: d.update(tokens="X1e400X"),
    "a width of another file": lambda d: d["model"].update(hidden_size=32),
    "blocks of another file": lambda d: d["model"].update(n_blocks=3),
    "fewer blocks than the file": lambda d: d["model"].update(n_blocks=1),
}  # what stands between Xs is written without quotes


@pytest.fixture
def folder(write_checkpoint: Callable[..., Path], make_config: Callable[..., Any]) -> Path:
    return write_checkpoint(make_config())


def assert_one_line(folder: Path) -> str:
    """From Python, and from the command line with exit code 1."""
    with pytest.raises(CheckpointError) as caught:
        for _ in checkpoint.read(folder).tensors.values():
            pass
    assert str(caught.value).isprintable() and len(str(caught.value)) < 1000
    result = CliRunner().invoke(cli.main, ["inspect", str(folder)])
    assert result.exit_code == 1 and result.stdout == ""
    assert result.stderr.splitlines()[-1] == f"fastsedd: error: {caught.value}"
    return str(caught.value)


@pytest.mark.parametrize("fault", WEIGHTS)
def test_weights(folder: Path, fault: str) -> None:
    path = folder / "model.safetensors"
    content = path.read_bytes()
    damaged = WEIGHTS[fault](content)
    assert damaged != content
    path.write_bytes(damaged)
    assert str(path) in assert_one_line(folder)


@pytest.mark.parametrize("fault", CONFIGS)
def test_config(folder: Path, make_config: Any, make_document: Any, fault: str) -> None:
    document = make_document(make_config())
    CONFIGS[fault](document)
    (folder / "config.json").write_text(re.sub('"X|X"', "", json.dumps(document)))
    assert str(folder) in assert_one_line(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 5000, "\xff", '{"tokens": 5', "version https://git-lfs"])
def test_files_that_are_not_configs(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text, encoding="latin-1")
    assert "config.json" in assert_one_line(folder)


@pytest.mark.parametrize(
    "text", ["a: {\ue000\u200b: }}", "\x7f", "\x00", "a: !!python/object:os.system x", "? {b: 1}: c", "- b"]
)
def test_files_that_are_not_yaml(tmp_path: Path, text: str) -> None:
    """The place alone is said: what stands there may be what a terminal obeys."""
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.yaml: ") as caught:
        hydra_config.read(path)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("0x_", "line 1, column 4: not a valid int"),
        ("0b_", "line 1, column 4: not a valid int"),
        ("9" * 5000, "line 1, column 4: not a valid int"),
        ("!!int x", "line 1, column 4: not a valid int"),
        ('!!int ""', "line 1, column 4: not a valid int"),
        ("!!float x", "line 1, column 4: not a valid float"),
        ("!!bool x", "line 1, column 4: not a valid bool"),
        ("!!timestamp x", "line 1, column 4: not a valid timestamp"),
        ("2024-99-99", "line 1, column 4: not a valid timestamp"),
        ("[1, 2024-02-30]", "line 1, column 8: not a valid timestamp"),
        ("!!binary é", "line 1, column 4: failed to convert base64 data into ascii"),
        ('"\\UFFFFFFFF"', "line 1, column 7: not valid YAML"),
        ('"\\U00110000"', "line 1, column 7: not valid YAML"),
    ],
    ids=lambda text: text[:20],
)
def test_a_yaml_value_that_its_reader_cannot_construct(tmp_path: Path, value: str, message: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"a: {value}", encoding="utf-8")
    with pytest.raises(CheckpointError) as caught:
        hydra_config.read(path)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 5000, r"line 1, column \d+: is nested too deeply"),
        ("- " * 5000, r"line 1, column \d+: is nested too deeply"),
        (f"%YAML 1.{'9' * 5000}\n---\n", r"line 1, column 9: not valid YAML"),
        (f"%YAML {'9' * 5000}.1\n---\n", r"line 1, column 7: not valid YAML"),
    ],
    ids=["lists", "items", "minor version", "major version"],
)
def test_yaml_that_its_reader_cannot_scan(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(CheckpointError, match=rf"^{re.escape(str(path))}: {message}$"):
        hydra_config.read(path)


@pytest.mark.parametrize("text", ["1B-words", "1e", "1.", ".5", "1e-4", "-1e+4", "2e5x", "0x_g", "1_000", "12:30"])
def test_yaml_numbers(text: str, tmp_path: Path) -> None:
    """Those that begin as a number does are text; 1e-4 is a number, as Hydra and YAML 1.2 have it."""
    found = hydra_config._load(tmp_path, text.encode())
    numbers = {"1.": 1.0, ".5": 0.5, "1e-4": 1e-4, "-1e+4": -1e4, "1_000": 1000, "12:30": 750}
    assert found == numbers.get(text, text) and type(found) is type(numbers.get(text, text))


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors.update({MATRIX: np.ascontiguousarray(tensors[MATRIX].T)}),
        lambda tensors: tensors.pop(NAME),
        lambda tensors: tensors.update(surplus=np.zeros(3, np.float32)),
    ],
    ids=["transposed", "missing", "extra"],
)
def test_tensors(write_checkpoint: Any, make_config: Any, make_tensors: Any, change: Any) -> None:
    tensors = make_tensors(make_config())
    change(tensors)
    assert_one_line(write_checkpoint(make_config(), tensors))


def index_of(folder: Path, weight_map: dict[str, Any], **others: Any) -> Path:
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map} | others))
    return path


@pytest.fixture
def sharded(folder: Path, make_config: Any, make_tensors: Any) -> tuple[Path, dict[str, str]]:
    """A folder whose tensors are shared out over two files by an index, and its map."""
    tensors = make_tensors(make_config())
    (folder / "model.safetensors").unlink()
    weight_map = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(tensors)}
    for shard in set(weight_map.values()):
        save_file({name: tensors[name] for name in tensors if weight_map[name] == shard}, folder / shard)
    index_of(folder, weight_map)
    return folder, weight_map


def test_an_index(sharded: tuple[Path, dict[str, str]], make_config: Any, make_tensors: Any) -> None:
    found = checkpoint.read(sharded[0])
    assert found.path.name == "model.safetensors.index.json"
    for name, tensor in make_tensors(make_config()).items():
        np.testing.assert_array_equal(found.tensors[name], tensor)


@pytest.mark.parametrize(
    ("shard", "words"),
    [
        ("../model-00001-of-00002.safetensors", "allowed: .safetensors files beside it"),
        ("/etc/passwd", "allowed"),
        ("sub/x.safetensors", "allowed"),
        ("..\\x.safetensors", "allowed"),
        ("x\0.safetensors", "allowed"),
        ("model.bin", "allowed"),
        ("", "allowed"),
        (".safetensors", "allowed"),
        (7, "Expected `str`"),
        ("model-00003-of-00002.safetensors", "not beside it"),
        ("model-00002-of-00002.safetensors", "does not expect there"),
    ],
)
def test_an_index_that_names_other_files(sharded: tuple[Path, dict[str, str]], shard: Any, words: str) -> None:
    folder, weight_map = sharded
    first = min(weight_map, key=lambda name: weight_map[name])
    index_of(folder, weight_map | {first: shard})
    assert words in assert_one_line(folder)


def test_an_index_of_a_tensor_that_is_nowhere(sharded: tuple[Path, dict[str, str]]) -> None:
    folder, weight_map = sharded
    index_of(folder, weight_map | {"nowhere": next(iter(weight_map.values()))})
    assert "where it is not" in assert_one_line(folder)


def test_an_index_of_many_files(sharded: tuple[Path, dict[str, str]]) -> None:
    index_of(sharded[0], {f"{i}": f"{i}.safetensors" for i in range(5000)})
    assert "names 5000 files" in assert_one_line(sharded[0])


@pytest.mark.parametrize("how", ["truncated", "rewritten", "replaced", "removed"])
def test_a_file_that_changes_while_it_is_read(folder: Path, how: str) -> None:
    path = folder / "model.safetensors"
    content = path.read_bytes()
    tensors = checkpoint.read(folder).tensors
    assert tensors[NAME].shape == (16,)
    if how == "truncated":
        os.truncate(path, len(content) // 2)
    elif how == "rewritten":
        path.write_bytes(content)
        os.utime(path, (1, 1))
    elif how == "replaced":
        (folder / "other").write_bytes(content)
        (folder / "other").replace(path)
    else:
        path.unlink()
    with pytest.raises(CheckpointError, match=r"was changed while it was read|cannot be read: No such file"):
        tensors[NAME]


def test_a_file_that_is_truncated_between_a_look_and_a_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where the file system says that nothing has changed, bytes may be missing."""
    monkeypatch.setattr(stored, "_identity", lambda stat: ())
    tensors = checkpoint.read(folder).tensors
    os.truncate(folder / "model.safetensors", 5000)
    with pytest.raises(CheckpointError, match="ends before byte"):
        list(tensors.values())


def test_a_file_that_may_not_be_read(folder: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    (folder / "model.safetensors").chmod(0)
    assert "Permission denied" in assert_one_line(folder)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_accepted_files_are_accepted_by_the_library(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    """Files near to valid ones: never more than the format's own library, and the same bytes."""
    path = tmp_path_factory.getbasetemp() / "near.safetensors"
    shapes = data.draw(st.lists(st.lists(st.integers(0, 3), max_size=3), min_size=1, max_size=3))
    header: dict[str, Any] = {}
    end = 0
    for i, shape in enumerate(shapes):
        begin, end = end, end + 4 * int(np.prod(shape, dtype=int))
        header[str(i)] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    if data.draw(st.booleans()):
        chosen = header[data.draw(st.sampled_from(sorted(header)))]
        chosen["data_offsets"][data.draw(st.integers(0, 1))] += data.draw(st.integers(-8, 8))
    encoded = json.dumps(header).encode()
    body = bytes(end + data.draw(st.sampled_from([0, 0, 0, -1, 1, 4])) if end else 0)
    content = len(encoded).to_bytes(8, "little") + encoded + body
    path.write_bytes(content)
    try:
        ours = {name: tensor.read(name) for name, tensor in safetensors_file.read(path).items()}
    except CheckpointError:
        return
    try:
        theirs = dict(deserialize(content))
    except SafetensorError as error:
        raise AssertionError(f"the library refuses what is accepted here: {error}") from error
    assert {name: (list(each.shape), each.tobytes()) for name, each in ours.items()} == {
        name: (each["shape"], bytes(each["data"])) for name, each in theirs.items()
    }
