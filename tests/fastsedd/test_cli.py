"""The command line: what goes where, exit codes, and how quickly help comes. A tiny model writes the texts."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fastsedd_kernels
import pytest
from click.testing import CliRunner, Result

import fastsedd
from fastsedd import cli, loading, output
from fastsedd.choices import ANY_DTYPES, DRAWS, GRIDS, PREDICTORS
from fastsedd.cli.reading import read_text
from fastsedd.config import GenerationConfig
from fastsedd.request import Request
from fastsedd.results import Sample

STEPS = 3


@dataclass
class Watched:
    """A tiny model's requests; `fails` is raised before the text of index `fails_at`."""

    folder: Path
    requests: list[Request] = field(default_factory=list)
    shown: list[object] = field(default_factory=list)
    loaded: dict[str, Any] = field(default_factory=dict)
    fails: BaseException | None = None
    fails_at: int = 1

    def texts(self, count: int, seed: int) -> list[str]:
        return loading.load(self.folder).generate(num_samples=count, seed=seed).texts

    def watch(self, request: Request, on_step: object, samples: Iterator[Sample]) -> Iterator[Sample]:
        self.requests.append(request)
        self.shown.append(on_step)
        return self._until_it_fails(samples)

    def _until_it_fails(self, samples: Iterator[Sample]) -> Iterator[Sample]:
        for sample in samples:
            if self.fails is not None and sample.index == self.fails_at:
                raise self.fails
            yield sample


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """Where kernels are kept, how many threads were set, and a compilation as soon as anybody listens for one."""
    seen: dict[str, Any] = {"folder": tmp_path}
    limit = fastsedd_kernels.cpu_info().cores

    def set_num_threads(count: int) -> None:
        if count > limit:
            raise ValueError(f"threads is {count}, allowed: 1 to {limit}")
        seen["threads"] = count

    monkeypatch.setattr(fastsedd_kernels, "set_num_threads", set_num_threads)
    monkeypatch.setattr(fastsedd_kernels, "on_compile", lambda callback: callback())
    monkeypatch.setattr(fastsedd_kernels, "cache_folder", lambda: seen["folder"])
    return seen


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch, kernels: dict, write_checkpoint, make_config) -> Watched:
    """A tiny model in place of the shipped one, and of any path but "missing"."""
    generation = GenerationConfig(steps=STEPS, temperature=0.9)
    watched = Watched(write_checkpoint(make_config(generation=generation)))
    original = fastsedd.Model.run

    def load(path: str | None = None, dtype: str = "float32", *more: Any, **source: Any) -> fastsedd.Model:
        note = source.pop("note")
        if path == "owner/without-tokenizer":
            note("texts are token ids")
        watched.loaded = dict(zip(("revision",), more, strict=True)) | source | {"dtype": dtype}
        return loading.load("missing" if path == "missing" else watched.folder, dtype)

    def run(self: fastsedd.Model, request: Request, on_step: Any = None) -> Iterator[Sample]:
        return watched.watch(request, on_step, original(self, request, on_step))

    monkeypatch.setitem(vars(fastsedd), "load", load)
    monkeypatch.setattr(fastsedd.Model, "run", run)
    return watched


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, arguments)


@pytest.mark.parametrize("command", [[], ["generate"], ["chat"], ["inspect"], ["evaluate"], ["convert"], ["warmup"]])
def test_help_imports_nothing_slow(command: list[str]) -> None:
    slow = {"numpy", "numba", "llvmlite", "rich", "msgspec", "yaml", "huggingface_hub", "tokenizers", "distributed"}
    program = (
        "import sys; from fastsedd.cli import main; main(sys.argv[1:], standalone_mode=False);"
        f"print(sorted({slow} & set(sys.modules)))"
    )
    arguments = [sys.executable, "-c", program, *command, "--help"]
    finished = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert "Usage:" in finished.stdout
    assert finished.stdout.endswith("[]\n")


def test_it_runs_as_a_module() -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "fastsedd", "--version"], capture_output=True, text=True, check=True
    )
    assert finished.stdout.split()[-1] == fastsedd.__version__


def test_the_text_goes_to_stdout_and_the_rest_to_stderr(model: Watched) -> None:
    result = run("generate", "--seed", "7")
    assert result.exit_code == 0
    assert result.stdout == f"{model.texts(1, 7)[0]}\n"
    compiling, seed = result.stderr.splitlines()
    assert compiling.startswith("compiling kernels for this CPU (once")
    assert seed == "seed 7"


def test_quiet_says_nothing(model: Watched) -> None:
    result = run("generate", "--quiet", "--seed", "7")
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"{model.texts(1, 7)[0]}\n", "")


