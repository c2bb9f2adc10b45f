"""The instructions of register tiles, as compiled for CPUs that this one may not be: nothing of them is run."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
from processes import run_together

# Counts the products and all instructions of the loop that most products are in, and what it does with the stack.
COUNT = """
import re
from fastsedd_kernels.gemm import microkernel
from fastsedd_kernels.gemm.dot_products import SUMS
from fastsedd_kernels.runtime import jit

PRODUCT = re.compile(r"({{vex}}\\s*)?(vfn?madd|vpmaddwd|vpdpbusd|vdpbf16ps)")


def loops(assembly):
    found = [[]]
    for line in assembly.splitlines():
        if re.match(r"[^\\s#]+:", line):
            found.append([])
        elif re.match(r"\\t[^.#]", line):
            found[-1].append(line.strip())
    return found


for element, most in {most!r}.items():
    (kind,) = (each for each in SUMS if each.name == element)
    microkernel.link_tile(kind)
    (assembly,) = jit._symbols[microkernel._symbol(kind)][0].inspect_asm().values()
    hot = max(loops(assembly), key=lambda loop: sum(bool(PRODUCT.match(line)) for line in loop))
    products = sum(bool(PRODUCT.match(line)) for line in hot)
    assert products >= 48, (element, products)
    spilt = [line for line in hot if "%rsp" in line]
    assert not spilt, (element, spilt)
    assert len(hot) <= most * products, (element, len(hot), products)
"""

# CPU and features, and the most instructions per product: of float32 and float64, bfloat16, int8.
CPUS = [
    ("haswell", "", {"float32": 1.7, "float64": 1.7, "uint32": 1.85, "int32": 3.8}),
    ("haswell", "+avxvnni", {"int32": 1.7}),
    ("skylake-avx512", "", {"uint32": 1.6, "int32": 3.6}),
    ("cooperlake", "", {"float32": 1.5, "float64": 1.55, "uint32": 1.5, "int32": 1.55}),
]


def test_no_loop_spills_or_takes_more_instructions_than_counted(tmp_path: Path) -> None:
    """For a core half of whose decoder another thread has, it is instructions that count."""
    if platform.machine() != "x86_64":
        pytest.skip("counts x86's instructions")
    run_together(
        [
            (
                COUNT.format(most=most),
                {
                    "NUMBA_CPU_NAME": cpu,
                    "NUMBA_CPU_FEATURES": features,
                    "FASTSEDD_CACHE_DIR": str(tmp_path / f"{cpu}{features}"),  # empty: what is loaded has no assembly
                },
            )
            for cpu, features, most in CPUS
        ]
    )
