"""Where compiled kernels are kept on disk, and when what lies there may be trusted.

One folder holds the entries of one build: its name is a hash of everything that the machine code depends on (all
sources of this package, Numba, llvmlite, NumPy, the target CPU and its features), so a changed helper, constant or
flag can never be served stale. Entries are pickles: a folder that others can write is refused.
"""

from __future__ import annotations

import functools
import hashlib
import os
import stat
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy
import platformdirs
from numba.core.caching import CompileResultCacheImpl, FunctionCache
from numba.core.registry import cpu_target

CACHE_VARIABLE = "FASTSEDD_CACHE_DIR"


def build_key() -> str:
    """Hash of the sources and of the compiler that would translate them."""
    digest = hashlib.sha256()
    package = Path(__file__).parent
    for path in sorted(package.rglob("*.py")):
        digest.update(str(path.relative_to(package)).encode() + b"\0" + path.read_bytes() + b"\0")
    versions = (sys.version_info[:2], numba.__version__, llvmlite.__version__, numpy.__version__)
    target = cpu_target.target_context.codegen().magic_tuple()
    digest.update(repr((versions, target)).encode())
    return digest.hexdigest()[:16]


def _is_private(folder: Path) -> bool:
    """Whether the folder is ours alone to write."""
    if not hasattr(os, "getuid"):
        return True
    status = folder.stat()
    return status.st_uid == os.getuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def cache_parent() -> Path:
    """Where what is kept for this user lies: `FASTSEDD_CACHE_DIR`, or in the user's cache folder of this platform."""
    return Path(os.environ.get(CACHE_VARIABLE) or platformdirs.user_cache_dir("fastsedd", appauthor=False))


@functools.cache
def cache_folder() -> Path | None:
    """The folder of this build's compiled kernels, or None where none can be written."""
    folder = cache_parent() / f"kernels-{build_key()}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder if _is_private(folder) else None
    except OSError:
        return None


class _BuildFolder:
    """Numba's cache locator protocol over `cache_folder`; the folder's name already stands for the source's state."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @classmethod
    def from_function(cls, function: Callable[..., Any], source: str) -> _BuildFolder | None:
        folder = cache_folder()
        return None if folder is None else cls(folder)

    def ensure_cache_path(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def get_cache_path(self) -> str:
        return str(self._folder)

    def get_source_stamp(self) -> str:
        return self._folder.name

    def get_disambiguator(self) -> str:
        return "0"


class _BuildCacheImpl(CompileResultCacheImpl):  # type: ignore[misc]
    _locator_classes = (_BuildFolder,)


class KernelCache(FunctionCache):  # type: ignore[misc]
    """Numba's function cache, in our folder, for which a broken file or a full disk is a miss and never an error."""

    _impl_class = _BuildCacheImpl

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(signature, target_context)
        except Exception:  # truncated or foreign pickles raise nearly anything: drop them and compile
            self._forget()
            return None

    def save_overload(self, signature: Any, data: Any) -> None:
        try:
            super().save_overload(signature, data)
        except OSError:
            pass  # a disk that is full or turned read-only costs a recompilation next time, not this run
        except Exception:  # an unreadable index: replace it
            self._forget()

    def _forget(self) -> None:
        try:
            self.flush()
        except OSError:
            self.disable()
