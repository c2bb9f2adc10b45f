"""Signals that end a program become an exception, so that it leaves nothing behind.

Also for the first process of a container, to which the kernel delivers only those signals that it handles.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_ENDING = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")  # as far as the platform has them


class Stopped(KeyboardInterrupt):
    """A signal has asked this process to end. Whichever it is, libraries treat it as an interrupt.

    code : the conventional exit code, 128 and the signal's number
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number


_received: list[int] = []
_again: list[threading.Timer] = []  # which deliver anew what a callback has swallowed
_WAIT = 0.05  # seconds, until that callback has ended


@contextmanager
def raised() -> Iterator[None]:
    """Raise `Stopped` in the main thread for the first signal that asks to end; later ones let it clean up.

    A callback from C, of a code generator say, may swallow what is raised in it: the signal is then delivered again.

    Signals that are ignored when it begins, as under nohup, stay ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {}
    for name in _ENDING:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) not in (signal.SIG_IGN, None):
            before[number] = signal.signal(number, _stop)
    report = sys.unraisablehook

    def note(lost: sys.UnraisableHookArgs) -> None:
        if isinstance(lost.exc_value, Stopped):
            _again.append(threading.Timer(_WAIT, _deliver, [_received[0]]))
            _again[-1].start()
        else:
            report(lost)

    sys.unraisablehook = note
    try:
        yield
    finally:
        _forget()
        sys.unraisablehook = report
        for number, handler in before.items():
            signal.signal(number, handler)
        _received.clear()


@contextmanager
def interruptible() -> Iterator[Callable[[], None]]:
    """Let an interrupt (SIGINT, Ctrl-C) raise KeyboardInterrupt, once, instead of asking the program to end.

    Yields a function that raises it again if it has been lost; see `check`.
    """
    received: list[int] = []

    def interrupt(number: int, _: FrameType | None) -> None:
        received.append(number)
        if len(received) == 1:
            raise KeyboardInterrupt

    def check_again() -> None:
        if received:
            raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before in (signal.SIG_IGN, None):
        yield check_again
        return
    signal.signal(signal.SIGINT, interrupt)
    try:
        yield check_again
    finally:
        signal.signal(signal.SIGINT, before)


def check() -> None:
    """Raise `Stopped` again if a signal's has been lost, in a callback whose exceptions Python only prints."""
    if _received:
        raise Stopped(_received[0])


def _stop(number: int, _: FrameType | None) -> None:
    _received.append(number)
    if len(_received) == 1 or _again:
        _forget()
        raise Stopped(_received[0])


def _deliver(number: int) -> None:
    """Send this process a signal, where it may wake the main thread from a wait."""
    if sys.platform == "win32":
        signal.raise_signal(number)
    else:
        signal.pthread_kill(threading.main_thread().ident or 0, number)


def _forget() -> None:
    """Deliver nothing anew."""
    while _again:
        _again.pop().cancel()
