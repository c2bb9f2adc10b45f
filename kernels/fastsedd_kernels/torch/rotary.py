"""Rotary positions of transformers' attention classes, of which `apply_rotary_pos_emb` is a function and no module.

A class's forward looks that function up among the globals of its module. An attention layer is given the same forward
with other globals, in which the name stands for the kernel: nothing changes for anybody else. Functions of that name
differ; one is taken if it gives the kernel's result for random queries and keys, else the layer is left.
"""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Callable
from types import CellType, FunctionType
from typing import Any

import numpy as np
import torch
from torch import nn

import fastsedd_kernels as fk
from fastsedd_kernels.torch import tensors
from fastsedd_kernels.torch.modules import Forward

_NAME = "apply_rotary_pos_emb"
_AGREEMENT = 1e-5  # relative to the norm of the function's result


class Rotation:
    """The kernel in place of one function of that name, which it falls back to."""

    def __init__(self, original: Callable[..., Any]) -> None:
        self._original = original

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        values = dict(zip(("q", "k", "cos", "sin", "unsqueeze_dim"), arguments, strict=False)) | keywords
        axis = values.pop("unsqueeze_dim", 1)
        known = values.keys() == {"q", "k", "cos", "sin"} and len(arguments) <= 5 and axis == 1
        if known and all(isinstance(each, torch.Tensor) for each in values.values()):
            q, k, cos, sin = (values[name] for name in ("q", "k", "cos", "sin"))
            with tensors.plainly():
                table = _table(q, k, cos, sin)
                if table is not None:
                    return tuple(_rotated(each, *table) for each in (q, k))
        return self._original(*arguments, **keywords)


