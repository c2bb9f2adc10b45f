"""What a result was measured on: what a reader needs to compare it with their own, and nothing that names a machine."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
from pathlib import Path
from typing import Any

import fastsedd_kernels as fk

_PACKAGES = ("numba", "llvmlite", "numpy", "mkl", "blis", "torch", "transformers", "onnxruntime", "openvino")


def describe() -> dict[str, Any]:
    cpu = fk.cpu_info()
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": _model_name() or cpu.name,
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
