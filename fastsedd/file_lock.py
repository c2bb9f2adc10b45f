"""One writer per file or folder: a lock beside it, which ends with the process that holds it, however that ends."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]
    import msvcrt

_LOCKED_BYTE = 1 << 30  # on Windows, where what is locked cannot be read: beyond what the file holds
_TAKEN = {errno.EAGAIN, errno.EACCES, errno.EDEADLK}
_READS = 5  # of the holder's name, which it writes just after it has got the lock
_PAUSE = 0.02  # seconds


@contextmanager
def exclusive(path: Path) -> Iterator[bool]:
    """Be the only process that writes a file or a folder while the context lasts; yields True if that is sure.

    It need not exist. The lock is a file `.NAME.lock` beside it, or the file itself where none can be made there. It is
    the system's, on network drives too: a killed process holds it no longer. A device or a pipe has any number of
    writers.
    Raises OSError of one line, which names the process that holds the lock, and has changed nothing then.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        yield False
        return
    target = path.resolve()
    lock, beside = _open(path, target)
    if not lock:
        yield False  # a file system without locks
        return
    try:
        if beside is not None:
            lock.truncate(0)
            lock.write(f"pid {os.getpid()} on host {socket.gethostname()}".encode())
            lock.flush()
        yield True
    finally:
        if beside is None:
            lock.close()
        elif fcntl is None:
            lock.close()  # what is open cannot be removed
            with suppress(OSError):
                beside.unlink()
        else:
            with suppress(OSError):
                beside.unlink()  # before another process can hold it
            lock.close()


def _open(path: Path, target: Path) -> tuple[BinaryIO | None, Path | None]:
    """The locked file, None without locks, and its path if it is one of our own beside the target."""
    beside: Path | None = target.with_name(f".{target.name}.lock")
    while True:
        try:
            lock = (beside or target).open("r+b" if beside is None else "a+b")
        except OSError as error:
            if beside is not None and target.is_file() and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
                beside = None  # a folder in which nothing can be made
                continue
            raise OSError(f"{path}: {error.strerror}") from None
        try:
            if not _try_lock(lock):
                raise OSError(f"{path} is being written by another process{_holder(lock, beside)}")
            if beside is None or _is_at(lock, beside):
                return lock, beside
        except OSError as error:
            lock.close()
            if error.errno is None:
                raise
            if beside is not None:
                with suppress(OSError):
                    beside.unlink()
            return None, None
        lock.close()  # of a process that has ended and removed it since


def _try_lock(file: BinaryIO) -> bool:
    """Lock a file for this process; False if another one has it. Raises OSError where the file system has no locks."""
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            file.seek(_LOCKED_BYTE)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
    except OSError as error:
        if error.errno in _TAKEN:
            return False
        raise
    return True


def _holder(lock: BinaryIO, beside: Path | None) -> str:
    """The process that holds a lock, in brackets, as far as it is known."""
    if beside is None:
        return ""
    for _ in range(_READS):
        lock.seek(0)
        words = lock.read(300).decode(errors="replace")
        if words:
            return f" ({words})"
        time.sleep(_PAUSE)
    return ""


def _is_at(file: BinaryIO, path: Path) -> bool:
    """True if an open file still has that name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
