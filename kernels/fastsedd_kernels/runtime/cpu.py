"""This process's CPU: its row in the table of machines, what multiplies narrow numbers on it, and its caches."""

from __future__ import annotations

import ctypes
import enum
import functools
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

import llvmlite.binding as llvm
from numba.core.registry import cpu_target

from fastsedd_kernels.runtime.cores import available_cores
from fastsedd_kernels.runtime.machines import AVX2, AVX512, NEON, PORTABLE, Machine

# What the code generator makes of these tells what its target has.
_FMA_PROBE = """
define <16 x float> @probe(<16 x float>* %p, <16 x float> %y, <16 x float> %z) {
  %x = load <16 x float>, <16 x float>* %p
  %r = call <16 x float> @llvm.fmuladd.v16f32(<16 x float> %x, <16 x float> %y, <16 x float> %z)
  ret <16 x float> %r
}
declare <16 x float> @llvm.fmuladd.v16f32(<16 x float>, <16 x float>, <16 x float>)
"""
_BYTES_PROBE = """
define <64 x i8> @probe(<64 x i8> %x) {
  %r = call <64 x i8> @llvm.abs.v64i8(<64 x i8> %x, i1 false)
  ret <64 x i8> %r
}
declare <64 x i8> @llvm.abs.v64i8(<64 x i8>, i1)
"""
_DOT_PROBE = """
define i32 @probe(<64 x i8> %a, <64 x i8> %b) {
  %x = zext <64 x i8> %a to <64 x i32>
  %y = sext <64 x i8> %b to <64 x i32>
  %m = mul <64 x i32> %x, %y
  %r = call i32 @llvm.vector.reduce.add.v64i32(<64 x i32> %m)
  ret i32 %r
}
declare i32 @llvm.vector.reduce.add.v64i32(<64 x i32>)
"""
_SIGNED_DOT_PROBE = _DOT_PROBE.replace("zext", "sext")
_BFLOAT16_PROBE = """
define <16 x bfloat> @probe(<16 x float> %x) {
  %r = fptrunc <16 x float> %x to <16 x bfloat>
  ret <16 x bfloat> %r
}
"""

_HALVES_PROBE = """
define <4 x float> @probe(<4 x half>* %p) {
  %x = load <4 x half>, <4 x half>* %p
  %r = fpext <4 x half> %x to <4 x float>
  ret <4 x float> %r
}
"""


@functools.cache
def isa() -> Machine:
    """The instruction set that Numba's code generator targets in this process.

    Host features would mislead under NUMBA_CPU_NAME and NUMBA_CPU_FEATURES, and a feature list does not show what a
    CPU's name implies. So the code generator itself is asked: it translates one FMA, and its registers tell. A CPU with
    wide registers for floats only (AVX without AVX2) is used with narrower ones.
    """
    registers = _registers(_FMA_PROBE, "vfmadd")
    if "zmm" in registers:
        return AVX512
    if "ymm" in registers and byte_lanes() >= 32:
        return AVX2
    return NEON if "fmla" in _translated(_FMA_PROBE) else PORTABLE


@functools.cache
def _translated(module: str) -> str:
    """Assembly of a module, for this process's target."""
    text = f'target triple = "{llvm.get_process_triple()}"\n{module}'
    return str(cpu_target.target_context.codegen()._tm.emit_assembly(llvm.parse_assembly(text)))


def _registers(module: str, instruction: str) -> set[str]:
    """The kinds of x86's vector registers that the instruction has in what a module is translated to."""
    lines = [line for line in _translated(module).splitlines() if instruction in line]
    return {kind for kind in ("xmm", "ymm", "zmm") if any(kind in line for line in lines)}


@functools.cache
def byte_lanes() -> int:
    """The most bytes that one instruction of x86's SSSE3, AVX2 or AVX512-BW takes in this process's target, or 0.

    A CPU with wide registers for floats may have none for bytes (AVX without AVX2, AVX-512 without BW).
    """
    registers = _registers(_BYTES_PROBE, "pabsb")
    return max((bytes_ for kind, bytes_ in (("xmm", 16), ("ymm", 32), ("zmm", 64)) if kind in registers), default=0)


class Unit(enum.Enum):
    """The instruction that multiplies narrow operands, several of a word at once."""

    AMX = "amx"  # tiles of 16 rows of 64 bytes
    AVX512 = "avx512"  # AVX512-BF16, AVX512-VNNI
    AVX_VNNI = "avx-vnni"  # vpdpbusd in registers of AVX2
    BYTE_PAIRS = "pmaddubsw"  # and pmaddwd: two instructions and an addition for four products
    SHORT_PAIRS = "pmaddwd"  # of bytes widened to 16 bits
    SDOT = "sdot"  # of ARM's dot product extension: bytes with signs
    BFDOT = "bfdot"  # of ARM's BF16 extension
    WIDENED = "widened"  # none: operands are unpacked to float32 or int32


