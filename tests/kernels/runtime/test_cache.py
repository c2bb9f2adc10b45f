"""The cache of compiled kernels: where it lies, when it is refused, and that a broken file costs nothing but time."""

from __future__ import annotations

import compileall
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
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
        assert all(is_whole(path.read_bytes()) for path in paths)
    assert silu_in_a_process(tmp_path)[0] == "loaded"


def is_whole(contents: bytes) -> bool:
    """True if a file begins with the hash of the rest."""
    return contents[:32] == hashlib.sha256(contents[32:]).digest()


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
def test_kernels_in_a_read_only_folder_are_loaded(tmp_path: Path) -> None:
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
def test_one_of_the_processes_that_start_cold_together_compiles(tmp_path: Path) -> None:
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
    constants = copy / "runtime" / "machines.py"
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


PRINT_FOLDER = "import fastsedd_kernels; print(fastsedd_kernels.cache_folder())"

# Modules from nowhere but memory, as a frozen application's importer holds them.
FROM_MEMORY = """
import sys, importlib.util, pathlib
root = pathlib.Path(sys.path.pop(0))

class Importer:
    def find_spec(self, name, path=None, target=None):
        file = root.joinpath(*name.split("."))
        if name.partition(".")[0] != "fastsedd_kernels":
            return None
        package = file.is_dir()
        self.files[name] = file / "__init__.py" if package else file.with_suffix(".py")
        return importlib.util.spec_from_loader(name, self, is_package=package)
    files = {}
    def create_module(self, spec):
        return None
    def exec_module(self, module):
        exec(self.code(module.__name__), module.__dict__)
    def code(self, name):
        return compile(self.files[name].read_text(encoding="utf-8"), "frozen", "exec")
    GET_CODE

sys.meta_path.insert(0, Importer())
"""


def release(folder: Path, how: str, line: int) -> Path:
    """A copy of the package, whose vectors know of a cache line of that size, packed as `how` says; what to import."""
    copy = folder / "fastsedd_kernels"
    shutil.copytree(Path(fk.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__", "torch"))
    (constants,) = (path for path in copy.rglob("*.py") if "\nCACHE_LINE = 64" in path.read_text(encoding="utf-8"))
    source = constants.read_text(encoding="utf-8")
    constants.write_text(source.replace("\nCACHE_LINE = 64", f"\nCACHE_LINE = {line}"), encoding="utf-8")
    if how in ("pyc", "zip"):
        compileall.compile_dir(copy, quiet=2, legacy=True)
        for path in copy.rglob("*.py"):
            path.unlink()
    if how == "zip":
        shutil.make_archive(str(folder / "all"), "zip", folder, "fastsedd_kernels")
        return folder / "all.zip"
    return folder


def folder_of_release(where: Path, cache: Path, prelude: str = "") -> str:
    script = f"import sys; sys.path.insert(0, {str(where)!r})\n{prelude}\n{PRINT_FOLDER}"
    environment = {**os.environ, "FASTSEDD_CACHE_DIR": str(cache), "PYTHONHASHSEED": "random"}
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert run.returncode == 0 and run.stderr == "", run.stderr
    return run.stdout.strip()


@pytest.mark.parametrize("how", ["pyc", "zip", "memory"])
def test_releases_without_sources_have_a_cache_each(tmp_path: Path, how: str) -> None:
    """Frozen applications: a changed constant is seen without any source file, and the same code is the same build."""
    prelude = FROM_MEMORY.replace("GET_CODE", "get_code = code") if how == "memory" else ""
    first = release(tmp_path / "first", how, line=64)
    again = release(tmp_path / "again", how, line=64)
    second = release(tmp_path / "second", how, line=128)
    folders = [folder_of_release(each, tmp_path / "cache", prelude) for each in (first, again, second)]
    assert folders[0] == folders[1] != folders[2]
    assert {Path(folder).parent for folder in folders} == {tmp_path / "cache"}


def test_code_that_cannot_be_seen_has_no_cache(tmp_path: Path) -> None:
    only = release(tmp_path / "only", "memory", line=64)
    assert folder_of_release(only, tmp_path / "cache", FROM_MEMORY.replace("GET_CODE", "")) == "None"


def test_an_upgrade_under_a_running_process_is_not_its_build(tmp_path: Path) -> None:
    """The first kernel is compiled after the files were replaced: the machine code is that of the old ones."""
    where = release(tmp_path / "running", "source", line=64)
    before = folder_of_release(where, tmp_path / "cache")
    upgrade = f"""
import pathlib, fastsedd_kernels
for path in pathlib.Path({str(where)!r}).rglob("*.py"):
    path.write_text(path.read_text(encoding="utf-8") + "# new", encoding="utf-8")
"""
    assert folder_of_release(where, tmp_path / "cache", upgrade) == before
    assert folder_of_release(where, tmp_path / "cache") != before


def test_every_module_is_loaded_at_once() -> None:
    """What is imported later is not part of the build's hash: reference implementations, and the layers of PyTorch."""
    script = "import sys, fastsedd_kernels; print(*(name for name in sys.modules if name.startswith('fastsedd_k')))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    root = Path(fk.__file__).parent
    modules = {
        ".".join((root.name, *path.relative_to(root).with_suffix("").parts)).removesuffix(".__init__")
        for path in root.rglob("*.py")
    }
    late = modules - set(loaded)
    assert all(name.endswith(".reference") or name.startswith("fastsedd_kernels.torch") for name in late)


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="becomes another user, as root can")
@pytest.mark.parametrize("home", [None, "/", "/nonexistent", "relative", ""])
def test_a_user_without_a_home_has_a_cache_among_temporary_files(home: str | None) -> None:
    """`docker run --user 54321`: no entry in passwd, and no HOME, or one that cannot be written."""
    become = "import os, fastsedd_kernels, tempfile; os.setgroups([]); os.setuid(54321); "
    with tempfile.TemporaryDirectory() as temporary:
        Path(temporary).chmod(0o1777)
        environment = {"PATH": os.environ["PATH"], "TMPDIR": temporary, **({} if home is None else {"HOME": home})}
        run = subprocess.run(
            [sys.executable, "-W", "error", "-c", become + PRINT_FOLDER],
            capture_output=True, text=True, env=environment, cwd=temporary,
        )  # fmt: skip
        assert run.returncode == 0 and run.stderr == "", run.stderr
        assert Path(run.stdout.strip()).parent == Path(temporary, "fastsedd-54321")
        assert Path(temporary, "fastsedd-54321").stat().st_mode & 0o777 == 0o700
        assert [path.name for path in Path(temporary).iterdir()] == ["fastsedd-54321"]


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="makes a folder of another user")
def test_a_temporary_folder_of_another_user_is_refused() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        Path(temporary).chmod(0o1777)
        theirs = Path(temporary, "fastsedd-54321")
        theirs.mkdir()
        os.chown(theirs, 54322, 54322)
        become = "import os, fastsedd_kernels, tempfile; os.setgroups([]); os.setuid(54321); "
        environment = {"PATH": os.environ["PATH"], "TMPDIR": temporary}
        run = subprocess.run(
            [sys.executable, "-c", become + PRINT_FOLDER], capture_output=True, text=True, env=environment
        )
        assert (run.returncode, run.stdout.strip()) == (0, "None"), run.stderr


