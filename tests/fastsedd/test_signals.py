"""Signals that end the program, where an exception may get lost."""

from __future__ import annotations

import ctypes
import signal
import sys
import time

import pytest

from fastsedd import signals

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals")


def test_a_signal_that_a_callback_swallows_is_raised_again() -> None:
    """Code generators call back from C, where Python only reports what is raised."""
    swallow = ctypes.CFUNCTYPE(None)(lambda: signal.raise_signal(signal.SIGTERM))
    with signals.raised():
        signals.check()
        swallow()
        with pytest.raises(signals.Stopped):
            signals.check()
        with pytest.raises(signals.Stopped) as stopped:
            signal.raise_signal(signal.SIGINT)
        assert stopped.value.code == 128 + signal.SIGTERM
        signal.raise_signal(signal.SIGINT)  # while it cleans up


def test_a_signal_that_a_callback_swallows_comes_again_by_itself() -> None:
    swallow = ctypes.CFUNCTYPE(None)(lambda: signal.raise_signal(signal.SIGTERM))
    with signals.raised():
        swallow()
        with pytest.raises(signals.Stopped) as stopped:
            time.sleep(10)
        assert stopped.value.code == 128 + signal.SIGTERM


def test_later_signals_let_the_first_clean_up() -> None:
    with signals.raised():
        with pytest.raises(signals.Stopped):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