_AMX_FEATURES = {"bfloat16": "amx-bf16", "int8": "amx-int8"}


@functools.cache
def dot_unit(dtype: str) -> Unit:
    """The unit that this process's products of "bfloat16" or "int8" run on."""
    named = isa() is AVX512 and _is_named(_AMX_FEATURES[dtype]) and _is_named("amx-tile")
    return Unit.AMX if named and _may_use_amx() else vector_unit(dtype)


@functools.cache
def vector_unit(dtype: str) -> Unit:
    """The unit for "bfloat16" or "int8" among the instructions of vector registers.

    An instruction that the target lacks would end the process while compiling, and a list of features does not tell
    what a CPU's name implies. So the code generator is asked: given code that the instruction, or another one of the
    same feature, is made for, it uses it or does not.
    """
    machine = isa()
    if machine is NEON:
        return _arm_unit(dtype)
    if dtype == "bfloat16":
        rounds = machine is AVX512 and "zmm" in _registers(_BFLOAT16_PROBE, "vcvtneps2bf16")
        return Unit.AVX512 if rounds else Unit.WIDENED
    dots = _registers(_DOT_PROBE, "vpdpbusd")
    if machine is AVX512 and "zmm" in dots:
        return Unit.AVX512
    if machine is AVX2 and "ymm" in dots:
        return Unit.AVX_VNNI
    if byte_lanes() >= 4 * machine.lanes:
        return Unit.BYTE_PAIRS
    return Unit.SHORT_PAIRS if machine is PORTABLE and "pmaddwd" in _translated(_DOT_PROBE) else Unit.WIDENED


def _arm_unit(dtype: str) -> Unit:
    """`vector_unit` of a target with NEON."""
    if dtype == "bfloat16":
        return Unit.BFDOT if "bfcvtn" in _translated(_BFLOAT16_PROBE) else Unit.WIDENED
    return Unit.SDOT if "sdot" in _translated(_SIGNED_DOT_PROBE) else Unit.WIDENED


@functools.cache
def widens_float16() -> bool:
    """True if this process's target has an instruction that makes float32 of float16."""
    return any(name in _translated(_HALVES_PROBE) for name in ("vcvtph2ps", "fcvtl"))


def rounds_to_bfloat16() -> bool:
    """True if this process's target has an instruction that does, for a register of float32 values."""
    return vector_unit("bfloat16") in (Unit.AVX512, Unit.BFDOT)


def _is_named(feature: str) -> bool:
    return f"+{feature}" in cpu_target.target_context.codegen().magic_tuple()[2].split(",")


@functools.cache
def _may_use_amx() -> bool:
    """Ask Linux for the tile registers, whose 8 KiB it does not save for every process: once, and for all threads."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    arch_prctl, request_permission, tile_data = 158, 0x1023, 18
    try:
        return bool(ctypes.CDLL(None).syscall(arch_prctl, request_permission, tile_data) == 0)
    except (OSError, AttributeError):
        return False


@dataclass(frozen=True)
class CpuInfo:
    """name : the target's CPU name; isa, lanes : of its `Machine`; bfloat16, int8 : their `Unit`
    cores : those that this process may use; l1d, l2, l3 : caches in bytes"""

    name: str
    isa: str
    lanes: int
    bfloat16: str
    int8: str
    cores: int
    l1d: int
    l2: int
    l3: int


@functools.cache
def cpu_info() -> CpuInfo:
    """The CPU that the kernels are compiled and tuned for. Caches are a core's own, but for the shared third level."""
    name = cpu_target.target_context.codegen().magic_tuple()[1]
    sizes = _cache_sizes()
    bfloat16, int8 = dot_unit("bfloat16").value, dot_unit("int8").value
    return CpuInfo(name, isa().name, isa().lanes, bfloat16, int8, available_cores(), *sizes)


def _cache_sizes() -> tuple[int, int, int]:
    """(L1d, L2, L3) in bytes as Linux tells them, else sizes that no CPU of the last decade is below."""
    found: dict[int, int] = {}
    for index in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        try:
            if (index / "type").read_text().strip() != "Instruction":
                size = (index / "size").read_text().strip()
                found[int((index / "level").read_text())] = int(size.removesuffix("K")) * 1024
        except (OSError, ValueError):
            continue
    return found.get(1, 32 << 10), found.get(2, 512 << 10), found.get(3, 4 << 20)
