"""The documents keep their word: examples run, commands parse, links lead somewhere, pictures are what they say."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import click
import pytest

from fastsedd.cli import main

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("*/*.md"), *ROOT.glob("fastsedd/assets/*.md")])
PYTHON = [ROOT / "README.md", ROOT / "docs" / "python.md"]


def commands() -> Iterator[str]:
    """Every line of an indented block, of any document, that begins with `fastsedd `, without its comment."""
    for document in DOCUMENTS:
        for line in document.read_text(encoding="utf-8").splitlines():
            if line.startswith("    fastsedd "):
                yield line.strip()


def test_there_are_commands() -> None:
    assert len(set(commands())) > 20


@pytest.mark.parametrize("line", dict.fromkeys(commands()))
def test_a_command_is_one_that_the_program_knows(line: str) -> None:
    arguments = shlex.split(line.replace("$'", "'"), comments=True)[1:]
    name, command, rest = main.resolve_command(click.Context(main), arguments)
    assert command is not None
    command.make_parser(click.Context(command, info_name=name)).parse_args(rest)  # refuses unknown options


@pytest.mark.parametrize("document", PYTHON, ids=lambda path: path.name)
def test_examples_run_one_after_the_other(document: Path) -> None:
    examples = re.findall(r"^```python\n(.*?)^```$", document.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert examples
    names: dict[str, object] = {}
    for example in examples:
        exec(compile(example, str(document), "exec"), names)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files(document: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)", document.read_text(encoding="utf-8"))
    missing = [each for each in targets if "://" not in each and not (document.parent / each).exists()]
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_installed_from_where_it_is_not(document: Path) -> None:
    """The packages are not on PyPI: `pip install fastsedd` would fail, or install something else."""
    assert not re.search(r"pip install ['\"]?fastsedd", document.read_text(encoding="utf-8"))


def test_the_picture_is_small_and_whole() -> None:
    picture = ROOT / "docs" / "emerging.svg"
    assert picture.stat().st_size < 1 << 20
    texts = ["".join(each.itertext()) for each in ElementTree.parse(picture).iter("{http://www.w3.org/2000/svg}text")]
    assert len(texts) >= 4 and len(texts) % 2 == 0
    for dots, text in zip(texts[::2], texts[1::2], strict=True):
        assert set(dots) <= {"·"} and len(dots) == len(text)
