"""Byte pairs over characters, in plain Python: texts come back as they were, and hostile tables are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastsedd
from fastsedd.text import CharacterMerges

CHARACTERS = "\n ',abcd"
A, B, C = (CHARACTERS.index(each) for each in "abc")
SPACE = CHARACTERS.index(" ")
N = len(CHARACTERS)
MERGES = [(A, B), (SPACE, N), (C, C), (N + 2, N + 2), (A, A)]  # ab, " ab", cc, cccc, aa


@given(st.text(CHARACTERS))
def test_texts_come_back(text: str) -> None:
    tokenizer = CharacterMerges(CHARACTERS, MERGES)
    tokens = tokenizer.encode(text)
    assert tokens.dtype == np.int32 and tokenizer.decode(tokens) == text
    assert len(tokens) <= len(text) and (tokens < N + len(MERGES)).all()


@given(st.text(CHARACTERS, min_size=1), st.text(CHARACTERS))
def test_a_text_that_is_cut_at_a_line_end_has_the_tokens_of_its_parts(first: str, second: str) -> None:
    tokenizer = CharacterMerges(CHARACTERS, MERGES)
    whole = tokenizer.encode(f"{first}\n{second}")
    parts = [tokenizer.encode(f"{first}\n"), tokenizer.encode(second)]
    np.testing.assert_array_equal(whole, np.concatenate(parts))


def test_earlier_merges_come_first() -> None:
    tokenizer = CharacterMerges(CHARACTERS, MERGES)
    assert tokenizer.encode("ab").tolist() == [N]
    assert tokenizer.encode("aab").tolist() == [A, N]  # ab before aa
    assert tokenizer.encode(" ab, ab").tolist() == [N + 1, CHARACTERS.index(","), N + 1]
    assert tokenizer.encode("ccccc").tolist() == [N + 3, C]
    assert tokenizer.encode("").tolist() == []
    assert tokenizer.decode(np.array([N, N + len(MERGES)]), mask="?") == "ab?"
    with pytest.raises(ValueError, match="'x'"):
        tokenizer.encode("abx")


def folder_of(write_checkpoint: Any, make_config: Any, **tokenizer: Any) -> Path:
    """A model whose config.json has that tokenizer."""
    config = make_config("radd", "absorb", tokens=N + len(MERGES), characters=None)
    folder: Path = write_checkpoint(config)
    document = json.loads((folder / "config.json").read_text())
    table = {"type": "character merges", "characters": CHARACTERS, "merges": MERGES}
    (folder / "config.json").write_text(json.dumps(document | {"tokenizer": table | tokenizer}))
    return folder


def test_a_model_of_them(write_checkpoint: Any, make_config: Any, tmp_path: Path) -> None:
    folder = folder_of(write_checkpoint, make_config)
    fastsedd.convert(folder, tmp_path / "converted")
    for path in (folder, tmp_path / "converted"):
        model = fastsedd.load(path)
        assert isinstance(model.tokenizer, CharacterMerges)
        result = model.generate(prefix="ab cc", suffix="\n", num_samples=2, seed=3, steps=5)
        assert all(text.startswith("ab cc") and text.endswith("\n") for text in result.texts)
        assert model.generate(template="ab{{3}} cc", seed=3, steps=5).tokens.shape == (1, 6)
        assert np.isfinite(model.evaluate("ab ab, cccc\n" * 8).nats)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"merges": [*MERGES[:-1], (N + 9, A)]}, r"merges has \d+, \d+ as token \d+, allowed: two earlier tokens"),
        ({"merges": [*MERGES[:-1], (-1, A)]}, "allowed: two earlier tokens"),
        ({"merges": [*MERGES[:-1], MERGES[0]]}, "merges has a pair twice"),
        ({"merges": MERGES[:-1]}, r"characters has 8, allowed: 9 distinct ones, the tokens without the merges"),
        ({"merges": []}, "tokenizer.merges is missing"),
        ({"merges": None}, "tokenizer.merges is missing"),
        ({"merges": [[1, 2, 3]] * 5}, "merges"),
        ({"characters": None}, "tokenizer.characters is missing"),
        ({"characters": "aabbccdd"}, "distinct"),
    ],
)
def test_tables_that_are_refused(write_checkpoint: Any, make_config: Any, changes: Any, message: str) -> None:
    folder = folder_of(write_checkpoint, make_config, **changes)
    with pytest.raises(fastsedd.CheckpointError, match=message) as caught:
        fastsedd.load(folder)
    assert str(caught.value).startswith(str(folder)) and str(caught.value).isprintable()


def test_a_table_that_doubles_is_refused_before_it_takes_memory(write_checkpoint: Any, make_config: Any) -> None:
    """Sixty merges of the last token with itself would spell 2^60 characters."""
    config = make_config("radd", "absorb", tokens=62, characters=None)
    folder = write_checkpoint(config)
    document = json.loads((folder / "config.json").read_text())
    merges = [(token, token) for token in range(1, 61)]
    table = {"type": "character merges", "characters": "ab", "merges": merges}
    (folder / "config.json").write_text(json.dumps(document | {"tokenizer": table}))
    with pytest.raises(fastsedd.CheckpointError, match="more than 256 characters"):
        fastsedd.load(folder)
