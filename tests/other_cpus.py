"""All kernels, compiled for this CPU and for those that are less, in processes beside the tests."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fastsedd_kernels as fk
from fastsedd_kernels.runtime.cache import write_whole
from processes import run_python

# What each is, how it multiplies bytes, and registers that it lacks.
CPUS = {"haswell": ("avx2", "pmaddubsw", "zmm"), "generic": ("portable", "pmaddwd", "ymm")}


def _is_lesser(isa: str, int8: str) -> bool:
    """True unless this CPU is one of those itself, or less."""
    own = fk.cpu_info()
    return (own.isa, own.int8) != (isa, int8) and (own.isa != "portable" or isa == "portable")


LESSER = [name for name, (isa, int8, _) in CPUS.items() if _is_lesser(isa, int8)]

_COMPILE_OWN = "import fastsedd_kernels as fk; fk.compile_all()"
_COMPILE = """
import os
getattr(os, "nice", int)(10)  # Windows has none
import numpy as np, fastsedd_kernels as fk
from fastsedd_kernels.runtime import jit as _jit
assert fk.cpu_info().isa == {isa!r}, fk.cpu_info()
rng = np.random.default_rng(0)
x, w = (rng.standard_normal(shape).astype(np.float32) for shape in ((37, 50), (70, 50)))
np.testing.assert_allclose(fk.linear(x, w, activation="gelu"), fk.gelu((x @ w.T)), atol=1e-4)
np.testing.assert_allclose(fk.matmul(x[:3], w.T), x[:3] @ w.T, atol=1e-4)
fk.compile_all()
code = list(_jit.assembly())
assert len(code) > 20 and all(code)
assert not [each for each in code if {register!r} in each]
"""
_SECONDS = 900  # beside the tests, that is, and on a busy machine


class Kernels:
    """A cache for each lesser CPU, which tests fill as they need it, or `start` with all kernels, for all.

    folder : of these caches, which processes of one test run may share
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._started = folder, folder / "started"

    def start(self) -> None:
        """Compile every kernel: for this CPU, into the cache of the tests, which then load what they come to; and for
        the lesser ones, whose instructions are looked at here: what is loaded later has no assembly. Of processes that
        share the folder the first one does it."""
        try:
            self._started.touch(exist_ok=False)
        except FileExistsError:
            return
        pool = ThreadPoolExecutor(1 + len(LESSER))
        if fk.cache_folder() is not None:
            pool.submit(run_python, _COMPILE_OWN, _SECONDS)
        for name in LESSER:
            isa, _, register = CPUS[name]
            target = {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": "", "FASTSEDD_CACHE_DIR": str(self._folder / name)}
            code = _COMPILE.format(isa=isa, register=register)
            pool.submit(self._fill, name, code, target)
        pool.shutdown(wait=False)

    def _fill(self, name: str, code: str, target: dict[str, str]) -> None:
        """Compile all kernels for a CPU, and write down what went wrong."""
        failure = ""
        try:
            run_python(code, _SECONDS, **target)
        except Exception as error:
            failure = f"{type(error).__name__}: {error}"
        write_whole(self._ended(name), failure.encode())

    def _ended(self, name: str) -> Path:
        return self._folder / f"{name}.ended"

    def _wait(self, name: str) -> str:
        """Wait for a CPU's cache, whichever process fills it; the error, or an empty text."""
        end = time.monotonic() + _SECONDS
        while not self._ended(name).exists():
            assert time.monotonic() < end, f"kernels for {name} take too long to compile"
            time.sleep(0.1)
        return self._ended(name).read_text(encoding="utf-8")

    def check(self, name: str) -> None:
        assert self._wait(name) == ""

    def cache(self, name: str) -> str:
        """The cache's folder, filled if it is being filled."""
        if self._started.exists():
            self._wait(name)
        return str(self._folder / name)
