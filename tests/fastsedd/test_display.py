"""What is drawn on a terminal: bars, the live view and the table of facts."""

from __future__ import annotations

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console

from fastsedd import display

MASK_TOKEN = 26
HIDE_CURSOR = "\x1b[?25l"
SHOW_CURSOR = "\x1b[?25h"


class Letters:
    """Tokens 0 to 25 as letters."""

    def encode(self, text: str) -> NDArray[np.int32]:
        return np.array([ord(letter) - ord("a") for letter in text], np.int32)

    def decode(self, tokens: NDArray[np.int32], mask: str = "_") -> str:
        return "".join(mask if token == MASK_TOKEN else chr(ord("a") + token) for token in tokens)


def states(*texts: str) -> list[NDArray[np.int32]]:
    """One state, int32 [1, L], a text; an underscore is a mask."""
    codes = [[MASK_TOKEN if letter == "_" else ord(letter) - ord("a") for letter in text] for text in texts]
    return [np.array([row], np.int32) for row in codes]


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Everything that is sent to a terminal of 80 columns."""
    sent = io.StringIO()
    terminal = Console(file=sent, force_terminal=True, width=80, height=24, color_system="standard", _environ={})
    monkeypatch.setattr(display, "Console", lambda **_: terminal)
    return sent


def test_masks_are_faint_and_changes_stand_out() -> None:
    before, now = states("a_c__", "ab_d_")
    text = display.noisy_text(now[0], before[0], Letters(), MASK_TOKEN)
    assert text.plain == "ab·d·"
    drawn = [(text.plain[span.start : span.end], span.style) for span in text.spans]
    assert drawn == [("b", display.FRESH), ("·", display.MASKED), ("d", display.FRESH), ("·", display.MASKED)]


def test_a_graph_without_a_mask_has_no_faint_tokens() -> None:
    before, now = states("abc", "abz")
    text = display.noisy_text(now[0], before[0], Letters(), None)
    assert [span.style for span in text.spans] == [display.FRESH]


def test_the_view_shows_every_state_and_leaves_nothing(screen: io.StringIO) -> None:
    with display.denoising_view(1, Letters(), MASK_TOKEN) as on_step:
        for step, state in enumerate(states("___", "a_c", "abc"), start=1):
            on_step(step, 3, state)
    drawn = screen.getvalue()
    assert all(seen in drawn for seen in ("···", "step 1/3", "step 2/3", "step 3/3"))
    assert drawn.endswith("\x1b[2K")  # its topmost line, the last to go, is erased


@pytest.mark.parametrize("view", [False, True])
def test_it_is_gone_between_batches_while_texts_are_printed(screen: io.StringIO, view: bool) -> None:
    shown = display.denoising_view(2, Letters(), MASK_TOKEN) if view else display.denoising_bar(2)
    with shown as on_step:
        for _batch in range(2):
            on_step(1, 2, states("_b")[0])
            on_step(2, 2, states("ab")[0])
            assert screen.getvalue().count(HIDE_CURSOR) == screen.getvalue().count(SHOW_CURSOR)


def test_an_interrupt_gives_the_cursor_back(screen: io.StringIO) -> None:
    def interrupted() -> None:
        with display.denoising_view(1, Letters(), MASK_TOKEN) as on_step:
            on_step(1, 2, states("_b")[0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert screen.getvalue().count(HIDE_CURSOR) == screen.getvalue().count(SHOW_CURSOR) == 1


def test_the_bar_counts_the_steps_of_every_text(screen: io.StringIO) -> None:
    pair = np.zeros((2, 3), np.int32)
    with display.denoising_bar(8) as on_step:
        on_step(1, 2, pair)
        on_step(2, 2, pair)
    assert "25%" in screen.getvalue()


def test_the_bar_says_how_many_samples_a_second(screen: io.StringIO) -> None:
    pair = np.zeros((2, 3), np.int32)
    with display.denoising_bar(8) as on_step:
        for _batch in range(3):
            on_step(1, 2, pair)
            on_step(2, 2, pair)
    with display.counting_bar("writing", "pages") as progress:
        for done in range(3):
            progress(done, 3)
    assert "samples/s" in screen.getvalue() and "pages/s" in screen.getvalue()


def test_the_counting_bar(screen: io.StringIO) -> None:
    with display.counting_bar("compiling") as progress:
        progress(1, 2)
        progress(2, 2)
    assert "compiling" in screen.getvalue()
    assert "100%" in screen.getvalue()


def test_facts_are_a_table_on_a_terminal(screen: io.StringIO) -> None:
    display.print_facts([("graph", "absorb"), ("tokenizer", "[bold]" + "x" * 200)])
    assert "│" in screen.getvalue()
    assert "[bold]" in screen.getvalue()
    assert screen.getvalue().count("x") == 200


def test_facts_are_whole_lines_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    display.print_facts([("graph", "absorb"), ("tokenizer", "x" * 200)])
    assert capsys.readouterr().out == f"graph      absorb\ntokenizer  {'x' * 200}\n"