def test_a_seed_is_chosen_said_and_used(model: Watched) -> None:
    said = [run("generate").stderr.splitlines()[-1] for _ in range(2)]
    assert said == [f"seed {request.seed}" for request in model.requests]
    assert said[0] != said[1]


def test_texts_are_ruled_off(model: Watched) -> None:
    written = run("generate", "--num-samples", "3", "--seed", "7").stdout
    assert written == f"\n{output.RULE}\n".join(model.texts(3, 7)) + "\n"


def test_json_is_an_object_a_line(model: Watched) -> None:
    lines = run("generate", "--num-samples", "3", "--seed", "7", "--json").stdout.splitlines()
    tokens = loading.load(model.folder).generate(num_samples=3, seed=7).tokens.tolist()
    read = [json.loads(line) for line in lines]
    assert all(each.pop("seconds") > 0 for each in read)
    assert read == [
        {
            "text": text, "tokens": tokens[index], "seed": 7, "index": index, "steps": STEPS,
            "model": str(model.folder),
        }
        for index, text in enumerate(model.texts(3, 7))
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("--steps", "64", 64),
        ("--length", "9", 9),
        ("--batch-size", "2", 2),
        ("--temperature", "0.5", 0.5),
        ("--draw", "official", "official"),
        ("--prefix", "ab", "ab"),
        ("--suffix", "cab", "cab"),
        ("--grid", "log-sigma", "log-sigma"),
        ("--num-samples", "4", 4),
        ("--predictor", "euler", "euler"),
        ("--top-k", "20", 20),
        ("--top-p", "0.9", 0.9),
    ],
)
def test_an_option_reaches_the_model(model: Watched, option: str, value: str, expected: object) -> None:
    run("generate", option, value)
    assert getattr(model.requests[0], option.removeprefix("--").replace("-", "_")) == expected


def test_options_that_are_not_given_are_left_to_the_model(model: Watched) -> None:
    run("generate")
    assert model.requests == [Request(seed=model.requests[0].seed)]


@pytest.mark.parametrize("from_file", [True, False])
def test_a_template_is_read_as_it_stands(model: Watched, tmp_path: Path, from_file: bool) -> None:
    text = "abba\n{{4}}d\n\n"
    file = tmp_path / "scene.txt"
    file.write_text(text, encoding="utf-8")
    arguments = ["generate", "--template", str(file) if from_file else "-"]
    assert CliRunner().invoke(cli.main, arguments, input=None if from_file else text).exit_code == 0
    assert model.requests[0].template == text


@pytest.mark.parametrize("from_file", [True, False])
def test_a_byte_order_mark_is_not_text(model: Watched, tmp_path: Path, from_file: bool) -> None:
    content = b"\xef\xbb\xbfabba\r\n{{4}}"
    file = tmp_path / "scene.txt"
    file.write_bytes(content)
    arguments = ["generate", "--template", str(file) if from_file else "-"]
    assert CliRunner().invoke(cli.main, arguments, input=None if from_file else content).exit_code == 0
    assert model.requests[0].template == "abba\n{{4}}"


def test_a_byte_order_mark_inside_is_text(tmp_path: Path) -> None:
    file = tmp_path / "scene.txt"
    file.write_bytes(b"\xef\xbb\xbfa\r\n\xef\xbb\xbfb")
    assert read_text(file) == "a\n\ufeffb"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
