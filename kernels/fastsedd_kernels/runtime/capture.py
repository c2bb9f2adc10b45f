"""Capture of a function's calls into this package: kernels, copies, checks of values."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

Call = tuple[Callable[..., Any], tuple[Any, ...]]


class _Thread(threading.local):
    calls: list[Call] | None = None  # of the recording that this thread is making


_thread = _Thread()


def capture(function: Callable[[], Any]) -> list[Call]:
    """Call `function` once; all that this package's functions did in it on this thread, through `run`.

    Raises RuntimeError within another `capture`, and what `function` raises.
    """
    if _thread.calls is not None:
        raise RuntimeError("record is called within a record on the same thread")
    calls: list[Call] = []
    _thread.calls = calls
    try:
        function()
    finally:
        _thread.calls = None
    return calls


def is_recording() -> bool:
    """True if this thread's calls are being captured."""
    return _thread.calls is not None


def run(function: Callable[..., Any], *arguments: Any) -> None:
    """Call it, and have the recording call it too, if this thread is making one."""
    if _thread.calls is not None:
        _thread.calls.append((function, arguments))
    function(*arguments)
