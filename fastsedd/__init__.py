"""Text diffusion (SEDD) on a CPU: `load` a checkpoint, then `Model.generate`.

Names are imported when they are first used: `fastsedd --help` waits for neither NumPy nor Numba.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastsedd.checkpoint.convert import convert
    from fastsedd.choices import AnyDtype, Dtype
    from fastsedd.config import FittedTimes
    from fastsedd.engine import Model
    from fastsedd.errors import CheckpointError, UnavailableError
    from fastsedd.loading import evaluate, generate, load, warmup
    from fastsedd.quality.measures import Quality, Reference
    from fastsedd.request import Request
    from fastsedd.results import Evaluation, Result, Sample

__version__ = "0.1.0"
__all__ = [
    "AnyDtype",
    "CheckpointError",
    "Dtype",
    "Evaluation",
    "FittedTimes",
    "Model",
    "Quality",
    "Reference",
    "Request",
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
    "AnyDtype": "choices",
    "CheckpointError": "errors",
    "Dtype": "choices",
    "Evaluation": "results",
    "FittedTimes": "config",
    "Model": "engine",
    "Quality": "quality.measures",
    "Reference": "quality.measures",
    "Request": "request",
    "Result": "results",
    "Sample": "results",
    "UnavailableError": "errors",
    "convert": "checkpoint.convert",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'loading')}"), name)