def test_utf_16_is_named(model: Watched, tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "scene.txt"
    file.write_bytes("\ufeffROMEO".encode("utf-16-be") if encoding == "utf-16-be" else "ROMEO".encode(encoding))
    result = run("generate", "--template", str(file))
    assert result.exit_code == 1 and "is UTF-16, allowed: UTF-8" in result.stderr


def test_templates_that_are_not_text_or_not_there_are_refused(model: Watched, tmp_path: Path) -> None:
    file = tmp_path / "scene.txt"
    file.write_bytes(b"ab\xff")
    result = run("generate", "--template", str(file))
    assert result.exit_code == 1 and "is not UTF-8: byte 0xff at 2" in result.stderr
    assert run("generate", "--template", str(tmp_path / "missing")).exit_code == 1


@pytest.mark.parametrize("command", ["generate", "inspect"])
def test_the_dtype_reaches_the_model(model: Watched, command: str) -> None:
    assert run(command, "--dtype", "int8").exit_code == 0 and model.loaded["dtype"] == "int8"
    assert run(command).exit_code == 0 and model.loaded["dtype"] is None
    assert run(command, "--dtype", "float16").exit_code == 2


@pytest.mark.parametrize("command", ["generate", "inspect"])
def test_the_source_of_a_model_reaches_it(model: Watched, command: str) -> None:
    run(command)
    defaults = {"revision": None, "offline": False, "tokenizer": None, "heads": None, "dtype": None}
    assert model.loaded == defaults
    run(command, "--revision", "v1", "--offline", "--tokenizer", "gpt2", "--heads", "3")
    given = {"revision": "v1", "offline": True, "tokenizer": "gpt2", "heads": 3}
    assert model.loaded == defaults | given


def test_a_note_of_the_model_is_said_unless_quiet(model: Watched) -> None:
    arguments = ["generate", "--model", "owner/without-tokenizer"]
    assert "texts are token ids" in run(*arguments).stderr.splitlines()
    assert run(*arguments, "--quiet").stderr == ""


def test_threads(model: Watched, kernels: dict) -> None:
    run("generate", "--threads", "1")
    assert kernels["threads"] == 1


def test_no_progress_where_there_is_no_terminal(model: Watched) -> None:
    result = run("generate", "--watch")
    assert result.exit_code == 0
    assert model.shown == [None]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--steps", "0"],
        ["--threads", "0"],
        ["--num-samples", "0"],
        ["--batch-size", "0"],
        ["--length", "0"],
        ["--temperature", "-1"],
        ["--seed", "-1"],
        ["--seed", str(2**64)],
        ["--draw", "nearly"],
        ["--output", "."],
        ["--watch", "--quiet"],
        ["--watch", "--scheduler", "local:2"],
        ["--resume"],
        ["--resume", "--json"],
        ["--resume", "--output", "texts.txt"],
        ["--top-k", "-1"],
        ["--top-p", "0"],
        ["--predictor", "tweedie"],
        ["--grid", "cosine"],
        ["--unknown"],
    ],
)
def test_usage_errors(model: Watched, arguments: list[str]) -> None:
    result = run("generate", *arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("Usage:")
    assert model.requests == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "missing"], "missing: no such file or folder"),
        (["--prefix", "ß"], "prefix: character 'ß' at position 0"),
        (["--threads", "4000"], "threads is 4000, allowed: 1 to"),
        (["--predictor", "ddpm"], "predictor is 'ddpm', allowed for this model: 'analytic', 'euler'"),
        (["--length", "13"], "length is 13, allowed: 1 to 12"),
        (["--temperature", "0"], "temperature is 0.0, allowed: 0 < temperature < infinity"),
    ],
)
def test_errors_that_only_the_model_can_tell_are_one_line(model: Watched, arguments: list[str], message: str) -> None:
    result = run("generate", "--quiet", *arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"fastsedd: error: {message}") and result.stderr.count("\n") == 1


def test_an_error_without_a_message_is_named(model: Watched) -> None:
    model.fails, model.fails_at = MemoryError(), 0
    assert run("generate", "--quiet").stderr == "fastsedd: error: MemoryError\n"


def test_an_interrupt_keeps_the_texts_that_are_done(model: Watched) -> None:
    model.fails = KeyboardInterrupt()
    result = run("generate", "--num-samples", "2", "--quiet", "--seed", "7")
    assert (result.exit_code, result.stdout) == (130, f"{model.texts(1, 7)[0]}\n")
    assert result.stderr == "fastsedd: interrupted\n"


def test_a_closed_pipe_is_quiet(model: Watched) -> None:
    model.fails = BrokenPipeError(errno.EPIPE, "Broken pipe")
    result = run("generate", "--num-samples", "2", "--quiet")
    assert (result.exit_code, result.stderr) == (1, "")


def test_an_output_file_is_written(model: Watched, tmp_path: Path) -> None:
    target = tmp_path / "texts.txt"
    target.write_text("old")
    result = run("generate", "--num-samples", "3", "--seed", "7", "--output", str(target))
    assert (result.exit_code, result.stdout) == (0, "")
    assert target.read_text(encoding="utf-8") == f"\n{output.RULE}\n".join(model.texts(3, 7)) + "\n"
    assert sorted(tmp_path.iterdir()) == [model.folder, target]


@pytest.mark.parametrize("fails", [KeyboardInterrupt(), ValueError("full")])
def test_an_output_file_is_whole_or_untouched(model: Watched, tmp_path: Path, fails: BaseException) -> None:
    target = tmp_path / "texts.txt"
    target.write_text("old")
    model.fails = fails
    assert run("generate", "--num-samples", "2", "--output", str(target)).exit_code != 0
    assert target.read_text() == "old"
    assert sorted(tmp_path.iterdir()) == [model.folder, target]


