"""A text that emerges, as one animated GIF, in a loop: dots for what is masked, and each token green at first."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastsedd.recording import layout

SECONDS, HELD = 8.0, 3.5  # in which tokens appear, and for which the whole text then stays
MAX_FRAMES = 160
FRESH = 0.08  # of the steps: for so long a token is green
SIZE, LINE, MARGIN = 16, 23, 16  # pixels: the font, a line's height, the border
OVERHANG = 2  # pixels of a character beyond its own width

PAPER = (255, 255, 255)
DOT, TEXT, GREEN = range(3)
INKS = ((0x9A, 0xA2, 0xAC), (0x24, 0x29, 0x2F), (0x1A, 0x7F, 0x37))
SHADES = 15  # of each ink, from nearly paper to full


def require() -> None:
    """Raise ValueError where Pillow is missing, or has no fonts of any size."""
    try:
        from PIL import features
    except ImportError:
        raise ValueError("record: a .gif needs Pillow: pip install '.[gif]'") from None
    if not features.check("freetype2"):
        raise ValueError(
            "record: a .gif needs Pillow with FreeType, which this one has not; .svg and .html need neither"
        )


def gif(pieces: Sequence[str], steps: NDArray[np.intp]) -> bytes:
    """The file. pieces : texts of tokens; steps : intp, from which on each is the final one, counted from 0"""
    from PIL import Image

    cells, width, height = _cells(layout.lines(pieces, steps))
    last = int(steps.max())
    count = min(last + 1, MAX_FRAMES)
    calm = math.ceil(FRESH * count)
    moments = [i * (last + 1) / count - 1.0 for i in range(count + calm + 1)]
    ink = np.linspace(0.0, 1.0, SHADES + 1)[1:, None]
    palette = [np.array([PAPER]), *((1.0 - ink) * PAPER + ink * each for each in INKS)]
    colours = np.concatenate(palette).round().astype(np.uint8).tobytes()

    def images() -> Iterator[Any]:
        for moment in moments:
            image = Image.frombytes("P", (width, height), _frame(cells, moment, FRESH * (last + 1), (height, width)))
            image.putpalette(colours)
            yield image

    frames, file = images(), io.BytesIO()
    durations = [10 * max(4, round(100 * SECONDS / count))] * len(moments)
    durations[-1] = int(1000 * HELD)
    next(frames).save(
        file, "GIF", save_all=True, append_images=frames, duration=durations, loop=0, disposal=1, optimize=False
    )
    return file.getvalue()


@dataclass(frozen=True)
class _Cell:
    """A character at its place. shades : uint8 [LINE, w], 0 to SHADES, of the character, and of a dot in its stead"""

    y: int
    x: int
    step: int
    shades: NDArray[np.uint8]
    dot: NDArray[np.uint8]


def _cells(lines: Sequence[layout.Line]) -> tuple[list[_Cell], int, int]:
    """All characters that are seen, and the picture's width and height."""
    from PIL import ImageFont

    font = ImageFont.load_default(SIZE)
    drawn: dict[str, NDArray[np.uint8]] = {}
    found, width = [], 0
    for row, line in enumerate(lines):
        x = float(MARGIN)
        for character, step in ((each, step) for part, step in line for each in part):
            advance = max(1.0, font.getlength(character))
            for each in (character, "·"):
                if (name := f"{each}{character}") not in drawn:
                    drawn[name] = _shades(font, each, advance)
            pair = drawn[character * 2], drawn[f"·{character}"]
            found.append(_Cell(MARGIN + LINE * row, round(x) - OVERHANG, step, *pair))
            x += advance
        width = max(width, math.ceil(x))
    return found, width + MARGIN, 2 * MARGIN + LINE * len(lines)


def _shades(font: Any, character: str, advance: float) -> NDArray[np.uint8]:
    """A character in the middle of a cell of that width."""
    from PIL import Image, ImageDraw

    width = math.ceil(advance) + 2 * OVERHANG
    image = Image.new("L", (width, LINE))
    ImageDraw.Draw(image).text((OVERHANG + advance / 2.0, 0.75 * LINE), character, fill=255, font=font, anchor="ms")
    return (np.asarray(image).astype(np.uint16) * SHADES // 255).astype(np.uint8)


def _frame(cells: Sequence[_Cell], moment: float, fresh: float, shape: tuple[int, int]) -> bytes:
    """Numbers in the palette of one picture, with the tokens up to the moment, the newest ones green."""
    frame = np.zeros(shape, np.uint8)
    for cell in cells:
        here = cell.step <= moment
        ink = DOT if not here else GREEN if cell.step > moment - fresh else TEXT
        shades = cell.shades if here else cell.dot
        at = frame[cell.y : cell.y + LINE, cell.x : cell.x + shades.shape[1]]
        shades = shades[:, : at.shape[1]]
        np.copyto(at, shades + np.uint8(SHADES * ink), where=shades > 0)
    return frame.tobytes()
