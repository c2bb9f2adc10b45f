"""Standard streams of a program that may be run with any of them closed, full, not UTF-8 or not blocking."""

from __future__ import annotations

import codecs
import io
import os
import select
import sys
from typing import Any

_FIRST_FILES = 3  # descriptors of standard input, output and error

_note: str | None = None


def prepare() -> None:
    """Make the standard streams of this process ones that a program can rely on.

    A closed descriptor is occupied, so that no file opened later is taken for a stream. What cannot be written to
    stderr is lost, and the program goes on. Stdout is UTF-8, as files are, but on a terminal of another encoding:
    there, characters that it lacks are written as backslash escapes. Streams that a caller has replaced are left alone.
    """
    global _note
    _occupy_closed_descriptors()
    if sys.stderr is None or (sys.stderr is sys.__stderr__ and not _is_windows_console(sys.stderr)):
        sys.stderr = _messages(sys.stderr)
    if sys.stdout is not None and sys.stdout is sys.__stdout__ and not _is_windows_console(sys.stdout):
        _note = _prepare_stdout(sys.stdout)


def note() -> str | None:
    """A note for a person, before text that is not ASCII is written to stdout; None where there is nothing to say."""
    return _note


def require_stdout() -> None:
    """Raise OSError if standard output is closed: before work whose result goes there."""
    if sys.stdout is None:
        raise OSError("standard output is closed: nobody would see the result")


def finish() -> None:
    """Write what stdout still holds. Raises OSError that names it; Python will not try again then."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError:
        drop_stdout()
        raise


def drop_stdout() -> None:
    """Lead stdout nowhere, after an error: what it still holds is written once more when Python ends."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    except (OSError, ValueError, AttributeError):
        pass  # not a file of the system's


def read_stdin() -> bytes:
    """All of standard input. Raises OSError where it is closed."""
    if sys.stdin is None:
        raise OSError("standard input is closed")
    return sys.stdin.buffer.read()


def read_line() -> str:
    """A line of standard input, without its end. Raises EOFError behind the last, ValueError where it is not UTF-8."""
    if sys.stdin is None:
        raise EOFError
    line = sys.stdin.buffer.readline()
    if not line:
        raise EOFError
    try:
        return str(line.decode("utf-8").rstrip("\r\n"))
    except UnicodeDecodeError as error:
        raise ValueError(f"standard input is not UTF-8: byte {line[error.start]:#04x}") from None


def _occupy_closed_descriptors() -> None:
    for descriptor in range(_FIRST_FILES):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != descriptor:  # it is the lowest free one, unless another thread was faster
                os.close(opened)
            else:
                os.set_inheritable(opened, True)


def _is_windows_console(stream: Any) -> bool:
    """True if a stream is written to by a function of its own, which takes any character."""
    return sys.platform == "win32" and bool(stream.isatty())


def _messages(stream: Any) -> io.TextIOWrapper:
    """A stream to the same place that loses what cannot be written, instead of raising."""
    if stream is None:
        raw: io.RawIOBase = _Lossy(os.open(os.devnull, os.O_WRONLY), "w")
        encoding = "utf-8"
    else:
        raw = _Lossy(stream.fileno(), "w", closefd=False)
        encoding = stream.encoding
    buffer = io.BufferedWriter(raw)
    return io.TextIOWrapper(buffer, encoding, errors="backslashreplace", line_buffering=True)


def _prepare_stdout(stream: Any) -> str | None:
    encoding = codecs.lookup(stream.encoding).name
    on_terminal = stream.isatty()
    complete = encoding.startswith("utf")
    used = encoding if complete or on_terminal else "utf-8"
    stream.flush()
    raw = _Patient(stream.fileno(), "w", closefd=False)
    sys.stdout = io.TextIOWrapper(io.BufferedWriter(raw), used, "backslashreplace", line_buffering=on_terminal)
    if complete:
        return None
    if on_terminal:
        return f"the terminal is said to be {encoding}: characters that it lacks are shown as backslash escapes"
    return f"standard output is said to be {encoding}, but texts are written to it in UTF-8, as to files"


class _Patient(io.FileIO):
    """A file that waits where it would block, as pipes that another program has set so do."""

    def write(self, data: Any) -> int:
        """Write some of the bytes; how many."""
        while True:
            try:
                written = super().write(data)
            except BrokenPipeError:
                raise
            except OSError as error:
                raise OSError(error.errno, error.strerror, "standard output") from None
            if written is not None:
                return written
            select.select([], [self], [])


class _Lossy(io.FileIO):
    """A file whose writes never fail: of a disk that is full, a terminal or a reader that is gone."""

    def write(self, data: Any) -> int:
        """Write what can be written; how many bytes there were."""
        whole = memoryview(data).cast("B")
        rest = whole
        try:
            while rest:
                rest = rest[super().write(rest) or len(rest) :]
        except OSError:
            pass
        return len(whole)
