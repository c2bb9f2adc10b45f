"""The instructions of register tiles, as compiled for CPUs that this one may not be: nothing of them is run."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
from processes import run_python, run_together

# Finds the loop that most products are in, and counts its instructions and what it does with the stack.
HOT = """
import re
PRODUCT = re.compile(r"({{vex}}\\s*)?(vfn?madd|vpmaddwd|vpdpbusd|vdpbf16ps|fmla|sdot|bfdot)")


def check(name, assembly, most):
    loops = [[]]
    for line in assembly.splitlines():
        if re.match(r"[^\\s#/]+:", line):
            loops.append([])
        elif re.match(r"\\t[^.#/]", line):
            loops[-1].append(line.strip())
    hot = max(loops, key=lambda loop: sum(bool(PRODUCT.match(line)) for line in loop))
    products = sum(bool(PRODUCT.match(line)) for line in hot)
    assert products >= 48, (name, products)
    spilt = [line for line in hot if "%rsp" in line or "[sp" in line]
    assert not spilt, (name, spilt)
    assert len(hot) <= most * products, (name, len(hot), products)
"""

COUNT = (
    HOT
    + """
from fastsedd_kernels.gemm import microkernel
from fastsedd_kernels.gemm.dot_products import SUMS
from fastsedd_kernels.runtime import jit

for name, most in {most!r}.items():
    (element,) = (each for each in SUMS if each.name == name)
    microkernel.link_tile(element)
    (assembly,) = jit._symbols[microkernel._symbol(element)][0].inspect_asm().values()
    check(name, assembly, most)
"""
)

# Gives the code generator another CPU's, before anything asks it what it translates for.
NEON = (
    HOT
    + """
import llvmlite.binding as llvm
from llvmlite import ir
from numba.core.registry import cpu_target

llvm.initialize_all_targets()
llvm.initialize_all_asmprinters()
context = cpu_target.target_context
target = llvm.Target.from_triple("aarch64-unknown-linux-gnu").create_target_machine(cpu={cpu!r}, opt=3)
context.codegen()._tm = target

import fastsedd_kernels as fk
from fastsedd_kernels.gemm import microkernel
from fastsedd_kernels.gemm.dot_products import SUMS
from fastsedd_kernels.gemm.register_tile import emit_tiles

info = fk.cpu_info()
assert (info.isa, info.bfloat16, info.int8) == ("neon", *{units!r}), info
for name, most in {most!r}.items():
    (element,) = (each for each in SUMS if each.name == name)
    index, place = ir.IntType(64), ir.IntType(8).as_pointer()
    module = ir.Module()
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [index, index, place]), "tile")
    builder = ir.IRBuilder(function.append_basic_block())
    operands = microkernel._loaded(context, builder, element, function.args[2])
    emit_tiles(builder, element, *function.args[:2], operands)
    builder.ret_void()
    parsed = llvm.parse_assembly(str(module))
    passes = llvm.create_pass_builder(target, llvm.create_pipeline_tuning_options(speed_level=3))
    passes.getModulePassManager().run(parsed, passes)
    check(name, target.emit_assembly(parsed), most)
"""
)

# CPU and features, and the most instructions per product: of float32 and float64, bfloat16, int8.
CPUS = [
    ("haswell", "", {"float32": 1.7, "float64": 1.7, "uint32": 1.8, "int32": 3.8}),
    ("haswell", "+avxvnni", {"int32": 1.7}),
    ("skylake-avx512", "", {"uint32": 1.5, "int32": 3.6}),
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


@pytest.mark.parametrize(
    ("cpu", "units", "most"),
    [
        ("cortex-a57", ("widened", "widened"), {"uint32": 1.6}),
        ("neoverse-n1", ("widened", "sdot"), {"float32": 1.3, "float64": 1.4, "int32": 1.3}),
        ("apple-m1", ("widened", "sdot"), {"float32": 1.3, "float64": 1.4, "int32": 1.3}),
        ("neoverse-v1", ("bfdot", "sdot"), {"float32": 1.3, "uint32": 1.55}),
    ],
)
def test_neon_takes_factors_from_lanes(cpu: str, units: tuple[str, str], most: dict[str, float]) -> None:
    """ARM's code is translated here, whatever this CPU is, with the instructions that the CPU has and no others."""
    run_python(NEON.format(cpu=cpu, units=units, most=most))
