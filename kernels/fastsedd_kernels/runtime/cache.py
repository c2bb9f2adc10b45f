"""Compiled kernels on disk: their folder, and whether its contents may be trusted.

One folder holds the entries of one build: its name is a hash of everything that the machine code depends on (all code
of this package, Numba and its settings, llvmlite, NumPy, the target CPU and its features), so a changed helper,
constant or flag can never be served stale. An entry is a file that begins with the hash of the rest. Entries are
pickles: a folder that others can write is refused. Several processes that lack the same entry take turns: one compiles
it, the others wait and load it. Whatever fails here costs a compilation, never a call.
"""

from __future__ import annotations

import functools
import hashlib
import os
import pickle
import stat
import sys
import tempfile
import time
import types
import warnings
from collections.abc import Callable, Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy
import platformdirs
from numba.core.compiler import CompileResult
from numba.core.registry import cpu_target
from numba.core.serialize import dumps

from fastsedd_kernels.runtime.cpu import dot_unit, isa

try:
    import fcntl
except ImportError:  # not POSIX: every process compiles for itself
    fcntl = None  # type: ignore[assignment]

CACHE_VARIABLE = "FASTSEDD_CACHE_DIR"
SUFFIX = ".kernel"  # of an entry's file

_HASH_BYTES = 32
_PATIENCE = 120.0  # seconds that a process waits for another that compiles, which may have been stopped
_PAUSE = 0.02


@functools.cache
def code_digest() -> str | None:
    """Hash of all code of this package that this process has loaded, or None where some of it cannot be seen.

    The package computes it when it is imported: by the time that a kernel is compiled, an upgrade may have replaced
    the files under a running process.
    """
    root = __name__.partition(".")[0]
    digest = hashlib.sha256()
    for name, module in sorted(sys.modules.items()):
        if name != root and not name.startswith(f"{root}."):
            continue
        try:
            for part in _module_contents(module):
                digest.update(len(part).to_bytes(8, "little") + part)
        except Exception:  # an importer that is not ours may raise anything
            return None
    return digest.hexdigest()


def _module_contents(module: types.ModuleType) -> Iterator[bytes]:
    """The source of a module, or its bytecode where it was not loaded from a source file (.pyc, zip, frozen)."""
    specification: Any = module.__spec__
    loader = specification.loader
    yield specification.name.encode()
    if type(loader) is SourceFileLoader:
        yield loader.get_data(loader.path)
    else:
        code = loader.get_code(specification.name)
        if code is None:
            raise ImportError(f"{specification.name} has no bytecode")
        yield from _code_contents(code)


def _code_contents(value: Any) -> Iterator[bytes]:
    """A code object, or a constant of one, as the same bytes in every process (unlike marshal's and a set's order)."""
    if isinstance(value, types.CodeType):
        counts = (value.co_argcount, value.co_posonlyargcount, value.co_kwonlyargcount, value.co_flags)
        names = (value.co_name, value.co_names, value.co_varnames, value.co_freevars, value.co_cellvars)
        yield value.co_code + getattr(value, "co_exceptiontable", b"")
        yield repr((counts, names)).encode()
        yield from _code_contents(value.co_consts)
    elif isinstance(value, tuple):
        yield b"tuple %d" % len(value)
        for each in value:
            yield from _code_contents(each)
    elif isinstance(value, frozenset):
        yield repr(sorted(map(repr, value))).encode()
    else:
        yield repr(value).encode()


def build_key() -> str | None:
    """Hash of this package's code and of the compiler that would translate it; None where the code cannot be seen."""
    code = code_digest()
    if code is None:
        return None
    versions = (sys.version_info[:2], numba.__version__, llvmlite.__version__, numpy.__version__)
    target = (cpu_target.target_context.codegen().magic_tuple(), isa().name, dot_unit("bfloat16"), dot_unit("int8"))
    config = numba.config
    settings = (config.OPT, config.LOOP_VECTORIZE, config.SLP_VECTORIZE, config.BOUNDSCHECK, config.DEBUGINFO_DEFAULT)
    return hashlib.sha256(repr((code, versions, target, settings)).encode()).hexdigest()[:16]


def _parents() -> Iterator[Path]:
    """Folders for what is kept for this user, best first: `FASTSEDD_CACHE_DIR` alone, or else the user's cache folder
    of this platform and, where that cannot be had, one of the user's own among the temporary files."""
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        yield Path(chosen).absolute()
        return
    try:
        usual = Path(platformdirs.user_cache_dir("fastsedd", appauthor=False))
    except RuntimeError:  # no home folder, which older versions of the library return as "~"
        usual = Path("~")
    if usual.is_absolute():
        yield usual
    if hasattr(os, "getuid"):
        temporary = Path(tempfile.gettempdir(), f"fastsedd-{os.getuid()}")
        if _is_usable(temporary):  # another user may have made it first
            yield temporary.resolve()


def cache_parent() -> Path | None:
    """The folder of this user's files, or None where there can be none."""
    return next((folder for folder in _parents() if _can_be_made(folder)), None)


@functools.cache
def cache_folder() -> Path | None:
    """The folder of this build's compiled kernels, or None where there can be none. It may be readable only."""
    try:
        key = build_key()
        if key is not None:
            return next((folder.resolve() for folder in _folders(key) if _is_usable(folder)), None)
    except Exception as error:  # an environment that nobody has thought of
        _warn_once(f"compiled kernels are not kept: {type(error).__name__}: {error}")
    return None


