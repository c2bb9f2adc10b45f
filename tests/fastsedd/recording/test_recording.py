"""Recordings: one file of its own, which adds up to the text."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from click.testing import CliRunner

import fastsedd
from fastsedd.cli import main
from fastsedd.recording import Recording, check_path, gif, html, layout


@pytest.mark.parametrize("graph", ["absorb", "uniform"])
def test_a_recording_adds_up_to_the_first_text(tmp_path: Path, write_checkpoint, make_config, graph: str) -> None:
    model = fastsedd.load(write_checkpoint(make_config(graph=graph)))
    recording = Recording(model.tokenizer, model.config.mask_id)
    texts = model.generate("ab", num_samples=3, batch_size=1, steps=5, seed=2, on_step=recording.on_step).texts
    for name in ("text.html", "text.svg"):
        recording.write(tmp_path / name)
    page = (tmp_path / "text.html").read_text(encoding="utf-8")
    found = re.search(r"const \{ length, changes \} = (.*);", page)
    assert found is not None and "http" not in page
    data = json.loads(found[1])
    cells = [""] * data["length"]
    assert len(data["changes"]) == 6
    for step in data["changes"]:
        for position, text in step:
            cells[position] = text
    assert "".join(cells) == texts[0]
    picture = ElementTree.parse(tmp_path / "text.svg").iter("{http://www.w3.org/2000/svg}text")
    rows = ["".join(each.itertext()) for each in picture]
    assert "\n".join(rows[1::2]) == texts[0]


def test_text_cannot_end_the_script_it_is_in() -> None:
    page = html.page(1, [[(0, "</script><!--\u2028")]])
    assert page.count("</script>") == 1 and "<!--" not in page and "\u2028" not in page


def test_record_is_an_option_of_generate(tmp_path: Path, write_checkpoint, make_config) -> None:
    folder = write_checkpoint(make_config())
    path = tmp_path / "text.svg"
    arguments = ["generate", "--model", str(folder), "--steps", "3", "--seed", "1", "--record"]
    result = CliRunner().invoke(main, [*arguments, str(path)])
    assert result.exit_code == 0 and path.read_text(encoding="utf-8").startswith("<svg")
    assert result.stdout.rstrip("\n") == fastsedd.load(folder).generate(steps=3, seed=1).texts[0].rstrip("\n")
    result = CliRunner().invoke(main, [*arguments, str(tmp_path / "text.png")])
    assert result.exit_code == 2 and "allowed: a name that ends in .html, .svg or .gif" in result.stderr
    result = CliRunner().invoke(main, [*arguments, str(path), "--scheduler", "local:2"])
    assert result.exit_code == 2 and "--record" in result.stderr


def test_a_gif_goes_from_dots_to_the_text(tmp_path: Path, write_checkpoint, make_config) -> None:
    """Its first picture is that of dots alone, its last one that of the text alone, and nothing is green for long."""
    image = pytest.importorskip("PIL.Image", reason="an extra")
    folder, path = write_checkpoint(make_config()), tmp_path / "text.gif"
    arguments = ["generate", "--model", str(folder), "--steps", "6", "--seed", "1", "--record", str(path)]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    model = fastsedd.load(folder)
    recording = Recording(model.tokenizer, model.config.mask_id)
    model.generate(steps=6, seed=1, on_step=recording.on_step)
    recording.write(tmp_path / "again.gif")
    assert path.read_bytes() == (tmp_path / "again.gif").read_bytes()
    moving = image.open(path)
    assert moving.info["loop"] == 0 and 3 <= moving.n_frames <= gif.MAX_FRAMES
    pictures, seconds = [], []
    for at in range(moving.n_frames):
        moving.seek(at)
        seconds.append(moving.info["duration"] / 1000)
        pictures.append({colour for _, colour in moving.convert("RGB").getcolors()})
    inks = [gif.INKS[gif.DOT], gif.INKS[gif.TEXT], gif.INKS[gif.GREEN]]
    assert inks[gif.TEXT] not in pictures[0] and inks[gif.GREEN] not in pictures[0]
    assert inks[gif.TEXT] in pictures[-1] and inks[gif.DOT] not in pictures[-1] and inks[gif.GREEN] not in pictures[-1]
    assert any(inks[gif.GREEN] in picture for picture in pictures)
    assert seconds[-1] == pytest.approx(gif.HELD) and sum(seconds) == pytest.approx(gif.SECONDS + gif.HELD, abs=2.5)


@pytest.mark.parametrize("text", ["漢字\ufffd", "a\tb", "\x00\x07\r", "\ud800x", "e\u0301", "", "\n\n"])
def test_a_gif_shows_any_text(text: str) -> None:
    pytest.importorskip("PIL", reason="an extra")
    assert gif.gif([text], np.array([0])).startswith(b"GIF89a")


def test_a_gif_without_pillow_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    result = CliRunner().invoke(main, ["generate", "--record", str(tmp_path / "text.gif")])
    assert result.exit_code == 2 and "a .gif needs Pillow: pip install '.[gif]'" in result.stderr


@pytest.mark.parametrize("text", ["word " * 60, "x" * 250, "a\nb\n" + "long words " * 20 + "\nc", "", "\n"])
def test_lines_that_are_too_long_are_broken_at_spaces(text: str) -> None:
    pieces = [text[i : i + 3] for i in range(0, len(text), 3)]
    steps = np.arange(len(pieces))
    lines = layout.lines(pieces, steps)
    assert all(len("".join(part for part, _ in line)) <= layout.COLUMNS for line in lines)
    assert "".join(part for line in lines for part, _ in line) == text.replace("\n", "")
    flat = [step for line in lines for part, step in line for _ in part]
    assert flat == [int(step) for piece, step in zip(pieces, steps, strict=True) for each in piece if each != "\n"]
    if " " in text:
        words = set(re.findall(r"\w+", text))
        assert {word for line in lines for word in "".join(part for part, _ in line).split()} == words
    else:
        assert len(lines) == max(1, -(-len(text) // layout.COLUMNS)) or "\n" in text


def test_kinds_of_files_that_there_are_not() -> None:
    check_path(Path("a.HTML"))
    with pytest.raises(ValueError, match="allowed"):
        check_path(Path("a"))


def test_a_record_is_no_text(tmp_path: Path, write_checkpoint, make_config) -> None:
    """Not written over --output; and a job that is complete, and started again, has none to show."""
    folder = write_checkpoint(make_config())
    path = tmp_path / "texts.svg"
    arguments = ["generate", "--model", str(folder), "--steps", "2", "--seed", "1", "--json", "--output", str(path)]
    result = CliRunner().invoke(main, [*arguments, "--record", str(tmp_path / "." / "texts.svg")])
    assert result.exit_code == 2 and "is --output's file" in result.stderr
    for _ in range(2):
        result = CliRunner().invoke(main, [*arguments, "--resume", "--record", str(tmp_path / "first.svg")])
        assert result.exit_code == 0, result.stderr
    assert (tmp_path / "first.svg").exists() and path.read_text().count("\n") == 1
