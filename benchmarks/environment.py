"""The machine and the software behind a result, for readers to compare with their own; nothing names the host."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
from pathlib import Path
from typing import Any

import fastsedd_kernels as fk
import llvmlite.binding as llvm

_PACKAGES = (
    "numba",
    "llvmlite",
    "numpy",
    "mkl",
    "blis",
    "torch",
    "transformers",
    "onnxruntime",
    "openvino",
    "llama-cpp-python",
)


def describe() -> dict[str, Any]:
    """CPU, microarchitecture as LLVM names it, instruction set in use, threads, caches in bytes, versions.

    Of a CPU that is held to a lesser one's instructions (`NUMBA_CPU_NAME`) the microarchitecture names both.
    """
    cpu = fk.cpu_info()
    host = llvm.get_host_cpu_name()
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": _model_name() or cpu.name,
        "microarchitecture": host if host == cpu.name else f"{host} as {cpu.name}",
        "isa": cpu.isa,
        "threads": fk.get_num_threads(),
        "caches": {"L1d": cpu.l1d, "L2": cpu.l2, "L3": cpu.l3},
        "system": f"{platform.system()}, Python {platform.python_version()}",
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
    }


def _model_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
