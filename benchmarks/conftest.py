"""The fixture of the suites: hold a contest, keep its result beside pytest-benchmark's own."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

# Every OpenMP library in the process, PyTorch's too, waits awake from call to call, and sleeps after a contest's pause.
os.environ.setdefault("GOMP_SPINCOUNT", "200000")

import contest as contests
import environment
import peers
import pytest


@pytest.fixture(scope="session")
def all_peers() -> list[peers.Peer]:
    return [peer for peer in peers.all_peers() if peer.prepare is not None]


@pytest.fixture
def record(benchmark: Any) -> Callable[..., None]:
    """record(contenders, limit, work, **labels): hold the contest, then let pytest-benchmark time ours alone.

    rounds : of the latter, beside one that does not count; 0 for what takes minutes: once, and that counts
    """

    def held(
        contenders: Mapping[str, Any], limit: Callable[[], float], work: int, rounds: int = 5, **labels: Any
    ) -> None:
        benchmark.extra_info.update(labels, work=work, **contests.hold(contenders, limit, work))
        benchmark.pedantic(contenders[contests.OURS], rounds=max(1, rounds), warmup_rounds=min(1, rounds))

    return held


def pytest_benchmark_update_machine_info(config: Any, machine_info: dict[str, Any]) -> None:
    machine_info.clear()  # it names the machine
    machine_info.update(environment.describe())


def pytest_benchmark_update_commit_info(config: Any, commit_info: dict[str, Any]) -> None:
    commit_info.clear()
