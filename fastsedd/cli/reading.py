"""Text that a command is given in a file or on standard input."""

from __future__ import annotations

import codecs
from pathlib import Path

from fastsedd import streams


def read_text(file: Path) -> str:
    """The text of a file, or of standard input for "-", without a byte-order mark and with line ends of one character.

    Raises ValueError where it is not UTF-8.
    """
    try:
        data = streams.read_stdin() if file == Path("-") else file.read_bytes()
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        if error.object.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise ValueError(f"{file}: is UTF-16, allowed: UTF-8") from None
        raise ValueError(f"{file}: is not UTF-8: byte {error.object[error.start]:#04x} at {error.start}") from None
