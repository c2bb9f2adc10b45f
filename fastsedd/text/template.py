r"""Text with gaps: which parts of a text are given, and how many tokens are to be written between them.

    {{40}}      a gap of 40 tokens
    {{}}        a gap of all the tokens that are left of the text's length, once at most
    \{{40}}     the characters {{40}} themselves

Everything else is text, as it stands: spaces, line ends, other braces. Of backslashes before {{...}} two stand for one,
and an odd one makes it text; anywhere else they are characters like any other.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

_GAP = re.compile(r"(\\*)\{\{(\d*)\}\}")


def parse(template: str) -> list[str | int | None]:
    """Texts and gaps in order: a string, how many tokens, or None for what is left."""
    parts: list[str | int | None] = [""]
    end = 0
    for found in _GAP.finditer(template):
        slashes, count = found.groups()
        before = template[end : found.start()] + slashes[: len(slashes) // 2]
        literal = len(slashes) % 2 == 1
        parts[-1] = str(parts[-1]) + before + (f"{{{{{count}}}}}" if literal else "")
        if not literal:
            parts += [int(count) if count else None, ""]
        end = found.end()
    parts[-1] = str(parts[-1]) + template[end:]
    return [part for part in parts if part != ""]


def lay_out(
    template: str, encode: Callable[[str], NDArray[np.int32]], length: int | None, most: int, free: int
) -> NDArray[np.int32]:
    """The tokens of a template, int32 [L], and `free` in its gaps.

    encode : text to tokens; each text between gaps is encoded by itself
    length : L, or None: as long as the template says, or `most` where a gap takes what is left
    most : L at most
    Raises ValueError, saying how many tokens there are and may be.
    """
    parts = parse(template)
    if parts.count(None) > 1:
        raise ValueError(f"template has {parts.count(None)} gaps {{{{}}}}, allowed: one, which takes what is left")
    sizes = [part for part in parts if isinstance(part, int)]
    if max(sizes, default=0) > most:
        raise ValueError(f"template has a gap of {max(sizes)} tokens, allowed: {most} in all, the length")
    texts = {part: encode(part) for part in parts if isinstance(part, str)}
    known = sum(sizes) + sum(len(texts[part]) for part in parts if isinstance(part, str))
    open_ended = None in parts
    total = length if length is not None else (most if open_ended else known)
    if known > total or (known < total and not open_ended):
        raise ValueError(
            f"template has {known} tokens, allowed: {total if length is not None else most}, the length"
            + ("" if known > total else ", or a gap {{}} that takes what is left")
        )
    if not 1 <= total <= most:
        raise ValueError(f"template has {total} tokens, allowed: 1 to {most}")
    filled = [
        texts[part] if isinstance(part, str) else np.full(total - known if part is None else part, free, np.int32)
        for part in parts
    ]
    return np.concatenate(filled).astype(np.int32)
