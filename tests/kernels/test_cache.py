"""The cache of compiled kernels: where it lies, when it is refused, and that a broken file costs nothing but time."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import fastsedd_kernels as fk
import pytest
from fastsedd_kernels.runtime.cache import SUFFIX

SCRIPT = """
import numpy as np, fastsedd_kernels as fk
from numba.core import event
compiled = []
fk.on_compile(lambda: compiled.append(True))
with event.install_recorder("numba:compile") as recorder:
    value = fk.silu(np.ones(3, np.float32))[0]
print("compiled" if compiled else "loaded", fk.cache_folder(), len(recorder.buffer), value)
"""
LIMITED = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))" + SCRIPT
DYING = (
    """
import os
from numba.core import event

class End(event.Listener):
    def on_start(self, _):
        os._exit(9)
    def on_end(self, _):
        pass

event.register("numba:compile", End())
"""
    + SCRIPT
)
HOW, WHERE, COMPILATIONS, VALUE = range(4)  # what a script answers
SILU_OF_ONE = 0.7310586


def start(folder: Path, script: str = SCRIPT, **environment: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "FASTSEDD_CACHE_DIR": str(folder), **environment}
    return subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def answer(process: subprocess.Popen[str]) -> list[str]:
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    words = output.split()
    assert len(words) == 4
    return words


def silu_in_a_process(folder: Path, **environment: str) -> tuple[str, str]:
    words = answer(start(folder, **environment))
    assert float(words[VALUE]) == pytest.approx(SILU_OF_ONE)
    return words[HOW], words[WHERE]


def test_a_second_process_loads(tmp_path: Path) -> None:
    how, where = silu_in_a_process(tmp_path)
    assert how == "compiled" and Path(where).parent == tmp_path
    assert silu_in_a_process(tmp_path) == ("loaded", where)


def test_broken_files_are_compiled_again(tmp_path: Path) -> None:
    silu_in_a_process(tmp_path)
    paths = sorted(tmp_path.rglob(f"*{SUFFIX}"))
    assert len(paths) == 2  # body and entry
    for damage in (lambda _: b"", lambda _: b"not a pickle", lambda whole: whole[:-9], flipped):
        for path in paths:
            path.write_bytes(damage(path.read_bytes()))
        assert silu_in_a_process(tmp_path)[0] == "compiled"
        assert silu_in_a_process(tmp_path)[0] == "loaded"


def flipped(whole: bytes) -> bytes:
    """One bit of machine code is another: still a pickle, and still an object file."""
    middle = len(whole) // 2
    return whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]


POSIX = pytest.mark.skipif(not hasattr(os, "getuid"), reason="POSIX permissions")


@POSIX
def test_a_folder_that_others_can_write_is_refused(tmp_path: Path) -> None:
    _, where = silu_in_a_process(tmp_path)
    Path(where).chmod(0o777)
    assert silu_in_a_process(tmp_path) == ("compiled", "None")
    Path(where).chmod(0o700)
    assert silu_in_a_process(tmp_path) == ("loaded", where)
    tmp_path.chmod(0o777)  # now another user could put a folder of that name in its place
    assert silu_in_a_process(tmp_path) == ("compiled", "None")


@POSIX
def test_folders_are_made_for_their_user_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        _, where = silu_in_a_process(tmp_path / "a" / "b")
    finally:
        os.umask(before)
    for folder in (tmp_path / "a", tmp_path / "a" / "b", Path(where)):
        assert folder.stat().st_mode & 0o777 == 0o700


@POSIX
def test_a_disk_that_is_full_costs_no_run(tmp_path: Path) -> None:
    """Simulated by a limit on a file's size, which a write meets as it would meet a full disk."""
    process = start(tmp_path, LIMITED)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0 and output.startswith("compiled")
    assert errors.count("compiled kernels are not kept in") == 1
    assert not list(tmp_path.rglob(f"*{SUFFIX}")) and not list(tmp_path.rglob("*.incomplete"))
    assert silu_in_a_process(tmp_path)[0] == "compiled"
    assert silu_in_a_process(tmp_path)[0] == "loaded"


@POSIX
def test_what_lies_in_a_folder_that_is_readable_only_is_loaded(tmp_path: Path) -> None:
    """Of a container's image, say. (The administrator may write there nevertheless, which changes nothing.)"""
    _, where = silu_in_a_process(tmp_path)
    for folder in (Path(where), tmp_path):
        folder.chmod(0o500)
    try:
        assert silu_in_a_process(tmp_path) == ("loaded", where)
    finally:
        for folder in (tmp_path, Path(where)):
            folder.chmod(0o700)


@pytest.mark.skipif(sys.platform == "win32", reason="no locks: each process compiles")
def test_of_processes_that_start_cold_together_one_compiles(tmp_path: Path) -> None:
    alone = int(answer(start(tmp_path / "alone"))[COMPILATIONS])
    together = [answer(process) for process in [start(tmp_path / "together") for _ in range(4)]]
    assert alone > 0 and sum(int(words[COMPILATIONS]) for words in together) == alone
    assert {words[VALUE] for words in together} == {together[0][VALUE]}
    assert silu_in_a_process(tmp_path / "together")[0] == "loaded"


@POSIX
def test_a_process_that_dies_while_it_compiles_holds_nobody_up(tmp_path: Path) -> None:
    dying = start(tmp_path, DYING)
    dying.communicate(timeout=300)
    assert dying.returncode == 9
    assert silu_in_a_process(tmp_path)[0] == "compiled"


def test_changed_sources_and_settings_are_compiled_anew(tmp_path: Path) -> None:
    """The same cache, the package with one constant changed in another file than the kernel's: never the old code."""
    _, where = silu_in_a_process(tmp_path / "cache")
    copy = tmp_path / "fastsedd_kernels"
    shutil.copytree(Path(fk.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    assert silu_in_a_process(tmp_path / "cache", PYTHONPATH=str(tmp_path)) == ("loaded", where)
    constants = copy / "simd" / "vector.py"
    source = constants.read_text(encoding="utf-8")
    constants.write_text(source.replace("CACHE_LINE = 64", "CACHE_LINE = 128"), encoding="utf-8")
    assert constants.read_text(encoding="utf-8") != source
    how, elsewhere = silu_in_a_process(tmp_path / "cache", PYTHONPATH=str(tmp_path))
    assert how == "compiled" and elsewhere != where
    how, elsewhere = silu_in_a_process(tmp_path / "cache", NUMBA_OPT="1")
    assert how == "compiled" and elsewhere != where


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
    assert len(list(folder.glob(f"*{SUFFIX}"))) >= 2 * kernels  # body and entry
