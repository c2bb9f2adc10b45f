"""The names that a caller chooses among, one list each: types, command-line choices and refusals follow from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

Dtype = Literal["float32", "bfloat16", "int8"]
Predictor = Literal["analytic", "euler", "ddpm"]
Draw = Literal["exact", "official"]
Grid = Literal["uniform", "log-sigma", "fitted"]

DTYPES: tuple[Dtype, ...] = get_args(Dtype)
PREDICTORS: tuple[Predictor, ...] = get_args(Predictor)
DRAWS: tuple[Draw, ...] = get_args(Draw)
GRIDS: tuple[Grid, ...] = get_args(Grid)

MAX_SEED = (1 << 64) - 1
MAX_TIMES = 1 << 16  # at which `evaluate` noises a window
MAX_NODES = 1024  # of the mesh that `fit_grid` measures on


def check_one_of(name: str, value: object, allowed: Sequence[str]) -> None:
    """Raise ValueError, naming the argument, for a value that is not in the list."""
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}, allowed: {', '.join(map(repr, allowed))}")


def check_integer(name: str, value: object, least: int, most: int) -> None:
    """Raise ValueError, naming the argument, for anything but an int from `least` to `most`."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{name} is {value!r}, allowed: {least} to {most}")


def check_seed(seed: int) -> None:
    """Raise ValueError for anything but an int of 64 bits without a sign."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed is {seed!r}, allowed: an integer, 0 <= seed < 2^64")
