"""Recordings: one file of its own, which adds up to the text."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

import fastsedd
from fastsedd.cli import main
from fastsedd.recording import Recording, check_path, html


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
    result = CliRunner().invoke(main, [*arguments, str(tmp_path / "text.gif")])
    assert result.exit_code == 2 and "allowed: a name that ends in .html or .svg" in result.stderr
    result = CliRunner().invoke(main, [*arguments, str(path), "--scheduler", "local:2"])
    assert result.exit_code == 2 and "--record" in result.stderr


def test_kinds_of_files_that_there_are_not() -> None:
    check_path(Path("a.HTML"))
    with pytest.raises(ValueError, match="allowed"):
        check_path(Path("a"))
