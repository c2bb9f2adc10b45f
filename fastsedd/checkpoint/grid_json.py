"""grid.json, beside a model's weights: the time grid that was fitted to it."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec

from fastsedd import atomic
from fastsedd.checkpoint import small_file
from fastsedd.config import FittedTimes
from fastsedd.errors import CheckpointError

NAME = "grid.json"

MAX_BYTES = 1 << 17


class _Stored(msgspec.Struct):
    times: list[float]


def read(path: Path) -> FittedTimes:
    """Read and check a grid. Raises CheckpointError, naming the file and what is allowed."""
    stored = small_file.decode(path, _Stored, MAX_BYTES)
    try:
        return FittedTimes(tuple(stored.times))
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None


def write(path: Path, grid: FittedTimes) -> None:
    """Write a grid for `read`, whole or not at all. Raises OSError where that cannot be done."""
    with atomic.text_file(path) as file:
        file.write(json.dumps({"times": grid.times}, indent=1) + "\n")
