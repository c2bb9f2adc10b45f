"""Workers: the same texts as one process's, none lost and none twice when one is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import masked_models
import pytest
from click.testing import CliRunner

import fastsedd
from fastsedd import cli, cluster
from fastsedd.errors import UnavailableError
from fastsedd.results import Sample

distributed = pytest.importorskip("distributed", reason="needs the dask extra")

REQUEST: dict[str, Any] = {"num_samples": 40, "steps": 60, "seed": 7, "batch_size": 2, "prefix": "ab"}


@pytest.fixture
def folder(write_checkpoint, make_config) -> Path:
    return write_checkpoint(make_config())


@pytest.fixture(scope="module")
def workers() -> Iterator[Any]:
    """Two worker processes of one thread each."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=50
    ) as started:
        yield started


def facts(samples: list[Sample]) -> list[tuple]:
    return [(each.index, each.text, each.tokens.tolist(), each.seed, each.steps) for each in samples]


def test_two_workers_write_what_one_process_writes(folder: Path, workers: Any) -> None:
    seen: list[tuple[int, int]] = []
    with cluster.connect(workers.scheduler_address, folder) as remote:
        assert (remote.name, remote.config) == (str(folder), fastsedd.load(folder).config)
        written = list(remote.stream(**REQUEST, progress=lambda *counts: seen.append(counts)))
        some = list(remote.stream(**REQUEST, indices=[30, 2, 3]))
    alone = list(fastsedd.load(folder).stream(**REQUEST))
    assert facts(written) == facts(alone)
    assert facts(some) == [facts(alone)[index] for index in (30, 2, 3)]
    assert seen[-1] == (40, 40)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_worker_that_is_killed_loses_no_text_and_repeats_none(
    folder: Path, workers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "_TASK_SECONDS", 0.0)  # two texts a task: there are always tasks to lose
    request = {**REQUEST, "steps": 400}
    killed = False
    with cluster.connect(workers.scheduler_address, folder) as remote, distributed.Client(workers) as client:
        written = []
        for sample in remote.stream(**request):
            written.append(sample)
            if not killed:
                busy = next(worker for worker, tasks in client.processing().items() if tasks)
                os.kill(client.run(os.getpid, workers=[busy])[busy], signal.SIGKILL)
                killed = True
    assert facts(written) == facts(list(fastsedd.load(folder).stream(**request)))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [({"steps": 0}, "steps is 0"), ({"prefix": "?"}, "prefix: character"), ({"indices": [40]}, "indices holds 40")],
)
def test_a_bad_argument_is_named_at_once(folder: Path, workers: Any, arguments: dict, words: str) -> None:
    with cluster.connect(workers.scheduler_address, folder) as remote, pytest.raises(ValueError, match=words):
        remote.stream(**{**REQUEST, **arguments})


def test_a_model_that_workers_lack_is_one_line(workers: Any, tmp_path: Path) -> None:
    with (
        pytest.raises(fastsedd.CheckpointError, match="missing"),
        cluster.connect(workers.scheduler_address, tmp_path / "missing"),
    ):
        pass


@pytest.mark.parametrize("scheduler", ["local:0", "local:", "local", "host:8786", "tcp://"])
def test_invalid_schedulers_are_refused(scheduler: str) -> None:
    with pytest.raises(ValueError, match="allowed: local:N"), cluster.connect(scheduler):
        pass


def test_without_dask_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UnavailableError, match=r"pip install 'fastsedd\[dask\]'"), cluster.connect("local:1"):
        pass


def test_the_command_line_goes_on_with_workers_where_one_process_ended(folder: Path, tmp_path: Path) -> None:
    def generate(*more: str) -> None:
        arguments = ["--model", str(folder), "--steps", "5", "--seed", "7", "--json", "--quiet"]
        subprocess.run([sys.executable, "-m", "fastsedd", "generate", *arguments, *more], check=True, timeout=300)

    def written(path: Path) -> list[tuple]:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        return [(line["index"], line["text"], line["tokens"], line["model"]) for line in lines]

    alone, shared = tmp_path / "alone.jsonl", tmp_path / "shared.jsonl"
    generate("--num-samples", "9", "--output", str(alone))
    generate("--num-samples", "2", "--output", str(shared))
    generate("--num-samples", "9", "--output", str(shared), "--resume", "--scheduler", "local:2")
    assert written(shared) == written(alone)


HELLO = [{"role": "user", "content": "Hello"}]


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("a2d-qwen3", {"prompt": "Hello", "max_new_tokens": 30, "temperature": 1.0}),
        ("a2d-qwen3", {"prefix": "ab", "suffix": "yz", "max_new_tokens": 9, "order": "p2", "temperature": 1.0}),
        ("sdar", {"messages": HELLO, "max_new_tokens": 21, "cfg_scale": 1.0}),
        ("Dream", {"template": "if {{5}}:\n{{9}}", "steps": 7, "temperature": 1.0, "batch_size": 3}),
    ],
)
def test_workers_run_masked_language_models(family: str, options: dict, workers: Any, tmp_path: Path) -> None:
    pytest.importorskip("tokenizers", reason="an extra")
    pytest.importorskip("jinja2", reason="an extra")
    model = fastsedd.load(masked_models.write(tmp_path / "model", family))
    request = {"num_samples": 7, "seed": 5, **options}
    with cluster.connect(workers.scheduler_address, model.name) as remote:
        assert remote.config == model.config
        written = list(remote.stream(**request))
        with pytest.raises(ValueError, match="predictor is 'euler'"):
            remote.stream(**request, predictor="euler")
    assert facts(written) == facts(list(model.stream(**request)))
    assert len({sample.text for sample in written}) > 1  # the seed's work, not the prompt's


def test_the_command_line_goes_on_with_a_language_model(workers: Any, tmp_path: Path) -> None:
    pytest.importorskip("tokenizers", reason="an extra")
    model = masked_models.write(tmp_path / "model", "sdar")
    (tmp_path / "gaps").write_text("To {{6}}, or {{9}}.")

    def generate(output: Path, count: int, *more: str) -> list[dict]:
        options = ["--model", str(model), "--template", str(tmp_path / "gaps"), "--num-samples", str(count), "--quiet"]
        arguments = ["generate", *options, "--seed", "7", "--json", "--output", str(output), *more]
        done = CliRunner().invoke(cli.main, arguments, catch_exceptions=False)
        assert (done.exit_code, done.output) == (0, "")
        lines = map(json.loads, output.read_text().splitlines())
        return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]

    alone = generate(tmp_path / "alone.jsonl", 5)
    generate(tmp_path / "shared.jsonl", 2)
    shared = generate(tmp_path / "shared.jsonl", 5, "--resume", "--scheduler", workers.scheduler_address)
    assert shared == alone
    assert all(line["text"].startswith("To ") and ", or " in line["text"] for line in shared)


def test_tasks_grow_with_the_speed_and_shrink_towards_the_end() -> None:
    queue = cluster._Queue(range(100), None)
    assert queue.take(4) == [0]
    queue.note([Sample("", None, 0, 0, 1, seconds=0.5)])  # 20 samples in 10 seconds
    assert queue.take(4) == list(range(1, 21))
    assert queue.take(4) == list(range(21, 41))
    assert [len(queue.take(4)) for _ in range(3)] == [15, 11, 9]
    while queue.left:
        queue.take(4)
    assert queue.left == 0
