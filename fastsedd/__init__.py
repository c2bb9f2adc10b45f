"""Text diffusion (SEDD) on a CPU: `load` a checkpoint, then `Model.generate`.

Names are imported when they are first used: `fastsedd --help` waits for neither NumPy nor Numba.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastsedd.checkpoint.convert import convert
    from fastsedd.config import FittedTimes
    from fastsedd.engine import Dtype, Evaluation, Model, Result, Sample, evaluate, generate, load, warmup
    from fastsedd.errors import CheckpointError, UnavailableError
    from fastsedd.quality.measures import Quality, Reference

__version__ = "0.1.0"
__all__ = [
    "CheckpointError",
    "Dtype",
    "Evaluation",
    "FittedTimes",
    "Model",
    "Quality",
    "Reference",
    "Result",
    "Sample",
    "UnavailableError",
    "convert",
    "evaluate",
    "generate",
    "load",
    "warmup",
]

_HOMES = {
    "CheckpointError": "errors",
    "FittedTimes": "config",
    "Quality": "quality.measures",
    "Reference": "quality.measures",
    "UnavailableError": "errors",
    "convert": "checkpoint.convert",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'engine')}"), name)