FAILING = """
import numba.core.compiler as compiler
def fail(*_):
    raise TokenError("unterminated string")
class TokenError(Exception):
    pass
compiler.CompileResult._reduce = fail
"""


def test_a_failure_to_store_costs_no_run(tmp_path: Path) -> None:
    """Whatever Numba or Python raise while a kernel is stored: one warning, and the result."""
    output, errors = start(tmp_path, FAILING + SCRIPT).communicate(timeout=300)
    assert output.startswith("compiled")
    assert errors.count("compiled kernels are not kept: TokenError") == 1 and "Traceback" not in errors


def test_without_a_compiler_the_import_is_refused_in_one_line() -> None:
    for value, code in (("1", 1), ("0", 0)):
        run = subprocess.run(
            [sys.executable, "-c", "import fastsedd_kernels"],
            capture_output=True, text=True, env={**os.environ, "NUMBA_DISABLE_JIT": value},
        )  # fmt: skip
        assert run.returncode == code, run.stderr
        assert ("ImportError: fastsedd_kernels is compiled by Numba" in run.stderr) == (code == 1)


def test_the_import_leaves_the_environment_alone() -> None:
    """Neither this process's nor its children's, though libgomp has been told to spin for a short time."""
    script = """
import os, subprocess, sys
before = dict(os.environ)
show = [sys.executable, "-c", "import os; print(sorted(os.environ.items()))"]
child = subprocess.run(show, capture_output=True).stdout
import fastsedd_kernels
fastsedd_kernels.threading_layer()
assert dict(os.environ) == before, set(os.environ) ^ set(before)
assert subprocess.run(show, capture_output=True).stdout == child
"""
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    for more in ({}, {"GOMP_SPINCOUNT": "77"}):
        run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment | more)
        assert run.returncode == 0, run.stderr
