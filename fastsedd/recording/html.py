"""A text that emerges, as one page: it plays, pauses, and goes back through the steps."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path


def page(length: int, changes: Sequence[Sequence[tuple[int, str]]]) -> str:
    """The page. length : of the text, in positions; changes : (position, text) of each step, "" for a mask"""
    data = json.dumps({"length": length, "changes": changes}, ensure_ascii=False, separators=(",", ":"))
    template = (Path(__file__).parent / "player.html").read_text(encoding="utf-8")
    # In a script's element no "<" can end it, or begin a comment.
    return template.replace("/*DATA*/null", data.replace("<", "\\u003c").replace("\u2028", "\\u2028"))
