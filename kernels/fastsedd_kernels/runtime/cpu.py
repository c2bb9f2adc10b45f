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

_FMA_PROBE = """
define <16 x float> @probe(<16 x float>* %p, <16 x float> %y, <16 x float> %z) {
  %x = load <16 x float>, <16 x float>* %p
  %r = call <16 x float> @llvm.fmuladd.v16f32(<16 x float> %x, <16 x float> %y, <16 x float> %z)
  ret <16 x float> %r
}
declare <16 x float> @llvm.fmuladd.v16f32(<16 x float>, <16 x float>, <16 x float>)
"""

_BYTES_PROBE = """
define <64 x i8> @probe(<64 x i8> %x, <64 x i8> %y) {
  %r = add <64 x i8> %x, %y
  ret <64 x i8> %r
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
    CPU's name implies. So the code generator itself is asked: it translates one FMA, and its registers tell.
    """
    assembly = _translated(_FMA_PROBE)
    if "vfmadd" in assembly:
        return AVX512 if "zmm" in assembly else AVX2
    return NEON if "fmla" in assembly else PORTABLE


def _translated(module: str) -> str:
    """Assembly of a module, for this process's target."""
    text = f'target triple = "{llvm.get_process_triple()}"\n{module}'
    return str(cpu_target.target_context.codegen()._tm.emit_assembly(llvm.parse_assembly(text)))


class Unit(enum.Enum):
    """The instruction that dots narrow operands."""

    AMX = "amx"  # tiles of 16 rows of 64 bytes
    AVX512 = "avx512"  # AVX512-BF16, AVX512-VNNI
    WIDENED = "widened"  # none: operands are unpacked to float32 or int32


_FEATURES = {
    "bfloat16": {Unit.AMX: "amx-bf16", Unit.AVX512: "avx512bf16"},
    "int8": {Unit.AMX: "amx-int8", Unit.AVX512: "avx512vnni"},
}


@functools.cache
def dot_unit(dtype: str) -> Unit:
    """The unit that this process's products of "bfloat16" or "int8" run on.

    Instructions that the code generator's target lacks would end the process while compiling, so only what its list of
    features names is used: a CPU whose name implies more loses speed, not the process.
    """
    if isa() is not AVX512:
        return Unit.WIDENED
    names = _FEATURES[dtype]
    if _is_named(names[Unit.AMX]) and _is_named("amx-tile") and _may_use_amx():
        return Unit.AMX
    return Unit.AVX512 if _is_named(names[Unit.AVX512]) else Unit.WIDENED


@functools.cache
def byte_lanes() -> int:
    """The most bytes that one instruction of this process's target adds: 16 where it has no register for more.

    A CPU with wide registers for floats may have none for bytes (AVX without AVX2, AVX-512 without BW).
    """
    added = "".join(line for line in _translated(_BYTES_PROBE).splitlines() if "paddb" in line)
    return 64 if "zmm" in added else 32 if "ymm" in added else 16


@functools.cache
def widens_float16() -> bool:
    """True if this process's target has an instruction that makes float32 of float16."""
    return any(name in _translated(_HALVES_PROBE) for name in ("vcvtph2ps", "fcvtl"))


def has_vnni() -> bool:
    """True if this process's target has AVX512-VNNI, whatever unit multiplies whole rows of int8 (`dot_unit`)."""
    return isa() is AVX512 and _is_named(_FEATURES["int8"][Unit.AVX512])


def rounds_to_bfloat16() -> bool:
    """True if this process's target has an instruction that does, for a register of 16 float32 values."""
    return isa() is AVX512 and _is_named(_FEATURES["bfloat16"][Unit.AVX512])


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
