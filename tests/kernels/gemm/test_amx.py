"""Kernels for AMX, which few machines can run: they compile on all, and multiply by tile registers."""

from __future__ import annotations

import platform
from pathlib import Path

import fastsedd_kernels as fk
import pytest
from processes import run_python

FEATURES = "+avx512f,+avx512bf16,+avx512vnni,+amx-tile,+amx-bf16,+amx-int8"

# A process that takes itself to be on Sapphire Rapids: it may compile for tile registers, and must not run them.
COMPILE = """
import ctypes
import types
import numba
import numpy as np
library = ctypes.CDLL
ctypes.CDLL = lambda name, *rest: types.SimpleNamespace(syscall=lambda *call: 0)  # grants the tile registers
import fastsedd_kernels as fk
ctypes.CDLL = library
from fastsedd_kernels.attention.kernel import ATTEND
from fastsedd_kernels.gemm.macrokernel import MULTIPLY, SUM_PANELS
from fastsedd_kernels.runtime.jit import assembly
from fastsedd_kernels.sampling.fused_head import CHOOSE
assert (fk.cpu_info().bfloat16, fk.cpu_info().int8) == ("amx", "amx"), fk.cpu_info()
words, integers = np.dtype(np.uint32), np.dtype(np.int32)
for kernel in ({kernels}):
    kernel.compile()
code = "".join(assembly())
for instruction in ("ldtilecfg", "tilerelease", *{products}):
    assert instruction in code, instruction
"""


def compile_for_amx(folder: Path, kernels: str, *products: str) -> None:
    if platform.machine() != "x86_64" or fk.cpu_info().isa != "avx512":
        pytest.skip("this CPU cannot load what is compiled for AVX-512")
    run_python(
        COMPILE.format(kernels=kernels, products=products),
        NUMBA_CPU_NAME="sapphirerapids",
        NUMBA_CPU_FEATURES=FEATURES,
        FASTSEDD_CACHE_DIR=str(folder),  # empty: what is loaded from a cache has no assembly to look at
    )


def test_int8_compiles(tmp_path: Path) -> None:
    """A kernel to compile takes seconds, once: no CPU here would notice a fault otherwise."""
    compile_for_amx(tmp_path, "MULTIPLY[integers],", "tdpbusd")


@pytest.mark.slow  # three more kernels to compile
def test_bfloat16_attention_and_draws_compile(tmp_path: Path) -> None:
    compile_for_amx(tmp_path, "MULTIPLY[words], ATTEND[words], SUM_PANELS[words], CHOOSE[words]", "tdpbf16ps")