def test_json_lines_grow_and_an_old_file_is_kept_aside(model: Watched, tmp_path: Path) -> None:
    target = tmp_path / "texts.jsonl"
    target.write_text("old")
    model.fails = KeyboardInterrupt()
    arguments = ["generate", "--num-samples", "3", "--steps", str(STEPS), "--json", "--output", str(target)]
    result = run(*arguments, "--seed", "7")
    assert result.exit_code == 130
    assert f"{target} existed; moved to {target}~" in result.stderr
    assert f"finished texts are in {target}; rerun with --resume to continue" in result.stderr
    assert (tmp_path / "texts.jsonl~").read_text() == "old"
    assert [json.loads(line)["index"] for line in target.read_text().splitlines()] == [0]
    run(*arguments, "--resume")
    assert model.requests[-1] == Request(num_samples=3, steps=STEPS, seed=7, indices=(1, 2))


@pytest.mark.parametrize("other", [["--seed", "8"], ["--steps", "4"], ["--num-samples", "1"]])
def test_another_request_is_refused_and_the_file_untouched(model: Watched, tmp_path: Path, other: list[str]) -> None:
    target = tmp_path / "texts.jsonl"
    arguments = ["generate", "--quiet", "--json", "--output", str(target), "--num-samples", "2", "--steps", str(STEPS)]
    run(*arguments)
    with target.open("a") as file:
        file.write('{"text": "to')
    before = target.read_bytes()
    result = run(*arguments, "--resume", *other)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"fastsedd: error: {target} holds ") and result.stderr.count("\n") == 1
    assert result.stderr.endswith("; cannot resume\n")
    assert target.read_bytes() == before


def test_an_output_file_in_no_folder_is_one_line(model: Watched, tmp_path: Path) -> None:
    result = run("generate", "--quiet", "--output", str(tmp_path / "none" / "texts.txt"))
    assert result.exit_code == 1
    assert result.stderr.startswith("fastsedd: error: ")
    assert result.stderr.count("\n") == 1


def test_a_link_is_followed_and_a_device_is_not_replaced(model: Watched, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("target")
    assert run("generate", "--output", str(tmp_path / "link")).exit_code == 0
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == f"{model.texts(1, model.requests[0].seed)[0]}\n"
    assert run("generate", "--output", os.devnull).exit_code == 0
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


def test_inspect_says_what_the_checkpoint_is(model: Watched) -> None:
    result = run("inspect")
    assert result.exit_code == 0
    assert dict(re.split(" {2,}", line, maxsplit=1) for line in result.stdout.splitlines()) == {
        "model": str(model.folder),
        "architecture": "ddit",
        "parameters": f"{loading.load(model.folder).parameters:,}",
        "stored dtype": "float32",
        **dict(loading.load(model.folder).precision),
        "width": "16",
        "blocks": "2",
        "heads": "2 of 8",
        "length": "12 tokens",
        "vocabulary": "5 tokens and a mask, 5",
        "predicts": "scaled score",
        "tokenizer": loading.load(model.folder).tokenizer.description,
        "graph": "absorb",
        "noise": "loglinear",
        "fitted grid": "none",
        "generation": f"{STEPS} steps, temperature 0.9",
    }


def test_the_range_of_the_noise_is_told(monkeypatch: pytest.MonkeyPatch, write_checkpoint, make_config) -> None:
    folder = write_checkpoint(make_config("ddit", "uniform"))
    assert "geometric, sigma 0.0001 to 20\n" in run("inspect", str(folder)).stdout


@pytest.mark.parametrize(
    ("option", "names"), [("--dtype", ANY_DTYPES), ("--predictor", PREDICTORS), ("--draw", DRAWS), ("--grid", GRIDS)]
)
def test_choices_are_those_of_the_library(option: str, names: tuple[str, ...]) -> None:
    assert f"{option} [{'|'.join(names)}]" in run("generate", "--help").stdout


def test_warmup_says_where_the_kernels_are(kernels: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[object] = []
    monkeypatch.setitem(vars(fastsedd), "warmup", compiled.append)
    result = run("warmup")
    assert (result.exit_code, len(compiled)) == (0, 1)
    assert str(kernels["folder"]) in result.stdout


def test_warmup_is_an_error_where_nothing_can_be_kept(kernels: dict) -> None:
    kernels["folder"] = None
    result = run("warmup")
    assert result.exit_code == 1
    assert "FASTSEDD_CACHE_DIR" in result.stderr


@pytest.mark.parametrize("arguments", [["serve", "--timeout", "nan"], ["bench", "--seconds", "nan"]])
def test_nan_is_no_number_of_seconds(arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2 and "nan is not a number" in result.stderr
