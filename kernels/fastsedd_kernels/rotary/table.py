"""Tables of angles for `rotary`: the cosine and the sine of each position and pair of elements.

    angle(p, i) = p * f_i       f_i = base^(-2 i / dim), i from 0 to dim / 2 - 1, as a scaling changes it

The scalings stretch the frequencies f, so that a model reads texts longer than those it was trained on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastsedd_kernels.runtime.arrays import aligned_empty, as_integer, as_number

MAX_ELEMENTS = 1 << 30  # of a table, so that a wrong length is an error, not a full memory


class RotaryTable(NamedTuple):
    """Cosines and sines, float32 [positions, width / 2], of the angles by which `rotary` turns a row's elements.

    Both hold the scaling's attention factor, if it has one. A table may be an argument of njit functions.
    """

    cosines: NDArray[np.float32]
    sines: NDArray[np.float32]


def rotary_table(length: int, dim: int, base: float = 10000.0, scaling: Mapping[str, Any] | None = None) -> RotaryTable:
    """The table of positions 0 to length - 1, computed in float64 and rounded once; read-only.

    length : positions, 1 or more
    dim : elements of a head that are rotated, even: all of them, or the first ones (a partial rotary factor)
    base : theta, above 0
    scaling : as `rope_scaling` of a config.json has it, or None: "rope_type" (or "type"), one of "default", "linear",
        "llama3" and "yarn", and its numbers: "factor"; of "llama3" also "low_freq_factor", "high_freq_factor" and
        "original_max_position_embeddings"; of "yarn" that, and, if wanted, "beta_fast" (32), "beta_slow" (1),
        "attention_factor", "mscale", "mscale_all_dim", "truncate" (True). A "rope_theta" must equal the base.
    Raises ValueError for anything else, naming the argument.
    Source: Su et al. 2021; linear: Chen et al. 2023; yarn: Peng et al. 2023; llama3: Dubey et al. 2024.
    """
    length = as_integer("length", length, 1, MAX_ELEMENTS, "1 or more")
    dim = as_integer("dim", dim, 2, MAX_ELEMENTS, "even, 2 or more")
    if dim % 2 or length * dim > MAX_ELEMENTS:
        raise ValueError(f"dim is {dim}, allowed: even, and length * dim up to {MAX_ELEMENTS}")
    frequencies, factor = scaled_frequencies(dim, as_number("base", base), scaling)
    angles = np.arange(length)[:, None] * frequencies
    table = RotaryTable(aligned_empty(angles.shape), aligned_empty(angles.shape))
    table.cosines[...], table.sines[...] = factor * np.cos(angles), factor * np.sin(angles)
    for each in table:
        each.flags.writeable = False
    return table


def scaled_frequencies(
    dim: int, base: float, scaling: Mapping[str, Any] | None = None
) -> tuple[NDArray[np.float64], float]:
    """(f, float64 [dim / 2]; what cosines and sines are multiplied by)"""
    frequencies = base ** (-np.arange(0, dim, 2) / dim)
    if scaling is None:
        return frequencies, 1.0
    if not isinstance(scaling, Mapping):
        raise ValueError(f"scaling is of type {type(scaling).__name__}, must be a mapping or None")
    given = {key: value for key, value in scaling.items() if value is not None}
    kind = given.pop("rope_type", given.pop("type", None))
    if given.pop("rope_theta", base) != base:
        raise ValueError(f"scaling has rope_theta {scaling['rope_theta']}, but base is {base}")
    given.pop("type", None)
    if kind not in _SCALINGS:
        raise ValueError(f"scaling has rope_type {kind!r}, allowed: {', '.join(map(repr, _SCALINGS))}")
    required, optional, scale = _SCALINGS[kind]
    wrong = [key for key in required if key not in given] + [key for key in given if key not in required | optional]
    if wrong:
        raise ValueError(f"scaling of rope_type {kind!r} lacks or does not know {', '.join(map(repr, wrong))}")
    numbers = {key: _number(key, value) for key, value in given.items()}
    return scale(frequencies, base, numbers)


def _number(key: str, value: Any) -> float:
    return float(value) if isinstance(value, bool) else as_number(f"scaling[{key!r}]", value, or_zero=True)


_Numbers = dict[str, float]
_Scaled = tuple[NDArray[np.float64], float]


def _default(frequencies: NDArray[np.float64], base: float, numbers: _Numbers) -> _Scaled:
    return frequencies, 1.0


def _linear(frequencies: NDArray[np.float64], base: float, numbers: _Numbers) -> _Scaled:
    """Positions closer together by the factor."""
    return frequencies / _above_zero(numbers, "factor"), 1.0


def _llama3(frequencies: NDArray[np.float64], base: float, numbers: _Numbers) -> _Scaled:
    """Low frequencies divided by the factor, high ones kept, those between interpolated by turns in the old length."""
    low, high = numbers["low_freq_factor"], numbers["high_freq_factor"]
    if high <= low:
        raise ValueError(f"scaling['high_freq_factor'] is {high}, allowed: above low_freq_factor, {low}")
    turns = numbers["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return ((1 - kept) / _above_zero(numbers, "factor") + kept) * frequencies, 1.0


def _yarn(frequencies: NDArray[np.float64], base: float, numbers: _Numbers) -> _Scaled:
    """Frequencies of few turns divided by the factor, of many kept, a ramp between; and a factor for the logits."""
    factor, dim = _above_zero(numbers, "factor"), 2 * len(frequencies)
    length = _above_zero(numbers, "original_max_position_embeddings")
    ends = [
        dim * math.log(length / (2 * math.pi * (numbers.get(key) or default))) / (2 * math.log(base))
        for key, default in (("beta_fast", 32.0), ("beta_slow", 1.0))
    ]
    if numbers.get("truncate", 1.0):
        ends = [math.floor(ends[0]), math.ceil(ends[1])]
    first, last = max(ends[0], 0), min(ends[1], dim - 1)
    ramp = np.clip((np.arange(dim // 2) - first) / (last - first if last != first else 1e-3), 0, 1)
    return frequencies * (1 - ramp + ramp / factor), _attention_factor(factor, numbers)


def _attention_factor(factor: float, numbers: _Numbers) -> float:
    def growth(mscale: float) -> float:
        return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0

    if "attention_factor" in numbers:
        return numbers["attention_factor"]
    if numbers.get("mscale") and numbers.get("mscale_all_dim"):
        return growth(numbers["mscale"]) / growth(numbers["mscale_all_dim"])
    return growth(1.0)


def _above_zero(numbers: _Numbers, key: str) -> float:
    return as_number(f"scaling[{key!r}]", numbers[key])


class _Scaling(NamedTuple):
    """Keys that it needs, keys that it may have, and what it makes of (frequencies, base, numbers)."""

    required: frozenset[str]
    optional: frozenset[str]
    scale: Callable[[NDArray[np.float64], float, _Numbers], _Scaled]


_LENGTH = "original_max_position_embeddings"
_SCALINGS = {
    "default": _Scaling(frozenset(), frozenset(), _default),
    "linear": _Scaling(frozenset({"factor"}), frozenset(), _linear),
    "llama3": _Scaling(frozenset({"factor", "low_freq_factor", "high_freq_factor", _LENGTH}), frozenset(), _llama3),
    "yarn": _Scaling(
        frozenset({"factor", _LENGTH}),
        frozenset({"beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim", "truncate"}),
        _yarn,
    ),
}
