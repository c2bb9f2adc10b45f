"""One text's way out of noise, kept as one file that needs no other: a page to step through, or a moving picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastsedd import atomic
from fastsedd.recording import gif, html, layout, svg
from fastsedd.text import Tokenizer

KINDS = (".html", ".svg", ".gif")


def check_path(path: Path) -> None:
    """Raise ValueError for a name whose ending is none of KINDS, or one that needs what is not installed."""
    if path.suffix.lower() not in KINDS:
        raise ValueError(
            f"record is {str(path)!r}, allowed: a name that ends in {', '.join(KINDS[:-1])} or {KINDS[-1]}"
        )
    if path.suffix.lower() == ".gif":
        gif.require()


class Recording:
    """The states of a request's first text, taken as `on_step` sees them."""

    def __init__(self, tokenizer: Tokenizer, mask: int | None) -> None:
        self._tokenizer, self._mask = tokenizer, mask
        self._states: list[NDArray[np.int32]] = []
        self._whole = False

    def on_step(self, step: int, steps: int, tokens: NDArray[np.int32]) -> None:
        """Keep a state's first text; tokens : int32 [B, L]. Texts of later batches are not kept."""
        if not self._whole:
            self._states.append(tokens[0].copy())
            self._whole = step == steps

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all. Raises ValueError without a state, or for another kind of file."""
        check_path(path)
        if not self._states:
            raise ValueError("record: no text has been written")
        if path.suffix.lower() == ".gif":
            atomic.write_bytes(path, gif.gif(*self._settled()))
            return
        with atomic.text_file(path) as file:
            file.write(svg.svg(*self._settled()) if path.suffix.lower() == ".svg" else self._html())

    def _settled(self) -> tuple[list[str], NDArray[np.intp]]:
        """The tokens' texts, and the step from which on each is the final one."""
        return [self._text(int(token)) for token in self._states[-1]], layout.settled(self._states)

    def _html(self) -> str:
        before = np.full_like(self._states[0], -1 if self._mask is None else self._mask)
        changes = []
        for state in self._states:
            changes.append([(int(at), self._text(int(state[at]))) for at in np.flatnonzero(state != before)])
            before = state
        return html.page(len(before), changes)

    def _text(self, token: int) -> str:
        """A token's text, "" for the mask."""
        return "" if token == self._mask else self._tokenizer.decode(np.array([token], np.int32))
