"""Files and folders that are whole or not there: written under another name, then renamed."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from fastsedd import file_lock


@contextmanager
def sole_writer(path: Path) -> Iterator[None]:
    """Be the only process that writes a file or a folder, as far as there are locks; see `file_lock.exclusive`.

    What killed writers have left of it, unfinished, is removed.
    """
    with file_lock.exclusive(path) as sure:
        if sure:
            remove_leftovers(path)
        yield


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A free path beside `path`, at which a file or a folder is to be written, and which takes its name at the end.

    A link is followed. If the context raises, what was written is removed and `path` is as it was.
    """
    target = path.resolve()
    incomplete = target.with_name(f".{target.name}.{os.getpid()}.incomplete")
    if incomplete.exists():
        raise FileExistsError(f"{incomplete} is in the way")
    try:
        yield incomplete
        incomplete.replace(target)
    finally:
        _remove(incomplete)


@contextmanager
def text_file(path: Path) -> Iterator[TextIO]:
    """A UTF-8 file that takes its name once it is complete; a device or a pipe, which cannot, is written to.

    A lone surrogate, which UTF-8 does not encode, is written as its backslash escape.
    """
    if path.exists() and not path.is_file():
        with path.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
            yield file
    else:
        with (
            replaced(path) as incomplete,
            incomplete.open("x", encoding="utf-8", errors="backslashreplace", newline="\n") as file,
        ):
            yield file


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all; a device or a pipe, which cannot be replaced, is written to."""
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return
    with replaced(path) as incomplete:
        incomplete.write_bytes(content)


def remove_leftovers(path: Path) -> None:
    """Remove files and folders that killed processes have left of `path`, unfinished. Only its one writer may."""
    target = path.resolve()
    ours = re.compile(rf"\.{re.escape(target.name)}\.\d+\.incomplete")
    try:
        for each in target.parent.iterdir():
            if ours.fullmatch(each.name):
                _remove(each)
    except OSError:
        pass  # they stay


def _remove(path: Path) -> None:
    """Remove a file, or a folder and what is in it, if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
