"""Calls recorded once and repeated without the checks, views and plans around them.

A network calls the same kernels on the same arrays with every step of a sampler, and the Python between two kernels,
which the kernels have driven out of the caches, costs as much as a small product. `record` keeps what depends on the
arrays' contents: kernels, copies, checks of values. The rest was found once and holds for as long as the arrays do.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

_Calls = list[tuple[Callable[..., Any], tuple[Any, ...]]]


class _Thread(threading.local):
    calls: _Calls | None = None  # of the recording that this thread is making


_thread = _Thread()


class Recording:
    """What `record` returns. Any thread may replay it, one at a time."""

    def __init__(self, calls: _Calls) -> None:
        self._calls = tuple(calls)

    def __len__(self) -> int:
        """How many calls a replay makes."""
        return len(self._calls)

    def replay(self) -> None:
        """Do again what was recorded, with what the same arrays hold now. Raises what a check of values raises."""
        for function, arguments in self._calls:
            function(*arguments)


def record(function: Callable[[], Any]) -> Recording:
    """Call `function` once and return a recording of all that this package's functions did in it on this thread.

    A replay reads and writes the very arrays of that call: inputs are to be written in place, and an array that was
    made on the way is filled anew. NumPy's own operations are not recorded, and numbers and lists are as they were.
    Raises RuntimeError within another `record`, and what `function` raises.
    """
    if _thread.calls is not None:
        raise RuntimeError("record is called within a record on the same thread")
    calls: _Calls = []
    _thread.calls = calls
    try:
        function()
    finally:
        _thread.calls = None
    return Recording(calls)


def run(function: Callable[..., Any], *arguments: Any) -> None:
    """Call it, and have the recording call it too, if this thread is making one."""
    if _thread.calls is not None:
        _thread.calls.append((function, arguments))
    function(*arguments)
