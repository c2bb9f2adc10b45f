"""Arguments of random calls: arrays in any layout in the midst of NaN, outputs in memory that must stay as it is."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import fastsedd_kernels as fk
import numba
import numpy as np
from fastsedd_kernels.gemm.pack_b import COLUMNS

PANEL = COLUMNS[np.dtype(np.float32)]
CANARY = np.uint8(0xAB)  # as float32 and float64: tiny negative numbers


class Call:
    """One random call: its numbers, what is said of it, and the memory that it must not change."""

    def __init__(self, number: int, njit: bool) -> None:
        self.rng = np.random.default_rng(number)
        self.words: list[str] = []
        self.way = self.pick("plain", "plain", "recorded", "njit") if njit else self.pick("plain", "plain", "recorded")
        self._kept: list[tuple[np.ndarray, bytes]] = []
        self._around: list[tuple[np.ndarray, np.ndarray]] = []

    def pick(self, *values: Any) -> Any:
        return values[self.rng.integers(len(values))]

    def size(self, tile: int = PANEL, most: int = 4) -> int:
        """A dimension: small, or near a multiple of a tile; now and then 0."""
        kind = self.rng.random()
        if kind < 0.02:
            return 0
        if kind < 0.5:
            return int(self.rng.integers(1, 20))
        around = int(self.rng.integers(1, most + 1)) * tile
        return max(1, around + self.pick(-1, 0, 1, tile // 2, tile // 4, -tile // 3))

    def array(
        self,
        name: str,
        *shape: int,
        dtype: Any = np.float32,
        scale: float | None = None,
        favoured: tuple[str, ...] = (),
    ) -> np.ndarray:
        """Random numbers of that shape in a random layout, half of the time a favoured one, in the midst of NaN."""
        scale = self.pick(0.0, 1e-3, 1.0, 1.0, 30.0) if scale is None else scale
        values = (self.rng.standard_normal(shape) * scale).astype(dtype)
        if self.rng.random() < 0.3:
            values *= self.rng.choice([0.0, 1e-3, 1.0], shape).astype(dtype)
        return self.laid_out(name, values, favoured)

    def laid_out(self, name: str, values: np.ndarray, favoured: tuple[str, ...] = ()) -> np.ndarray:
        layouts = ["C", "F", "strided", "reversed", "inside", "crowded", "axes", "repeated", "unaligned"]
        layout = self.pick(*(layouts[:-1] if self.way == "njit" else layouts))
        if favoured and self.rng.random() < 0.5:
            layout = self.pick(*favoured)
        memory, array = _place(values, layout, self.rng)
        self.words.append(f"{name}={array.dtype}{list(array.shape)} {layout}")
        self._kept.append((memory, memory.tobytes()))
        return array

    def out(self, *shape: int, dtype: Any = np.float32, rows_apart: int = 0) -> np.ndarray:
        """An output of NaN inside of memory that nobody may write; rows_apart : elements between its rows."""
        *lead, width = shape or (1,)
        count = math.prod(lead) * (width + rows_apart)
        guard = 64 + int(self.rng.integers(0, 17))
        memory = np.full((count + 2 * guard) * np.dtype(dtype).itemsize, CANARY).view(dtype)
        out = memory[guard : guard + count].reshape(*lead, width + rows_apart)[..., :width].reshape(shape)
        out[...] = np.nan if np.dtype(dtype).kind == "f" else -7
        expected = memory.view(np.uint8) == CANARY
        self._around.append((memory, expected))
        self.words.append(f"out guarded by {guard}")
        return out

    def run(self, function: Callable[[], np.ndarray]) -> np.ndarray:
        """The result; of a recording that of a replay, which must be the same."""
        self.words.append(self.way)
        if self.way != "recorded":
            return function()
        results: list[np.ndarray] = []
        recording = fk.record(lambda: results.append(function()))
        first = results[0].copy()
        if results[0].flags.writeable:
            results[0][...] = np.nan if first.dtype.kind == "f" else -7
        recording.replay()
        require(np.array_equal(results[0], first, equal_nan=first.dtype.kind == "f"), "a replay differs")
        return results[0]

    def close(self, result: np.ndarray, exact: np.ndarray, bound: Any) -> None:
        """Equal where exact is NaN or infinite, and within the bound where it is not."""
        require(result.shape == exact.shape, f"shape {result.shape} for {exact.shape}")
        with np.errstate(invalid="ignore"):
            right = np.where(np.isfinite(exact), np.abs(result - exact) <= bound, result == exact)
        right |= np.isnan(exact) & np.isnan(result)
        if not right.all():
            place = tuple(int(i[0]) for i in np.nonzero(~right))
            given = float(np.broadcast_to(bound, exact.shape)[place])
            wrong = int((~right).sum())
            raise AssertionError(f"{wrong} wrong, {result[place]} for {exact[place]} +- {given:.1e} at {place}")

    def check_memory(self) -> None:
        for memory, before in self._kept:
            require(memory.tobytes() == before, "an input was written")
        for memory, around in self._around:
            require(bool((memory.view(np.uint8) == CANARY)[around].all()), "memory beside the output was written")


def require(holds: bool, words: str) -> None:
    if not holds:
        raise AssertionError(words)


def _place(values: np.ndarray, layout: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(memory, an array in it with these values in that layout)"""
    shape, ndim = values.shape, values.ndim
    hole: Any = np.nan if values.dtype.kind == "f" else 0
    if layout == "unaligned":
        memory = np.zeros(values.nbytes + 1, np.uint8)
        array = memory[1:].view(values.dtype).reshape(shape)
    elif layout == "axes":  # in another order
        order = rng.permutation(ndim)
        memory = np.empty([shape[axis] for axis in order], values.dtype)
        array = memory.transpose(np.argsort(order))
    elif layout == "repeated":  # a stride of 0
        axis = int(rng.integers(max(1, ndim)))
        memory = np.ascontiguousarray(values.take([0], axis) if ndim and values.size else values)
        values.setflags(write=True)
        values[...] = memory
        return memory, np.broadcast_to(memory, shape) if memory.shape != shape else memory
    else:
        steps = [int(rng.integers(2, 4)) if layout == "strided" else 1 for _ in shape]
        pads = [int(rng.integers(1, 5)) if layout in ("inside", "strided") else 0 for _ in shape]
        wide = [2 * pad + step * size for pad, step, size in zip(pads, steps, shape, strict=True)]
        if layout == "crowded" and ndim:
            wide[-1] = -(-max(1, wide[-1]) // (4096 // values.itemsize)) * (4096 // values.itemsize)
        memory = np.full(wide, hole, values.dtype, order="F" if layout == "F" else "C")
        where = tuple(slice(pad, pad + step * size, step) for pad, step, size in zip(pads, steps, shape, strict=True))
        array = memory[where]
        if layout == "reversed":
            array = array[(slice(None, None, -1),) * ndim]
    array[...] = values
    return memory, array


def put_special(call: Call, x: np.ndarray) -> None:
    """Now and then a NaN or an infinity in an input."""
    if x.size and call.rng.random() < 0.15 and x.flags.writeable and 0 not in x.strides:
        x[tuple(int(call.rng.integers(size)) for size in x.shape)] = call.pick(np.nan, np.inf, -np.inf)
        call._kept[-1] = (call._kept[-1][0], call._kept[-1][0].tobytes())
        call.words[-1] += " with one that is not finite"


def magnitudes(x: np.ndarray) -> np.ndarray:
    """Magnitudes for a bound, 0 where there is none."""
    return np.where(np.isfinite(x), np.abs(x), 0).astype(np.float64)


@np.errstate(invalid="ignore")
def exact_product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray(a.astype(np.float64) @ b.astype(np.float64))


# ---- calls from njit functions, whose types are given: an array of any layout is one of layout "A" -------------------


def kind_of(dimensions: int, dtype: Any = numba.float32, layout: str = "A") -> Any:
    return numba.types.Array(dtype, dimensions, layout)


_JITTED: dict[str, Any] = {}


def jitted(name: str, function: Callable[..., Any], *kinds: Any) -> Any:
    if name not in _JITTED:
        _JITTED[name] = numba.njit(kinds if kinds else None)(function)
    return _JITTED[name]


def writable(x: np.ndarray) -> np.ndarray:
    return x if x.flags.writeable else x.copy()
