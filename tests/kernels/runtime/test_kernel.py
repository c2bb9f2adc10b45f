"""No way of calling the kernels takes the process down, and every way gives the same result."""

from __future__ import annotations

import platform
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import fastsedd_kernels as fk
import numpy as np
import other_cpus
import pytest
from fastsedd_kernels.runtime.cores import _quota
from fastsedd_kernels.runtime.kernel import kernel
from fastsedd_kernels.sampling.rng import philox
from numba import types
from processes import run_python

PRELUDE = """
import numpy as np, fastsedd_kernels as fk
x = np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32)
w = fk.pack(x)
expected = fk.linear(x, w)
"""

# Another thread compiles all the while: its locks must not be what a child waits for.
FORK_WHILE_COMPILING = """
import os, threading
compiling = threading.Thread(target=fk.layer_norm, args=(x,))
compiling.start()
children = []
for _ in range(10):
    child = os.fork()
    if child == 0:
        os._exit(0 if (fk.silu(x) == silu).all() and (fk.linear(x, w) == expected).all() else 3)
    children.append(child)
compiling.join()
for child in children:
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""

# OpenMP's threads were another library's here, whose work the child must not ask for.
FORK_BEFORE_USE = """
import os, ctypes, numba
import numpy as np, fastsedd_kernels as fk

@numba.njit(parallel=True)
def double(x):
    for i in numba.prange(x.size):
        x[i] *= 2

numba.config.THREADING_LAYER = "omp"
double(np.ones(1000))
child = os.fork()
if child == 0:
    x = np.ones((300, 300), np.float32)
    os._exit(0 if (fk.matmul(x, x) == 300).all() else 3)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""

POOL = """
assert fk.threading_layer() == "pool"
fk.set_num_threads(1)
assert (fk.linear(x, w) == expected).all()
"""


def test_callers_on_four_threads() -> None:
    x = np.random.default_rng(0).standard_normal((300, 200)).astype(np.float32)
    weight = fk.pack(x)
    expected = fk.linear(x, weight)
    with ThreadPoolExecutor(4) as pool:
        for result in pool.map(lambda _: fk.linear(x, weight), range(200)):
            np.testing.assert_array_equal(result, expected)


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="no fork on this platform")
def test_a_fork_while_another_thread_compiles(tmp_path: Path) -> None:
    run_python(PRELUDE + "silu = fk.silu(x)\n" + FORK_WHILE_COMPILING, FASTSEDD_CACHE_DIR=str(tmp_path))


@pytest.mark.skipif(sys.platform != "linux", reason="GNU OpenMP")
def test_a_fork_before_use_but_after_another_librarys() -> None:
    run_python(FORK_BEFORE_USE)


def test_without_tbb_and_openmp_a_pool_of_threads_runs() -> None:
    run_python(PRELUDE + POOL, NUMBA_THREADING_LAYER="workqueue")


def test_an_internal_function_called_from_python_says_so() -> None:
    with pytest.raises(TypeError, match="philox is for kernels only"):
        philox(1, 2, 3)


def test_a_task_without_memory_is_an_error() -> None:
    """However the tasks are shared out, and with the next call as good as ever."""

    @kernel(types.float32[::1])
    def exhaust(task, out):
        scratch = np.empty(np.intp(out[task]), np.float32)
        out[task] = scratch.size

    for size in (2.0**60, 3.0):
        out = np.full(8, size, np.float32)
        with pytest.raises(MemoryError) if size > 8 else nullcontext():
            exhaust(8, out)
    assert (out == 3).all()


@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        ("0::/\n", {"cpu.max": "150000 100000"}, 2),
        ("0::/\n", {"cpu.max": "max 100000"}, None),
        ("0::/\n", {"cpu.max": "nonsense"}, None),
        ("0::/\n", {}, None),
        ("0::/slice/unit\n", {"slice/cpu.max": "300000 100000", "slice/unit/cpu.max": "max 100000"}, 3),
        ("0::/not/seen/here\n", {"cpu.max": "400000 100000"}, 4),
        ("5:cpu,cpuacct:/a\n", {"cpu/a/cpu.cfs_quota_us": "200000\n", "cpu/a/cpu.cfs_period_us": "100000\n"}, 2),
        ("5:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ("5:memory:/\n", {"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
    ],
)
def test_quotas_of_control_groups(tmp_path: Path, groups: str, files: dict[str, str], cores: int | None) -> None:
    """Of both versions, of the group or one above it, and as a container shows them."""
    root = tmp_path / "fs"
    (root / "slice" / "unit").mkdir(parents=True)
    (root / "cpu" / "a").mkdir(parents=True)
    (tmp_path / "cgroup").write_text(groups)
    for name, content in files.items():
        (root / name).write_text(content)
    assert _quota(tmp_path / "cgroup", root) == (sys.maxsize if cores is None else cores)


def test_thread_counts_out_of_range() -> None:
    for count in (0, -1, 10_000, 1.5):
        with pytest.raises(ValueError, match="threads is"):
            fk.set_num_threads(count)


@pytest.mark.parametrize("name", other_cpus.LESSER)
def test_lesser_cpus(name: str, kernels_of_other_cpus: other_cpus.Kernels) -> None:
    """The effective target decides: every kernel, compiled for an older CPU, has none of the registers it lacks."""
    if platform.machine() != "x86_64":
        pytest.skip("names of x86-64 CPUs")
    kernels_of_other_cpus.check(name)
