"""The cache of compiled kernels: where it lies, when it is refused, and that a broken file costs nothing but time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import fastsedd_kernels as fk
import pytest

SCRIPT = """
import numpy as np, fastsedd_kernels as fk
compiled = []
fk.on_compile(lambda: compiled.append(True))
assert fk.silu(np.zeros(3, np.float32)).tolist() == [0, 0, 0]
print("compiled" if compiled else "loaded", fk.cache_folder())
"""


def silu_in_a_process(folder: Path) -> tuple[str, str]:
    environment = {**os.environ, "FASTSEDD_CACHE_DIR": str(folder)}
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    how, where = done.stdout.split(maxsplit=1)
    return how, where.strip()


def test_a_second_process_loads(tmp_path: Path) -> None:
    how, where = silu_in_a_process(tmp_path)
    assert how == "compiled" and Path(where).parent == tmp_path
    assert silu_in_a_process(tmp_path) == ("loaded", where)


def test_broken_files_are_compiled_again(tmp_path: Path) -> None:
    silu_in_a_process(tmp_path)
    for damage in (b"", b"not a pickle", None):
        for path in [*tmp_path.rglob("*.nbi"), *tmp_path.rglob("*.nbc")]:
            path.write_bytes(path.read_bytes()[:-9] if damage is None else damage)
        assert silu_in_a_process(tmp_path)[0] == "compiled"
        assert silu_in_a_process(tmp_path)[0] == "loaded"


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="POSIX permissions")
def test_a_folder_that_others_can_write_is_refused(tmp_path: Path) -> None:
    _, where = silu_in_a_process(tmp_path)
    Path(where).chmod(0o777)
    assert silu_in_a_process(tmp_path) == ("compiled", "None")


def test_an_impossible_folder_means_no_cache(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert silu_in_a_process(tmp_path / "file") == ("compiled", "None")


@pytest.mark.skipif(fk.cache_folder() is None, reason="no folder for compiled kernels")
def test_every_kernel_is_stored() -> None:
    """Numba keeps an index of what it cannot store, and says nothing: count the code, not the index."""
    progress: list[tuple[int, int]] = []
    fk.compile_all(lambda *step: progress.append(step))
    kernels = progress[-1][1]
    folder = fk.cache_folder()
    assert folder is not None
    assert len(list(folder.glob("*.nbc"))) >= 2 * kernels  # body and entry
