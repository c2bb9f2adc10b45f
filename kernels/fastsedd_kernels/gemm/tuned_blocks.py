"""Upper bounds of a product's blocks: the machine's, or those that tuning has found for this CPU and kept on disk."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fastsedd_kernels.runtime.cache import cache_parent, write_whole
from fastsedd_kernels.runtime.cpu import cpu_info, isa

_MAX = 1 << 16


@dataclass(frozen=True)
class Limits:
    """tiles : of a block of rows; the more, the fewer times B is read. depth : of a slab; the deeper, the rarer a tile
    is loaded and stored. Both give way to the size of the caches (`blocking`).

    Raises ValueError unless both are whole numbers from 1 to 65,536.
    """

    tiles: int = isa().blocks.tiles
    depth: int = isa().blocks.depth

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if type(value) is not int or not 1 <= value <= _MAX:
                raise ValueError(f"{name} is {value!r}, allowed: 1 to {_MAX}")


DEFAULT = Limits()
_current: Limits | None = None  # None: not looked up yet


def limits() -> Limits:
    """The limits in force: set by `use` or `store`, stored for this CPU, or the default."""
    global _current
    if _current is None:
        _current = _load() or DEFAULT
    return _current


@contextlib.contextmanager
def use(chosen: Limits) -> Iterator[None]:
    """Have the products inside cut up by these limits, in all threads. No result depends on them."""
    global _current
    before, _current = _current, chosen
    try:
        yield
    finally:
        _current = before


def store(chosen: Limits) -> Path:
    """Keep the limits for this CPU, from now on and in later processes; the file. Raises OSError where it cannot."""
    global _current
    path = _path()
    if path is None:
        raise OSError("tuned blocks cannot be stored: set FASTSEDD_CACHE_DIR to a folder of your own")
    write_whole(path, json.dumps(dataclasses.asdict(chosen)).encode())
    _current = chosen
    return path


def _load() -> Limits | None:
    """The limits stored for this CPU; a file that holds anything else counts as absent."""
    path = _path()
    if path is None:
        return None
    try:
        return Limits(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError):
        return None


def _path() -> Path | None:
    """One file for each kind of CPU and thread count that this user runs on, or None where none can be kept."""
    folder = cache_parent()
    if folder is None:
        return None
    key = hashlib.sha256(repr(cpu_info()).encode()).hexdigest()[:16]
    return folder / f"blocking-{key}.json"
