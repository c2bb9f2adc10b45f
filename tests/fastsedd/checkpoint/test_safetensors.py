"""Our reader of safetensors files against the library's: the same verdict on any file, and the same tensors.

But for the differences that docs/promises.md states: a key that occurs twice, an entry or a dtype in another form than
the documented one, and headers of more than MAX_HEADER bytes.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save_file

from fastsedd import checkpoint
from fastsedd.checkpoint import safetensors_file
from fastsedd.errors import CheckpointError

Tensors = dict[str, tuple[list[int], bytes]]


def file_of(header: str | bytes, body: bytes = bytes(8)) -> bytes:
    encoded = header if isinstance(header, bytes) else header.encode("utf-8", "surrogatepass")
    return len(encoded).to_bytes(8, "little") + encoded + body


def ours(path: Path, content: bytes) -> Tensors | None:
    """The tensors, or None where the file is refused."""
    path.write_bytes(content)
    try:
        found = safetensors_file.read(path)
    except CheckpointError as error:
        said = str(error)
    else:
        said = ""
    if said:
        assert said.isprintable() and len(said) < 2000
        return None
    bits = {dtype.name: dtype.bits for dtype in safetensors_file._DTYPES.values()}
    return {
        name: (
            list(tensor.shape),
            content[tensor.offset : tensor.offset + int(np.prod(tensor.shape, dtype=object)) * bits[tensor.dtype] // 8],
        )
        for name, tensor in found.items()
    }


def theirs(content: bytes) -> Tensors | None:
    try:
        return {name: (each["shape"], bytes(each["data"])) for name, each in deserialize(content)}
    except SafetensorError:
        return None


def is_stated_difference(content: bytes) -> bool:
    """True if a file is one of those that the library reads, and we say we refuse."""
    twice = False

    def note(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal twice
        twice = twice or len(dict(pairs)) != len(pairs)
        return dict(pairs)

    length = int.from_bytes(content[:8], "little")
    document = json.loads(content[8 : 8 + length], object_pairs_hook=note)
    entries = [entry for name, entry in document.items() if name != "__metadata__"]
    forms = any(not isinstance(entry, dict) or isinstance(entry["dtype"], dict) for entry in entries)
    return twice or forms or length > safetensors_file.MAX_HEADER


def assert_same_verdict(path: Path, content: bytes) -> bool:
    """True if the file is accepted by both."""
    found, expected = ours(path, content), theirs(content)
    if found is None and expected is not None:
        assert is_stated_difference(content), f"the library reads {content!r}"
        return False
    assert found == expected, f"the library refuses, or reads otherwise, {content!r}"
    return found is not None


PLAIN = '"dtype":"F32","shape":[2],"data_offsets":[0,8]'


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


@pytest.mark.parametrize(
    "header",
    [
        "{}", "", "{", "[]", "12", "null", f'{{"x":{{{PLAIN}}}}}', f'  {{"x":{{{PLAIN}}}}}',
        f'{{"x":{{{PLAIN}}}}}\n \t\r',
        f'{{"x":{{{PLAIN}}}}}\0', f'\ufeff{{"x":{{{PLAIN}}}}}', f'{{"x":{{{PLAIN}}}}}\xa0', f'{{"x":{{{PLAIN}}},}}',
        f'{{"":{{{PLAIN}}}}}', f'{{"\\ud800":{{{PLAIN}}}}}', f'{{"\\udc00":{{{PLAIN}}}}}', f'{{"\ud800":{{{PLAIN}}}}}',
        f'{{"\\ud83d\\ude00":{{{PLAIN}}}}}', f'{{"\\ud83d\\ud83d\\ude00":{{{PLAIN}}}}}', f'{{"\\\\ud800":{{{PLAIN}}}}}',
        f'{{"a\x01":{{{PLAIN}}}}}', f'{{"a\x7f":{{{PLAIN}}}}}', f'{{"a\\u0000":{{{PLAIN}}}}}',
        f'{{"\\u12_4":{{{PLAIN}}}}}',
        f'{{"x":{{{PLAIN}}},"y":null}}', f'{{"x":{{{PLAIN}}},"y":tru}}', f'{{"x":{{{PLAIN}}},"y":{{}}}}',
        f'{{"\\u005f_metadata__":{{"a":"b"}},"x":{{{PLAIN}}}}}', f'{{"x":{{"\\u0064type":"F32",{PLAIN[14:]}}}}}',
        *(f'{{"__metadata__":{value},"x":{{{PLAIN}}}}}' for value in (
            "null", "{}", '{"a":"b"}', '{"a":1}', '{"a":null}', '{"a":{}}', "[]", '"a"', "7", "true", '{"a":"\\ud800"}',
            f"{{{PLAIN}}}",
        )),
        *(f'{{"x":{{"dtype":"F32","shape":[{count}],"data_offsets":[0,8]}}}}' for count in (
            "2", "-0", "2.0", "2e0", "02", "+2", "true", '"2"', "null", "[2]", "-2", "1,2", "1,1,1,1,1,1,1,1,1,2", "",
            "18446744073709551616", "9" * 400, "2,", "0x2", "NaN", "Infinity", "\uff12",
        )),
        *(f'{{"x":{{"dtype":"F32","shape":[2],"data_offsets":{offsets}}}}}' for offsets in (
            "[-0,8]", "[0.0,8]", "[0,8.0]", "[0,8,9]", "[0]", "[]", "null", '{"0":0,"1":8}', "[8,0]", "[0,4]", "[0,16]",
            "[false,8]", "[0,18446744073709551615]", "[0,18446744073709551616]",
        )),
        *(f'{{"x":{{{PLAIN},"z":{value}}}}}' for value in (
            "1", "NaN", "-Infinity", "1e999", "-1e999", "1e-999", "9" * 308, "9" * 309, "9" * 5000, "-" + "9" * 400,
            "-0",
            "0." + "9" * 5000, '"\\ud800"', '"\x01"', nested(120), nested(125), nested(126), nested(5000),
            '{"a":' * 124 + "1" + "}" * 124, '{"a":' * 125 + "1" + "}" * 125, '{"a":' * 126 + "1" + "}" * 126,
            "'a'", "01",
        )),
        *(f'{{"x":{{{PLAIN}}},"y":{{"dtype":"F32","shape":[{shape}],"data_offsets":[8,8]}}}}' for shape in (
            "0", "0,18446744073709551615", "0,18446744073709551616", "9223372036854775808,0",
            "18446744073709551615,2,0",
            "0,18446744073709551615,2", "4294967296,4294967296,0", "4294967296,4294967295,0",
        )),
    ],
)  # fmt: skip
def test_headers_at_the_edges(tmp_path: Path, header: str) -> None:
    assert_same_verdict(tmp_path / "x.safetensors", file_of(header))
    assert_same_verdict(tmp_path / "x.safetensors", file_of(header, b""))


@pytest.mark.parametrize("dtype", [*safetensors_file._DTYPES, "C128", "I4", "f32", "", "F32 "])
def test_every_dtype(tmp_path: Path, dtype: str) -> None:
    """Newer versions of the library know more dtypes."""
    bits = safetensors_file._DTYPES.get(dtype, safetensors_file._DTYPES["F32"]).bits
    known = theirs(file_of(f'{{"x":{{"dtype":"{dtype}","shape":[0],"data_offsets":[0,0]}}}}', b"")) is not None
    if not known and dtype in safetensors_file._DTYPES:
        pytest.skip(f"the installed version has no {dtype}")
    for elements in (0, 1, 3, 4, 16):
        for size in {elements * bits // 8, -(-elements * bits // 8), elements}:
            header = f'{{"x":{{"dtype":"{dtype}","shape":[{elements}],"data_offsets":[0,{size}]}}}}'
            assert_same_verdict(tmp_path / "x.safetensors", file_of(header, bytes(size)))


def test_the_differences_that_are_stated(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    for header in (
        f'{{"x":{{{PLAIN}}},"x":{{{PLAIN}}}}}',
        f'{{"x":{{{PLAIN},"z":1,"z":2}}}}',
        f'{{"__metadata__":{{"a":"1","a":"2"}},"x":{{{PLAIN}}}}}',
        '{"x":["F32",[2],[0,8]]}',
        '{"x":{"dtype":{"F32":null},"shape":[2],"data_offsets":[0,8]}}',
    ):
        assert theirs(file_of(header)) is not None and ours(path, file_of(header)) is None
    longest = f'{{"x":{{{PLAIN}}}}}'.ljust(safetensors_file.MAX_HEADER)
    assert ours(path, file_of(longest)) is not None and theirs(file_of(longest)) is not None
    assert ours(path, file_of(longest + " ")) is None and theirs(file_of(longest + " ")) is not None


def test_tens_of_thousands_of_tensors(tmp_path: Path) -> None:
    names = [f"model.layers.{i}.mlp.experts.gate_projection.weight" for i in range(45000)]
    header = {name: {"dtype": "F16", "shape": [1], "data_offsets": [2 * i, 2 * i + 2]} for i, name in enumerate(names)}
    content = file_of(json.dumps(header), bytes(2 * len(names)))
    assert int.from_bytes(content[:8], "little") > 1 << 22
    assert assert_same_verdict(tmp_path / "x.safetensors", content)


def test_tensors_that_are_not_used_may_have_any_dtype_and_rank(
    write_checkpoint: Any, make_config: Any, make_tensors: Any
) -> None:
    config = make_config()
    for unused in (np.ones(4, np.float64), np.ones((1,) * 12, np.int64), np.array(True)):
        folder = write_checkpoint(config)
        save_file(make_tensors(config) | {"rotary_emb.inv_freq": unused}, folder / "model.safetensors")
        found = checkpoint.read(folder)
        assert found.config == config and found.stored_dtype == "float32"


# Values for a header's parts, valid ones the most likely.
INTEGERS = [
    "0",
    "0",
    "1",
    "2",
    "2",
    "3",
    "4",
    "8",
    "-0",
    "2.0",
    "1e0",
    "02",
    "-1",
    "true",
    '"2"',
    "18446744073709551616",
]
STRINGS = ["x", "y", "weight", "", "\\u0041", "\\ud83d\\ude00", "\\ud800", "a\\\\", "é", "__metadata__", "\\n", "\t"]
VALUES = [
    "1", "null", '"a"', "1.5", "-0", "1e999", "NaN", "[]", "{}", '{"dtype":1}', "[1,[2,[3]]]", '"\\udead"', "9" * 310,
    nested(124), nested(127), "tru", "'a'",
]  # fmt: skip


@st.composite
def headers(draw: st.DrawFn) -> tuple[str, bytes]:
    """A header whose entries cover the data, but for what a few draws put out of order, and the data."""
    rare = st.integers(0, 19).map(lambda roll: roll == 0)
    space = st.sampled_from(["", "", "", " ", "\n", "\t\r"])
    members, end = [], 0
    for i in range(draw(st.integers(0, 3))):
        dtype = draw(st.sampled_from(list(safetensors_file._DTYPES)[:14]))
        shape = draw(st.lists(st.integers(0, 3), max_size=3))
        begin, end = end, end + int(np.prod(shape, dtype=int)) * safetensors_file._DTYPES[dtype].bits // 8
        counts, offsets = [str(count) for count in shape], [str(begin), str(end)]
        for numbers in (counts, offsets):
            if numbers and draw(rare):
                numbers[draw(st.integers(0, len(numbers) - 1))] = draw(st.sampled_from(INTEGERS))
        written = json.dumps(dtype) if not draw(rare) else draw(st.sampled_from(['"F33"', "null", "7", '"\\u00463 2"']))
        fields = [f'"dtype":{written}', f'"shape":[{",".join(counts)}]', f'"data_offsets":[{",".join(offsets)}]']
        fields = draw(st.permutations(fields))
        if draw(rare):
            fields.pop()
        if draw(rare):
            fields.append(f'"{draw(st.sampled_from(STRINGS))}":{draw(st.sampled_from(VALUES))}')
        name = f"{i}" if not draw(rare) else draw(st.sampled_from(STRINGS))
        members.append(f'"{name}"{draw(space)}:{draw(space)}{{{f",{draw(space)}".join(fields)}}}')
    if draw(st.booleans()):
        values = ["{}", '{"format":"pt"}', "null", '{"a":1}', "[]", '"a"', '{"a":"\\ud800"}', '{"config":"{}"}']
        members.append(f'"__metadata__":{draw(st.sampled_from(values[:3] if not draw(rare) else values))}')
    text = draw(space) + "{" + ",".join(draw(st.permutations(members))) + "}" + draw(space)
    if draw(rare):
        position = draw(st.integers(0, len(text)))
        text = text[:position] + draw(st.sampled_from(["", ",", "}", '"', "\\", "\0", "\ufeff"])) + text[position + 1 :]
    size = max(0, end + (draw(st.integers(-2, 2)) if draw(rare) else 0))
    return text, draw(st.binary(min_size=size, max_size=size)) if size < 64 else bytes(size)


def compare(folder: Path, files: int) -> dict[str, int]:
    counts = {"tried": 0, "accepted": 0}

    @settings(max_examples=files, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(headers())
    def try_one(drawn: tuple[str, bytes]) -> None:
        counts["tried"] += 1
        counts["accepted"] += assert_same_verdict(folder / "x.safetensors", file_of(*drawn))

    try_one()
    return counts


def test_generated_files(tmp_path: Path) -> None:
    counts = compare(tmp_path, 500)
    assert counts["tried"] // 5 < counts["accepted"] < counts["tried"]


@pytest.mark.slow
def test_many_generated_files(tmp_path: Path, record_property: Any) -> None:
    counts = compare(tmp_path, 10000)
    record_property("files", counts)
    assert counts["tried"] // 5 < counts["accepted"] < counts["tried"]


def test_an_error_does_not_repeat_a_name_of_any_length(tmp_path: Path) -> None:
    name = "x" * 100_000
    for header in (f'{{"{name}":1}}', f'{{"{name}":{{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}}}'):
        assert ours(tmp_path / "x.safetensors", file_of(header)) is None
    with pytest.raises(CheckpointError, match=re.escape("…' has offsets [0, 8], expected [0, 12]")):
        safetensors_file.read(tmp_path / "x.safetensors")