def _folders(key: str) -> Iterator[Path]:
    for parent in _parents():
        yield parent / f"kernels-{key}"


def _can_be_made(folder: Path) -> bool:
    """True if the folder is there now."""
    try:
        _make(folder)
    except OSError:
        return False
    return True


def _is_usable(folder: Path) -> bool:
    """True if the folder is there now, and nobody else can change what is in it."""
    try:
        return _can_be_made(folder) and _is_private(folder)
    except OSError:
        return False


def _make(folder: Path) -> None:
    """Make the folder, and those above it, for this user alone (`Path.mkdir` would open those above to others)."""
    if not folder.is_dir():
        _make(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)


def _is_private(folder: Path) -> bool:
    """True if the folder is for us alone to write, or for the administrator, and nobody else can put another there."""
    if not hasattr(os, "getuid"):
        return True
    folder = folder.resolve()
    own = folder.stat()
    return (
        own.st_uid in (os.getuid(), 0)
        and not own.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        and not any(_is_open_to_all(above) for above in folder.parents)
    )


def _is_open_to_all(folder: Path) -> bool:
    """True if any user may rename what lies in it: not so in /tmp, which is sticky."""
    mode = folder.stat().st_mode
    return bool(mode & stat.S_IWOTH) and not mode & stat.S_ISVTX


class KernelCache:
    """One function's machine code in `folder`, as its dispatcher requests it: a context within which it is compiled.

    A broken file is a miss, and a disk that is full or cannot be written costs a compilation next time, not this run.
    folder : None keeps nothing; on_miss() is called when there is something to compile, or to wait for
    """

    def __init__(self, function: Callable[..., Any], folder: Path | None, on_miss: Callable[[], None]) -> None:
        self._function = function
        self._folder = folder
        self._on_miss = on_miss
        self._lock: Any = None  # the file on which this process holds the turn to compile

    def __enter__(self) -> KernelCache:
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.close()  # gives the turn to the next
            self._lock = None

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        """The compiled function, or None: then it is to be compiled, and the others wait for it."""
        target_context.refresh()
        found = self._load(signature, target_context)
        if found is None:
            self._on_miss()
            self._take_turn(signature)
            found = self._load(signature, target_context)
        return found

    def save_overload(self, signature: Any, compiled: Any) -> None:
        """Keep what was compiled, if that may be: whole, under its name, or not at all."""
        if self._folder is None or compiled.lifted or compiled.library.has_dynamic_globals:
            return
        try:
            # Without its annotated source, which nothing reads and Python may fail to find.
            contents = dumps(compiled._replace(type_annotation="")._reduce())
            write_whole(self._folder / self._name(signature), hashlib.sha256(contents).digest() + contents)
        except OSError as error:
            _warn_once(f"compiled kernels are not kept in {self._folder}: {error.strerror}")
        except Exception as error:  # of Numba's or Python's own, in a version that we do not know
            _warn_once(f"compiled kernels are not kept: {type(error).__name__}: {error}")

    def _load(self, signature: Any, target_context: Any) -> Any:
        if self._folder is None:
            return None
        try:
            stored = (self._folder / self._name(signature)).read_bytes()
            digest, contents = stored[:_HASH_BYTES], stored[_HASH_BYTES:]
            if hashlib.sha256(contents).digest() != digest:
                return None
            return CompileResult._rebuild(target_context, *pickle.loads(contents))
        except Exception:  # what cannot be read, or refers to what is no longer there
            return None

    def _take_turn(self, signature: Any) -> None:
        """Wait until no other process compiles this function, or for as long as that is reasonable."""
        if self._folder is None or fcntl is None:
            return
        try:
            self._lock = (self._folder / "lock").open("ab")
            place = int.from_bytes(hashlib.sha256(self._name(signature).encode()).digest()[:7], "little")
            until = time.monotonic() + _PATIENCE
            while not _lock_byte(self._lock, place) and time.monotonic() < until:
                time.sleep(_PAUSE)
        except Exception:  # a disk without locks or one that cannot be written, a closure without a name
            pass  # compile without a turn

    def _name(self, signature: Any) -> str:
        """The file of this function for that signature. Its code is part of the hash: it may come from elsewhere."""
        function, code = self._function, self._function.__code__
        constants = [constant for constant in code.co_consts if not isinstance(constant, types.CodeType)]
        cells = [cell.cell_contents for cell in function.__closure__ or ()]
        place = (function.__module__, function.__qualname__, code.co_firstlineno, str(signature))
        hashed = hashlib.sha256(repr((place, code.co_code, constants, code.co_names)).encode() + dumps(cells))
        return f"{function.__name__}-{hashed.hexdigest()[:16]}{SUFFIX}"


def write_whole(path: Path, contents: bytes) -> None:
    """Write a file that takes its name once it is complete."""
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".incomplete", delete=False) as file:
        try:
            file.write(contents)
            file.close()
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


@functools.cache
def _warn_once(message: str) -> None:
    warnings.warn(message, stacklevel=3)  # which Numba would show each time


def _lock_byte(file: Any, place: int) -> bool:
    """Lock one byte of the file, which need not exist, for this process; False if another one has it."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
    except (BlockingIOError, PermissionError):
        return False
    return True
