"""Texts of a file: the lines of JSON that `fastsedd generate --json` writes, or the texts themselves."""

from __future__ import annotations

import json


def split(content: str, rule: str) -> list[str]:
    """The texts, in order. rule : a line of its own between two texts, in a file that is not JSON.

    A last line of JSON without its end is left out: it is still being written, or was torn.
    Raises ValueError, naming the line, for one that is not an object with a text among lines that are.
    """
    lines = content.split("\n")  # JSON escapes the other ends of lines, but for those of Unicode
    if _text(lines[0]) is not None:
        if len(lines) > 1 and _text(lines[-1]) is None:
            lines.pop()
        return [_checked(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    return content.removesuffix("\n").split(f"\n{rule}\n")


def _checked(number: int, line: str) -> str:
    text = _text(line)
    if text is None:
        raise ValueError(f"line {number} is {line[:40]!r}, allowed: a JSON object with a text")
    return text


def _text(line: str) -> str | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    text = found.get("text") if isinstance(found, dict) else None
    return text if isinstance(text, str) else None