def _table(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[fk.RotaryTable, Any] | None:  # fmt: skip
    """The table of these angles, and each position's row in it; None if the kernel cannot take them."""
    if not tensors.usable(q, k) or not tensors.usable(cos, sin) or q.ndim != 4 or k.ndim != 4 or cos.ndim != 3:
        return None
    texts, length, width = cos.shape
    if cos.shape != sin.shape or width % 2 or texts not in (1, q.shape[0]) or k.shape[0] != q.shape[0]:
        return None
    if any(each.shape[-2] != length or each.shape[-1] != width or each.stride(-1) != 1 for each in (q, k)):
        return None
    half, arrays = width // 2, [tensors.as_array(each) for each in (cos, sin)]
    if not all(np.array_equal(each[..., :half], each[..., half:]) for each in arrays):
        return None  # not those of pairs (i, width / 2 + i)
    angles = [np.ascontiguousarray(each[..., :half]).reshape(-1, half) for each in arrays]
    return fk.RotaryTable(*angles), np.arange(texts * length).reshape(texts, length)


def _rotated(x: torch.Tensor, table: fk.RotaryTable, positions: Any) -> torch.Tensor:
    """[B, H, L, D] rotated; the result lies in memory as x does."""
    out = torch.empty_like(x, dtype=torch.float32)
    fk.rotary(tensors.as_array(x), out=out.numpy(), table=table, positions=positions)
    return out.to(x.dtype)


class RotaryForward(Forward):
    """The class's forward, with the kernel in the place of its function for rotary positions."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module)
        self._own: Callable[..., Any] | None = None
        self._names: tuple[Any, ...] = ()  # what the forward finds among the globals, when it was rebuilt

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_own": None, "_names": ()}  # these cannot be pickled; a copy makes its own

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        own = self._rebuilt() if self.is_unchanged and tensors.is_plain_inference() else None
        if own is None:
            return self.original(*arguments, **keywords)
        return own(self.module, *arguments, **keywords)

    def _rebuilt(self) -> Callable[..., Any] | None:
        """The forward with the kernel in it; None once somebody has put other functions in the place of its own."""
        inner: Any = inspect.unwrap(self._function)
        names = tuple(map(inner.__globals__.get, inner.__code__.co_names))
        if self._own is None:
            found = _found(self._function)
            if found is None or not _agrees(found):
                return None
            self._own, self._names = _rebuilt(self._function), names
        return self._own if all(map(operator.is_, names, self._names)) else None

    def example(self, tokens: int) -> tuple[torch.Tensor, ...]:
        """Random queries and keys of one text and their angles, to time the function with."""
        module: Any = self.module
        dim = getattr(module, "head_dim", 64)
        query = getattr(module, "q_proj", None)
        heads = max(1, query.out_features // dim) if isinstance(query, nn.Linear) and isinstance(dim, int) else 16
        generator = torch.Generator().manual_seed(0)
        q, k = torch.randn(2, 1, tokens, heads, dim, generator=generator).transpose(2, 3)
        angles = torch.randn(1, tokens, dim // 2, generator=generator).repeat(1, 1, 2)
        return q, k, angles.cos(), angles.sin()

    def compute(self, x: tuple[torch.Tensor, ...]) -> Any:
        """The kernel's result for an example."""
        return Rotation(self._rotate)(*x)

    def reference(self, x: tuple[torch.Tensor, ...]) -> Any:
        """The function's result for an example."""
        return self._rotate(*x)

    @property
    def _rotate(self) -> Callable[..., Any]:
        return inspect.unwrap(self._function).__globals__[_NAME]  # type: ignore[no-any-return]


def rotary_forward(module: nn.Module) -> RotaryForward | str | None:
    """The forward of a layer that rotates; why not, if the function computes something else; None for other modules."""
    function = type(module).forward
    found = _found(function)
    if found is None or not list(module.children()):
        return None
    return RotaryForward(module) if _agrees(found) else f"its {_NAME} is another one"


def _found(function: Any) -> Callable[..., Any] | None:
    """The function of that name which a forward calls."""
    inner = inspect.unwrap(function)
    if not isinstance(inner, FunctionType) or _NAME not in inner.__code__.co_names:
        return None
    found = inner.__globals__.get(_NAME)
    return found if isinstance(found, FunctionType) else None


@functools.lru_cache(maxsize=256)
def _agrees(function: Callable[..., Any]) -> bool:
    """True if it gives the kernel's result for random queries and keys of two texts."""
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, heads, 5, 12, generator=generator) for heads in (4, 2))
    freqs = torch.randn(2, 5, 6, generator=generator).repeat(1, 1, 2)
    cos, sin = freqs.cos() * 1.5, freqs.sin() * 1.5  # yarn's factor
    try:
        with torch.no_grad():
            expected, table = function(q, k, cos, sin), _table(q, k, cos, sin)
        if table is None or len(expected) != 2:
            return False
        return all(
            float(torch.linalg.norm(_rotated(each, *table) - wanted) / torch.linalg.norm(wanted)) <= _AGREEMENT
            for each, wanted in zip((q, k), expected, strict=True)
        )
    except Exception:  # another function may take other arguments
        return False


def _rebuilt(function: Any) -> Any:
    """The function, or a decorator's wrapper around it, with the kernel for the name among its globals."""
    if not isinstance(function, FunctionType):
        return function
    names = function.__globals__
    if _NAME in function.__code__.co_names:
        names = {**names, _NAME: Rotation(names[_NAME])}
    cells = tuple(_rebuilt_cell(cell, function) for cell in function.__closure__ or ())
    made = FunctionType(function.__code__, names, function.__name__, function.__defaults__, cells)
    made.__kwdefaults__ = function.__kwdefaults__
    return made


def _rebuilt_cell(cell: CellType, outer: FunctionType) -> CellType:
    """A cell of what a wrapper wraps, with that rebuilt; any other as it is."""
    wrapped = getattr(outer, "__wrapped__", None)
    try:
        return CellType(_rebuilt(wrapped)) if wrapped is not None and cell.cell_contents is wrapped else cell
    except ValueError:  # an empty cell
        return cell
