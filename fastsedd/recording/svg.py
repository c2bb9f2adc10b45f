"""A text that emerges, as one SVG: each token appears at the step from which on it is the final one, in a loop."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from fastsedd.recording import layout

SECONDS = 12.0  # of a loop
SETTLING = 0.7  # share of the loop in which tokens appear; the whole text stays for the rest
LINE, WIDTH, SIZE, MARGIN = 20, 8.4, 14, 16  # pixels: a line's height, a character's width, the font, the border

_STYLE = """\
svg {{ background: #fff; }}
text {{ font: {size}px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; white-space: pre; }}
.m {{ fill: #b8bfc7; }} .t {{ fill: #24292f; }}
@media (prefers-color-scheme: dark) {{ svg {{ background: #0d1117; }} .m {{ fill: #444c56; }} .t {{ fill: #e6edf3; }} }}
tspan {{ animation-duration: {seconds}s; animation-iteration-count: infinite; animation-timing-function: linear; }}
"""


def svg(pieces: Sequence[str], steps: NDArray[np.intp]) -> str:
    """The animation as one SVG: dots for what is masked, and each piece fading in, green at first."""
    last = max(1, int(steps.max()))
    lines = layout.lines(pieces, steps)
    style = _STYLE.format(size=SIZE, seconds=SECONDS) + "\n".join(_keyframes(step, last) for step in range(last + 1))
    width = 2 * MARGIN + WIDTH * max(sum(len(text) for text, _ in line) for line in lines)
    rows = "\n".join(_row(line, MARGIN + LINE * (i + 0.75)) for i, line in enumerate(lines))
    size = f'width="{width:.0f}" height="{2 * MARGIN + LINE * len(lines)}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n<style>\n{style}\n</style>\n{rows}\n</svg>\n'


def _row(line: Sequence[tuple[str, int]], y: float) -> str:
    dots = "".join(f'<tspan class="m{step}">{"·" * len(text)}</tspan>' for text, step in line)
    text = "".join(f'<tspan class="t{step}">{escape(text)}</tspan>' for text, step in line)
    place = f'x="{MARGIN}" y="{y:.0f}"'
    return f'<text class="m" {place}>{dots}</text>\n<text class="t" {place}>{text}</text>'


def _keyframes(step: int, last: int) -> str:
    """The moment, in per cent of the loop, at which tokens of that step appear, green for a while, and dots vanish."""
    at = 3 + 100 * SETTLING * step / last * 0.95
    before, shown, calm = f"0%, {at:.1f}%", f"{at + 0.5:.1f}%", f"{at + 8:.1f}%, 98%"
    hidden, fresh, seen = "opacity: 0;", "opacity: 1; fill: #1a7f37;", "opacity: 1;"
    return "\n".join(
        [
            f".t{step} {{ animation-name: t{step}; }} .m{step} {{ animation-name: m{step}; }}",
            f"@keyframes t{step} {{ {before} {{ {hidden} }} {shown} {{ {fresh} }} {calm} {{ {seen} }}",
            f"100% {{ {hidden} }} }}",
            f"@keyframes m{step} {{ {before} {{ {seen} }} {shown}, 98% {{ {hidden} }} 100% {{ {seen} }} }}",
        ]
    )
