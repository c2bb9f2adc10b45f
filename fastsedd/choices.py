"""The names that a caller chooses among, one list each: types, command-line choices and refusals follow from them."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Literal, TypeGuard, get_args

Dtype = Literal["float32", "bfloat16", "int8", "int4"]
AnyDtype = Literal["float32", "bfloat16", "int8", "int4", "stored"]
Predictor = Literal["analytic", "euler", "ddpm"]
Draw = Literal["exact", "official"]
Grid = Literal["uniform", "log-sigma", "fitted"]
Order = Literal["confidence", "margin", "entropy", "random", "independent", "p2"]
Quota = Literal["dllm", "llada", "dream", "smdm", "single"]
Attention = Literal["full", "block"]
Cache = Literal["exact", "approximate", "approximate-dual", "off"]
GgufType = Literal["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1"]

DTYPES: tuple[Dtype, ...] = get_args(Dtype)
ANY_DTYPES: tuple[AnyDtype, ...] = get_args(AnyDtype)
STORED: AnyDtype = "stored"  # each weight as its file has it
PREDICTORS: tuple[Predictor, ...] = get_args(Predictor)
DRAWS: tuple[Draw, ...] = get_args(Draw)
GRIDS: tuple[Grid, ...] = get_args(Grid)
ORDERS: tuple[Order, ...] = get_args(Order)
QUOTAS: tuple[Quota, ...] = get_args(Quota)
ATTENTIONS: tuple[Attention, ...] = get_args(Attention)
CACHES: tuple[Cache, ...] = get_args(Cache)
GGUF_TYPES: tuple[GgufType, ...] = get_args(GgufType)  # that are written

MAX_SEED = (1 << 64) - 1
MAX_TIMES = 1 << 16  # at which `evaluate` noises a window
MAX_NODES = 1024  # of the mesh that `fit_grid` measures on


def is_integer(value: object) -> TypeGuard[int]:
    """True if a value is an integer, of Python or NumPy, and not a bool."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_one_of(name: str, value: object, allowed: Sequence[str]) -> None:
    """Raise ValueError, naming the argument, for a value that is not in the list."""
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}, allowed: {', '.join(map(repr, allowed))}")


def check_integer(name: str, value: object, least: int, most: int) -> None:
    """Raise ValueError, naming the argument, for anything but an integer from `least` to `most`."""
    if not is_integer(value) or not least <= value <= most:
        raise ValueError(f"{name} is {value!r}, allowed: {least} to {most}")


def check_seed(seed: int) -> None:
    """Raise ValueError for anything but an unsigned integer of 64 bits."""
    if not is_integer(seed) or not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed is {seed!r}, allowed: an integer, 0 <= seed < 2^64")
