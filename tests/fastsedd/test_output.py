"""JSON lines that grow: torn lines cut off, nothing written twice, nothing of another request."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fastsedd import output
from fastsedd.config import GenerationConfig
from fastsedd.request import Request
from fastsedd.results import Sample


def line(index: int, **changes: object) -> str:
    fields = {
        "text": f"ü{index}", "tokens": np.arange(3), "seed": 2**64 - 1, "index": index, "steps": 3, "seconds": 0.5,
    }  # fmt: skip
    return output.json_line(Sample(**{**fields, **changes}), "m")


def written(path: Path) -> list[int]:
    return [json.loads(each)["index"] for each in path.read_text().splitlines()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "texts.jsonl"


def go_on(path: Path, num_samples: int) -> None:
    lines = output.read_lines(path)
    request = Request(seed=2**64 - 1, steps=3, num_samples=num_samples)
    with output.growing_file(path, lines) as write:
        for index in lines.remaining(path, request, "m", GenerationConfig()).wanted:
            write(line(index))


@pytest.mark.parametrize("torn", range(len(line(2)) + 1))
def test_a_torn_line_is_cut_off_wherever_it_is_torn(path: Path, torn: int) -> None:
    path.write_text("".join(f"{line(index)}\n" for index in range(2)) + line(2)[:torn])
    go_on(path, 5)
    assert path.read_text() == "".join(f"{line(index)}\n" for index in range(5))


def test_holes_are_filled_and_duplicates_go(path: Path) -> None:
    path.write_text("".join(f"{line(index)}\n" for index in (4, 0, 4, 2)))
    go_on(path, 6)
    assert path.read_text() == "".join(f"{line(index)}\n" for index in range(6))
    assert list(path.parent.iterdir()) == [path]


def test_no_file_is_a_beginning(path: Path) -> None:
    go_on(path, 2)
    go_on(path, 2)
    assert written(path) == [0, 1]


def test_each_line_is_on_disk_at_once_and_stays(path: Path) -> None:
    def interrupted() -> None:
        with output.growing_file(path, output.Lines()) as write:
            for index in range(2):
                write(line(index))
                assert written(path)[-1] == index
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert written(path) == [0, 1]


@pytest.mark.parametrize(
    ("held", "words"),
    [
        ("plain text", "line 1 is not a text of fastsedd"),
        ("plain text\n", "line 1 is not a text of fastsedd"),
        (f"{line(0)}\n{{}}\n", "line 2 is not a text of fastsedd"),
        (f"{line(0)}\n\xff\n", "line 2 is not a text of fastsedd"),
        (f"{line(0)}\n{line(1, seed=4)}\n", "line 2 has another seed"),
    ],
)
def test_a_file_of_another_kind_is_left_alone(path: Path, held: str, words: str) -> None:
    path.write_bytes(held.encode("latin-1"))
    with pytest.raises(ValueError, match=words) as caught:
        output.read_lines(path)
    assert str(path) in str(caught.value)


REQUEST = Request(seed=2**64 - 1, steps=3, num_samples=2)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"seed": 1}, f"holds texts with seed {2**64 - 1}, but seed 1 was requested; cannot resume"),
        ({"steps": 4}, "holds texts with steps 3, but steps 4 was requested; cannot resume"),
        ({"steps": None}, "holds texts with steps 3, but steps 9 was requested; cannot resume"),
        ({"num_samples": 1}, "holds index 1, but num_samples 1 was requested; cannot resume"),
    ],
)
def test_another_request_is_not_resumed(path: Path, other: dict, words: str) -> None:
    path.write_text(f"{line(0)}\n{line(1)}\n")
    lines, own = output.read_lines(path), GenerationConfig(steps=9)
    assert lines.remaining(path, REQUEST, "m", own) == replace(REQUEST, indices=())
    with pytest.raises(ValueError, match=f"{path} {words}"):
        lines.remaining(path, replace(REQUEST, **other), "m", own)
    with pytest.raises(ValueError, match="holds texts with model m, but model n was requested"):
        lines.remaining(path, REQUEST, "n", own)


def test_the_rest_of_a_request_is_the_same_request(path: Path) -> None:
    path.write_text(f"{line(1)}\n")
    request = replace(REQUEST, num_samples=4, steps=None, top_k=2)
    rest = output.read_lines(path).remaining(path, request, "m", GenerationConfig(steps=3))
    assert rest == replace(request, indices=(0, 2, 3))


@pytest.fixture
def generate(write_checkpoint, make_config) -> Callable[..., list[str]]:
    """generate(FILE, more...) -> a command that writes 60 texts of a small model, some at a time."""
    folder = write_checkpoint(make_config())
    request = ["--num-samples", "60", "--batch-size", "4", "--steps", "40", "--json", "--quiet"]
    return lambda path, *more: [
        sys.executable, "-m", "fastsedd", "generate", "--model", str(folder), *request, "--output", str(path), *more
    ]  # fmt: skip


def without_seconds(path: Path) -> list[dict]:
    lines = [json.loads(each) for each in path.read_text().splitlines()]
    return [{name: value for name, value in each.items() if name != "seconds"} for each in lines]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_run_that_is_killed_again_and_again_loses_and_repeats_nothing(
    generate: Callable[..., list[str]], tmp_path: Path
) -> None:
    subprocess.run(generate(tmp_path / "whole.jsonl", "--seed", "7"), check=True, timeout=300)
    path = tmp_path / "killed.jsonl"
    moments = np.random.default_rng().uniform(0.0, 0.05, 3)  # seconds after some more texts are there
    there = 0
    for moment in moments:
        process = subprocess.Popen(generate(path, "--seed", "7", "--resume"))
        while process.poll() is None and (not path.exists() or path.stat().st_size <= there):
            time.sleep(0.002)
        time.sleep(moment)
        process.send_signal(signal.SIGKILL)
        process.wait()
        there = path.stat().st_size
    subprocess.run(generate(path, "--resume"), check=True, timeout=300)  # the seed is the file's
    assert path.read_bytes().endswith(b"\n")
    assert [each["index"] for each in without_seconds(path)] == list(range(60))
    assert without_seconds(path) == without_seconds(tmp_path / "whole.jsonl")
    before = path.read_bytes()
    subprocess.run(generate(path, "--resume"), check=True, timeout=300)
    assert path.read_bytes() == before


def test_an_old_file_is_kept_aside(path: Path) -> None:
    assert not output.set_aside(path)
    path.write_text("old")
    assert output.set_aside(path)
    assert (path.exists(), path.with_name("texts.jsonl~").read_text()) == (False, "old")
    assert not output.set_aside(Path(os.devnull))
