"""The command line: what goes where, exit codes, and how quickly help comes. No kernel runs here."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

import fastsedd
from fastsedd import cli

TEXTS = ["First Citizen:\nBefore we", "Speak, speak.", "Ünd"]
STEPS = 3


@dataclass(frozen=True)
class FakeSample:
    text: str
    tokens: NDArray[np.int32]
    seed: int
    index: int
    steps: int = STEPS
    seconds: float = 0.25


@dataclass
class FakeModel:
    """Answers with TEXTS; `fails` is raised before the text of index `fails_at`."""

    fails: BaseException | None = None
    fails_at: int = 1
    requests: list[dict[str, Any]] = field(default_factory=list)
    name: str = "shipped model"
    parameters: int = 1_234_567
    stored_dtype: str = "float16"
    fitted: None = None
    assumed: str = ""
    dtype: str = ""
    source: dict[str, Any] = field(default_factory=dict)
    tokenizer: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(description="characters '\\n abc'"))

    @property
    def precision(self) -> list[tuple[str, str]]:
        return [("linear layers", self.dtype)]

    @property
    def config(self) -> SimpleNamespace:
        return SimpleNamespace(
            architecture="ddit", tokens=65, vocab_size=66, width=384, blocks=6, heads=6, head_dim=64, cond_dim=64,
            length=256, graph="absorb", noise=SimpleNamespace(type="geometric", sigma_min=1e-4, sigma_max=20.0),
            generation=SimpleNamespace(steps=128, temperature=0.9), mask_token=65,
        )  # fmt: skip

    def stream(self, **request: Any) -> Iterator[FakeSample]:
        self.requests.append(request)
        if request["prefix"] == "ß":
            raise ValueError("prefix: 'ß' at 0 is not\namong the model's 65 characters")
        return self._samples(request["num_samples"], request["seed"])

    def _samples(self, count: int, seed: int) -> Iterator[FakeSample]:
        for index, text in enumerate(TEXTS[:count]):
            if self.fails is not None and index == self.fails_at:
                raise self.fails
            yield FakeSample(text, np.arange(3, dtype=np.int32), seed, index)


@dataclass
class FakeKernels:
    """Two cores, and a compilation as soon as anybody wants to hear of one."""

    folder: Path | None
    threads: int | None = None

    def set_num_threads(self, count: int) -> None:
        if count > 2:
            raise ValueError(f"threads is {count}, allowed are 1 to 2")
        self.threads = count

    def on_compile(self, callback: Callable[[], None]) -> None:
        callback()

    def cache_folder(self) -> Path | None:
        return self.folder


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeKernels:
    fake = FakeKernels(tmp_path)
    monkeypatch.setitem(sys.modules, "fastsedd_kernels", fake)
    return fake


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch, kernels: FakeKernels) -> FakeModel:
    """What `fastsedd.load` gives for any path but "missing"."""
    fake = FakeModel()

    def load(path: str | None, dtype: str, *, note: Callable[[str], None], **source: Any) -> FakeModel:
        if path == "missing":
            raise ValueError("missing: no such file or folder")
        if path == "owner/without-tokenizer":
            note("texts are token ids")
        fake.dtype, fake.source = dtype, source
        return fake

    monkeypatch.setitem(vars(fastsedd), "load", load)
    return fake


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, arguments)


@pytest.mark.parametrize("command", [[], ["generate"], ["inspect"], ["evaluate"], ["convert"], ["warmup"]])
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


def test_the_text_goes_to_stdout_and_the_rest_to_stderr(model: FakeModel) -> None:
    result = run("generate", "--seed", "7")
    assert result.exit_code == 0
    assert result.stdout == f"{TEXTS[0]}\n"
    compiling, seed = result.stderr.splitlines()
    assert compiling.startswith("compiling kernels for this CPU (once")
    assert seed == "seed 7"


def test_quiet_says_nothing(model: FakeModel) -> None:
    result = run("generate", "--quiet")
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"{TEXTS[0]}\n", "")


def test_a_seed_is_chosen_said_and_used(model: FakeModel) -> None:
    said = [run("generate").stderr.splitlines()[-1] for _ in range(2)]
    assert said == [f"seed {request['seed']}" for request in model.requests]
    assert said[0] != said[1]


def test_texts_are_ruled_off(model: FakeModel) -> None:
    assert run("generate", "--num-samples", "3").stdout == f"\n{cli.RULE}\n".join(TEXTS) + "\n"


def test_json_is_an_object_a_line(model: FakeModel) -> None:
    lines = run("generate", "--num-samples", "3", "--seed", "7", "--json").stdout.splitlines()
    assert [json.loads(line) for line in lines] == [
        {
            "text": text, "tokens": [0, 1, 2], "seed": 7, "index": index, "steps": STEPS,
            "model": "shipped model", "seconds": 0.25,
        }
        for index, text in enumerate(TEXTS)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("--steps", "64", 64),
        ("--length", "32", 32),
        ("--batch-size", "2", 2),
        ("--temperature", "0.5", 0.5),
        ("--draw", "official", "official"),
        ("--prefix", "ROMEO:", "ROMEO:"),
        ("--suffix", "exit", "exit"),
        ("--predictor", "euler", "euler"),
        ("--top-k", "20", 20),
        ("--top-p", "0.9", 0.9),
    ],
)
def test_an_option_reaches_the_model(model: FakeModel, option: str, value: str, expected: object) -> None:
    run("generate", option, value)
    assert model.requests[0][option.removeprefix("--").replace("-", "_")] == expected


def test_what_is_not_given_is_left_to_the_model(model: FakeModel) -> None:
    run("generate")
    optional = ("steps", "length", "batch_size", "temperature", "predictor")
    assert all(model.requests[0][name] is None for name in optional)
    assert "template" not in model.requests[0]


@pytest.mark.parametrize("from_file", [True, False])
def test_a_template_is_read_as_it_stands(model: FakeModel, tmp_path: Path, from_file: bool) -> None:
    text = "ROMEO:\n{{40}} Ünd\n\n"
    file = tmp_path / "scene.txt"
    file.write_text(text, encoding="utf-8")
    arguments = ["generate", "--template", str(file) if from_file else "-"]
    assert CliRunner().invoke(cli.main, arguments, input=None if from_file else text).exit_code == 0
    assert model.requests[0]["template"] == text


@pytest.mark.parametrize("from_file", [True, False])
def test_a_byte_order_mark_is_not_text(model: FakeModel, tmp_path: Path, from_file: bool) -> None:
    content = b"\xef\xbb\xbfROMEO:\r\n\xef\xbb\xbf{{40}}"
    file = tmp_path / "scene.txt"
    file.write_bytes(content)
    arguments = ["generate", "--template", str(file) if from_file else "-"]
    assert CliRunner().invoke(cli.main, arguments, input=None if from_file else content).exit_code == 0
    assert model.requests[0]["template"] == "ROMEO:\n\ufeff{{40}}"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
def test_utf_16_is_named(model: FakeModel, tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "scene.txt"
    file.write_bytes("\ufeffROMEO".encode("utf-16-be") if encoding == "utf-16-be" else "ROMEO".encode(encoding))
    result = run("generate", "--template", str(file))
    assert result.exit_code == 1 and "is UTF-16, allowed: UTF-8" in result.stderr


def test_a_template_that_is_no_text_or_no_file_is_refused(model: FakeModel, tmp_path: Path) -> None:
    file = tmp_path / "scene.txt"
    file.write_bytes(b"ab\xff")
    result = run("generate", "--template", str(file))
    assert result.exit_code == 1 and "is not UTF-8: byte 0xff at 2" in result.stderr
    assert run("generate", "--template", str(tmp_path / "missing")).exit_code == 1


@pytest.mark.parametrize("command", ["generate", "inspect"])
def test_the_dtype_reaches_the_model(model: FakeModel, command: str) -> None:
    assert run(command, "--dtype", "int8").exit_code == 0 and model.dtype == "int8"
    assert run(command).exit_code == 0 and model.dtype == "float32"
    assert run(command, "--dtype", "float16").exit_code == 2


@pytest.mark.parametrize("command", ["generate", "inspect"])
def test_where_a_model_comes_from_reaches_it(model: FakeModel, command: str) -> None:
    run(command)
    assert model.source == {"revision": None, "offline": False, "tokenizer": None, "heads": None}
    run(command, "--revision", "v1", "--offline", "--tokenizer", "gpt2", "--heads", "3")
    assert model.source == {"revision": "v1", "offline": True, "tokenizer": "gpt2", "heads": 3}


def test_a_note_of_the_model_is_said_unless_quiet(model: FakeModel) -> None:
    arguments = ["generate", "--model", "owner/without-tokenizer"]
    assert "texts are token ids" in run(*arguments).stderr.splitlines()
    assert run(*arguments, "--quiet").stderr == ""


def test_threads(model: FakeModel, kernels: FakeKernels) -> None:
    run("generate", "--threads", "2")
    assert kernels.threads == 2


def test_no_progress_where_there_is_no_terminal(model: FakeModel) -> None:
    result = run("generate", "--watch")
    assert result.exit_code == 0
    assert model.requests[0]["on_step"] is None


@pytest.mark.parametrize(
    "arguments",
    [
        ["--steps", "0"],
        ["--threads", "0"],
        ["--num-samples", "0"],
        ["--batch-size", "0"],
        ["--length", "0"],
        ["--temperature", "0"],
        ["--seed", "-1"],
        ["--seed", str(2**64)],
        ["--draw", "nearly"],
        ["--output", "."],
        ["--watch", "--quiet"],
        ["--watch", "--scheduler", "local:2"],
        ["--resume"],
        ["--resume", "--json"],
        ["--resume", "--output", "texts.txt"],
        ["--unknown"],
    ],
)
def test_usage_errors(model: FakeModel, arguments: list[str]) -> None:
    result = run("generate", *arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("Usage:")
    assert model.requests == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "missing"], "missing: no such file or folder"),
        (["--prefix", "ß"], "prefix: 'ß' at 0 is not among the model's 65 characters"),
        (["--threads", "3"], "threads is 3, allowed are 1 to 2"),
    ],
)
def test_what_only_the_model_can_tell_is_one_line(model: FakeModel, arguments: list[str], message: str) -> None:
    result = run("generate", "--quiet", *arguments)
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", f"fastsedd: error: {message}\n")


def test_an_error_without_a_message_is_named(model: FakeModel) -> None:
    model.fails, model.fails_at = MemoryError(), 0
    assert run("generate", "--quiet").stderr == "fastsedd: error: MemoryError\n"


def test_an_interrupt_keeps_the_texts_that_are_done(model: FakeModel) -> None:
    model.fails = KeyboardInterrupt()
    result = run("generate", "--num-samples", "2", "--quiet")
    assert (result.exit_code, result.stdout) == (130, f"{TEXTS[0]}\n")
    assert result.stderr == "fastsedd: interrupted\n"


def test_a_closed_pipe_is_quiet(model: FakeModel) -> None:
    model.fails = BrokenPipeError(errno.EPIPE, "Broken pipe")
    result = run("generate", "--num-samples", "2", "--quiet")
    assert (result.exit_code, result.stderr) == (1, "")


def test_an_output_file_is_written(model: FakeModel, tmp_path: Path) -> None:
    target = tmp_path / "texts.txt"
    target.write_text("old")
    result = run("generate", "--num-samples", "3", "--output", str(target))
    assert (result.exit_code, result.stdout) == (0, "")
    assert target.read_text(encoding="utf-8") == f"\n{cli.RULE}\n".join(TEXTS) + "\n"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("fails", [KeyboardInterrupt(), ValueError("full")])
def test_an_output_file_is_whole_or_untouched(model: FakeModel, tmp_path: Path, fails: BaseException) -> None:
    target = tmp_path / "texts.txt"
    target.write_text("old")
    model.fails = fails
    assert run("generate", "--num-samples", "2", "--output", str(target)).exit_code != 0
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_json_lines_grow_and_an_old_file_is_kept_aside(model: FakeModel, tmp_path: Path) -> None:
    target = tmp_path / "texts.jsonl"
    target.write_text("old")
    model.fails = KeyboardInterrupt()
    arguments = ["generate", "--num-samples", "3", "--steps", str(STEPS), "--json", "--output", str(target)]
    result = run(*arguments, "--seed", "7")
    assert result.exit_code == 130
    assert "--resume goes on with it" in result.stderr
    assert (tmp_path / "texts.jsonl~").read_text() == "old"
    assert [json.loads(line)["index"] for line in target.read_text().splitlines()] == [0]
    run(*arguments, "--resume")
    assert (model.requests[-1]["seed"], model.requests[-1]["indices"]) == (7, [1, 2])


@pytest.mark.parametrize("other", [["--seed", "8"], ["--steps", "4"], ["--num-samples", "1"]])
def test_another_request_is_refused_and_the_file_untouched(model: FakeModel, tmp_path: Path, other: list[str]) -> None:
    target = tmp_path / "texts.jsonl"
    arguments = ["generate", "--quiet", "--json", "--output", str(target), "--num-samples", "2", "--steps", str(STEPS)]
    run(*arguments)
    with target.open("a") as file:
        file.write('{"text": "to')
    before = target.read_bytes()
    result = run(*arguments, "--resume", *other)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"fastsedd: error: {target}: ") and result.stderr.count("\n") == 1
    assert target.read_bytes() == before


def test_an_output_file_in_no_folder_is_one_line(model: FakeModel, tmp_path: Path) -> None:
    result = run("generate", "--quiet", "--output", str(tmp_path / "none" / "texts.txt"))
    assert result.exit_code == 1
    assert result.stderr.startswith("fastsedd: error: ")
    assert result.stderr.count("\n") == 1


def test_a_link_is_followed_and_a_device_is_not_replaced(model: FakeModel, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("target")
    assert run("generate", "--output", str(tmp_path / "link")).exit_code == 0
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == f"{TEXTS[0]}\n"
    assert run("generate", "--output", os.devnull).exit_code == 0
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


def test_inspect_says_what_the_checkpoint_is(model: FakeModel) -> None:
    result = run("inspect")
    assert result.exit_code == 0
    assert dict(re.split(" {2,}", line, maxsplit=1) for line in result.stdout.splitlines()) == {
        "model": "shipped model",
        "architecture": "ddit",
        "parameters": "1,234,567",
        "stored dtype": "float16",
        "linear layers": "float32",
        "width": "384",
        "blocks": "6",
        "heads": "6 of 64",
        "length": "256 tokens",
        "vocabulary": "65 tokens and a mask",
        "tokenizer": "characters '\\n abc'",
        "graph": "absorb",
        "noise": "geometric, sigma 0.0001 to 20",
        "fitted grid": "none",
        "generation": "128 steps, temperature 0.9",
    }


def test_warmup_says_where_the_kernels_are(kernels: FakeKernels, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[object] = []
    monkeypatch.setitem(vars(fastsedd), "warmup", compiled.append)
    result = run("warmup")
    assert (result.exit_code, len(compiled)) == (0, 1)
    assert str(kernels.folder) in result.stdout


def test_warmup_is_an_error_where_nothing_can_be_kept(kernels: FakeKernels) -> None:
    kernels.folder = None
    result = run("warmup")
    assert result.exit_code == 1
    assert "FASTSEDD_CACHE_DIR" in result.stderr
