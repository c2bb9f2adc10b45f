"""Families of masked language models by the program: it tells, writes, goes on with a file, and measures."""

from __future__ import annotations

import json
import re
from pathlib import Path

import masked_models
import pytest
from click.testing import CliRunner, Result

import fastsedd
from fastsedd import cli


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(cli.main, [str(each) for each in arguments])
    assert result.exit_code == 0, result.output
    return result


def objects(text: str) -> list[dict]:
    """The lines of texts, without how long each took."""
    return [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in text.splitlines()]


@pytest.mark.parametrize("family", ["Dream", "llama", "llada", "gpt2", "smdm"])
def test_a_family_by_the_program(tmp_path: Path, family: str) -> None:
    folder, out = masked_models.write(tmp_path / "model", family), tmp_path / "texts.jsonl"
    told = dict(re.split(" {2,}", line, maxsplit=1) for line in run("inspect", folder).stdout.splitlines())
    assert told["architecture"] == family and told["vocabulary"].endswith("and a mask, 259")
    asked = ["generate", "--model", folder, "--prompt", "Hello", "--max-new-tokens", 8, "--steps", 4, "--seed", 3]
    text = fastsedd.load(folder).generate(prompt="Hello", max_new_tokens=8, steps=4, seed=3).texts[0]
    assert run(*asked).stdout == f"{text}\n"
    asked += ["--json", "--num-samples", 3, "--output", out]
    run(*asked)
    whole = out.read_text()
    assert [each["index"] for each in objects(whole)] == [0, 1, 2] and objects(whole)[0]["text"] == text
    out.write_text("".join(whole.splitlines(keepends=True)[:2]))
    run(*asked, "--resume")
    assert objects(out.read_text()) == objects(whole)
    (tmp_path / "text.txt").write_text("To be.")
    measured = json.loads(run("evaluate", folder, tmp_path / "text.txt", "--times", 2, "--json").stdout)
    assert measured["nats"] == pytest.approx(fastsedd.load(folder).evaluate("To be.", times=2).nats)


@pytest.mark.parametrize("dtype", ["bfloat16", "int4"])
@pytest.mark.parametrize("family", ["llada", "gpt2", "smdm"])
def test_a_family_in_fewer_bits_writes(tmp_path: Path, family: str, dtype: str) -> None:
    model = fastsedd.load(masked_models.write(tmp_path / "model", family), dtype)
    result = model.generate(prompt="Hello", max_new_tokens=8, steps=4, seed=3)
    assert model.config.mask_id not in result.tokens
