"""The page at `/`: one file of HTML, with its own style and script, that asks nobody but the server it came from.

It is put together from the files beside this one, which index.html names.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Page:
    """The page, and headers by which a browser runs its own style and script, and no others."""

    html: bytes
    headers: dict[str, str]

    @classmethod
    def read(cls) -> Page:
        # <style>/* style.css */</style> stands for that file, and so do several names in a script.
        text = re.sub(
            r"(?<=>)/\* ([\w. ]+) \*/(?=</)", lambda found: _joined(found[1].split()), _joined(["index.html"])
        )
        policy = "; ".join(
            (
                "default-src 'none'", f"script-src {_hash('script', text)}", f"style-src {_hash('style', text)}",
                "connect-src 'self'", "img-src data:", "base-uri 'none'", "form-action 'none'",
                "frame-ancestors 'none'",
            )
        )  # fmt: skip
        return cls(
            text.encode(),
            {"content-security-policy": policy, "referrer-policy": "no-referrer", "cache-control": "no-cache"},
        )


def _joined(names: list[str]) -> str:
    return "\n".join((Path(__file__).parent / name).read_text(encoding="utf-8") for name in names)


def _hash(tag: str, text: str) -> str:
    """The name of an inline element by its content, as a policy states it."""
    (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
