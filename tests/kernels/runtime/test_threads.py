"""The matrix of docs/promises.md: each threading layer in each of the situations that take other libraries down.

A cell is a process of its own, which must neither abort nor hang, and whose results must be, bit for bit, those of one
thread.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys

import pytest
from fastsedd_kernels.runtime.threads import _LAYERS, _load_tbb
from processes import run_python

# What a cell asks Numba for: with its workqueue, which is never used, the thread pool remains.
ASKED = {"omp": "omp", "tbb": "tbb", "pool": "workqueue"}

PRELUDE = """
import os, threading
import numpy as np, fastsedd_kernels as fk

rng = np.random.default_rng(0)
x, y = rng.standard_normal((2, 300, 300), dtype=np.float32)
w = fk.pack(y)

def results():
    return fk.linear(x, w, activation="gelu"), fk.matmul(x, y), fk.softmax(x), fk.attention(x[None], y[None], x[None])

def check():
    for ours, serial in zip(results(), expected, strict=True):
        np.testing.assert_array_equal(ours, serial)

threads = fk.get_num_threads()
fk.set_num_threads(1)
expected = results()
np.testing.assert_allclose(expected[1], x.astype(np.float64) @ y, atol=1e-3)
fk.set_num_threads(threads)
check()
assert fk.threading_layer() == {layer!r}, fk.threading_layer()
"""

THREADS = """
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(4) as pool:
    for done in [pool.submit(check) for _ in range(100)]:
        done.result()
"""

FORK = """
def child():
    fk.set_num_threads(threads)  # asks for the threads that are no more
    check()
    grandchild = os.fork()
    if grandchild == 0:
        check()
        os._exit(0)
    assert os.waitpid(grandchild, 0)[1] == 0

def fork():
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            child()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0

fork()
check()
forking = threading.Thread(target=fork)
forking.start()
forking.join()
check()
"""

NESTED = """
import numba

@numba.njit(parallel=True)
def outer(n):
    for i in numba.prange(n):
        with numba.objmode():
            check()

outer(8)
numba.set_num_threads(1)
check()
assert numba.get_num_threads() == 1  # the caller's own
"""

NUMPY = """
def multiply():
    for _ in range(50):
        np.testing.assert_array_equal(x @ y, product)

product = x @ y
beside = threading.Thread(target=multiply)
beside.start()
for _ in range(30):
    check()
    x @ y
beside.join()
"""

TORCH = """
import torch
a, b = torch.from_numpy(x), torch.from_numpy(y)
product = a @ b
for _ in range(30):
    check()
    assert torch.equal(a @ b, product)
"""

SIGINT = """
import signal, time
interrupted = 0
small = np.random.default_rng(1).standard_normal((150, 150))
square = small @ small
for moment in np.random.default_rng(0).uniform(0.001, 0.008, 300):
    try:
        signal.setitimer(signal.ITIMER_REAL, moment, 1.0)
        while True:
            fk.matmul(x, y)
    except KeyboardInterrupt:
        signal.setitimer(signal.ITIMER_REAL, 0)
        interrupted += 1
    np.testing.assert_allclose(fk.matmul(small, small), square, atol=1e-9)  # in memory that a product just had
    if interrupted % 50 == 0:
        check()
assert interrupted == 300
from fastsedd_kernels.runtime import threads
assert threads.threading_layer() == "pool" or threads.is_region_free()  # else all calls were serial from then on
"""
AS_SIGINT = "import signal; signal.signal(signal.SIGALRM, signal.default_int_handler)\n"

# Python 3.12 and later warn of every fork beside threads; our children work.
OF_ANY_FORK = "ignore:This process (pid:DeprecationWarning"

# Numba's own line, where a thread other than the main one forks under TBB: the child is serial then.
NUMBA_OF_A_FORK = "Numba: Attempted to fork from a non-main thread"

CELLS = {
    "four threads": PRELUDE + THREADS,
    "fork": PRELUDE + FORK,
    "nested": PRELUDE + NESTED,
    "numpy": PRELUDE + NUMPY,
    "torch after": PRELUDE + TORCH,
    "torch before": "import torch; torch.ones(300, 300) @ torch.ones(300, 300)\n" + PRELUDE + TORCH,
    "sigint": AS_SIGINT + PRELUDE + SIGINT,
}


def is_there(layer: str) -> bool:
    try:
        if layer == "tbb":
            _load_tbb()
        if layer in _LAYERS:
            importlib.import_module(_LAYERS[layer])
    except ImportError:
        return False
    return True


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("layer", ASKED)
def test_matrix(layer: str, cell: str) -> None:
    if not is_there(layer):
        pytest.skip(f"the library of {layer} is not installed")
    if "torch" in cell and importlib.util.find_spec("torch") is None:
        pytest.skip("PyTorch is not installed")
    if cell in ("fork", "sigint") and not hasattr(os, "fork"):
        pytest.skip("POSIX only")
    environment = {"NUMBA_THREADING_LAYER": ASKED[layer], "PYTHONWARNINGS": OF_ANY_FORK}
    said = output_of(CELLS[cell].replace("{layer!r}", repr(layer)), **environment)
    assert [line for line in said.splitlines() if not line.startswith(NUMBA_OF_A_FORK)] == []


LEVELS = """
import ctypes, fastsedd_kernels as fk, numpy as np
if fk.threading_layer() == "omp":
    from numba.np.ufunc import omppool
    library = ctypes.CDLL(omppool.__file__)
    before = library.omp_get_max_active_levels()
    fk.set_num_threads(2)
    fk.matmul(*np.ones((2, 512, 512), np.float32))
    assert library.omp_get_max_active_levels() == before, (before, library.omp_get_max_active_levels())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="OpenMP 2.0 has no levels")
def test_openmp_is_left_as_it_was() -> None:
    """Numba's layer lets regions be nested, for every library that shares its OpenMP."""
    run_python(LEVELS)


# Python's import finds neither of the two compiled modules, as where libgomp is hidden and TBB not installed.
SLIM = """
import sys
sys.modules["numba.np.ufunc.omppool"] = sys.modules["numba.np.ufunc.tbbpool"] = None
"""


def test_slim_machine() -> None:
    """With neither OpenMP nor TBB: right, in parallel on the pool, and without a word."""
    code = SLIM + PRELUDE.replace("{layer!r}", "'pool'") + THREADS
    assert output_of(code, NUMBA_THREADING_LAYER="default") == ""


# Another library's user has started the layer that aborts; it must not be ours.
WORKQUEUE = """
import numba
@numba.njit(parallel=True)
def count(n):
    total = 0
    for i in numba.prange(n):
        total += 1
    return total
assert count(5) == 5 and numba.threading_layer() == "workqueue"
"""


def test_workqueue_that_is_running_is_left_alone() -> None:
    code = WORKQUEUE + PRELUDE.replace("{layer!r}", "'pool'") + THREADS
    assert output_of(code, NUMBA_THREADING_LAYER="workqueue") == ""


def output_of(code: str, **environment: str) -> str:
    """All that a process says that runs the code, which must end well within two minutes."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **environment},
        timeout=120,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout
