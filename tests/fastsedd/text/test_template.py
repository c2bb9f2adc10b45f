"""Templates: gaps, what is left as it stands, and how a gap is written that is none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastsedd.text.template import lay_out, parse


@pytest.mark.parametrize(
    ("template", "parts"),
    [
        ("", []),
        ("all of it", ["all of it"]),
        ("{{3}}", [3]),
        ("a{{3}}b{{}}c", ["a", 3, "b", None, "c"]),
        ("{{1}}{{2}}", [1, 2]),
        (" {{04}}\n", [" ", 4, "\n"]),
        ("{3} {{x}} {{ 3 }} {{-1}} }}{{", ["{3} {{x}} {{ 3 }} {{-1}} }}{{"]),
        (r"\{{3}}", ["{{3}}"]),
        (r"a\\{{3}}", ["a\\", 3]),
        (r"\\\{{}}b", [r"\{{}}b"]),
        (r"C:\{x}\\", [r"C:\{x}\\"]),
        ("{{{3}}}", ["{", 3, "}"]),
    ],
)
def test_parse(template: str, parts: list) -> None:
    assert parse(template) == parts


@given(st.text(alphabet="ab\\{}12\n", max_size=20))
def test_any_text_can_be_written(text: str) -> None:
    """With each backslash before {{...}} doubled, and one more put there."""
    import re

    escaped = re.sub(r"(\\*)(\{\{\d*\}\})", lambda found: found[1] * 2 + "\\" + found[2], text)
    assert "".join(map(str, parse(escaped))) == text


def characters(text: str) -> np.ndarray:
    return np.array([ord(c) - ord("a") for c in text], np.int32)


def test_lay_out() -> None:
    def tokens(template: str, length: int | None) -> list[int]:
        return lay_out(template, characters, length, most=10, free=-1).tolist()

    assert tokens("ab{{2}}c", None) == [0, 1, -1, -1, 2]
    assert tokens("ab{{2}}c", 5) == [0, 1, -1, -1, 2]
    assert tokens("a{{}}b", None) == [0, *[-1] * 8, 1]
    assert tokens("a{{}}b", 4) == [0, -1, -1, 1]
    assert tokens("a{{}}b", 2) == [0, 1]
    assert tokens("{{0}}a", None) == [0]
