"""Byte pair encoding through `tokenizers`: both kinds of files, all bytes, masks, and files that are none."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastsedd
from fastsedd import text
from fastsedd.errors import CheckpointError, UnavailableError

tokenizers = pytest.importorskip("tokenizers")

MERGES = ["h e", "l l", "he ll", "hell o", "Ġ w", "Ġw o"]
CORPUS = "hello world, it's 1999!\n  héllo\twörld 👋 <|endoftext|>"


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """GPT-2's files with few merges: the bytes, the merges, the end of a text."""
    folder = tmp_path_factory.mktemp("gpt2")
    pieces = [*sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()), *(pair.replace(" ", "") for pair in MERGES)]
    vocabulary = {piece: i for i, piece in enumerate([*pieces, "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(MERGES) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def pairs(folder: Path) -> text.BytePairs:
    return text.BytePairs((folder / "vocab.json", folder / "merges.txt"), TOKENS)


TOKENS = 256 + len(MERGES) + 1


def test_pieces(pairs: text.BytePairs) -> None:
    tokens = pairs.encode("hello wo")
    assert tokens.dtype == np.int32 and tokens.tolist() == [256 + 3, 256 + 5]
    assert pairs.encode("").tolist() == [] and pairs.decode(np.empty(0, np.int32)) == ""
    assert pairs.encode("<|endoftext|>").tolist() == [TOKENS - 1]


@given(st.text())
def test_round_trip(pairs: text.BytePairs, given_text: str) -> None:
    assert pairs.decode(pairs.encode(given_text)) == given_text


def test_the_mask_is_shown_between_pieces(pairs: text.BytePairs) -> None:
    hello, world = pairs.encode("hello wo").tolist()
    tokens = np.array([TOKENS, hello, TOKENS, TOKENS, world, TOKENS], np.int32)
    assert pairs.decode(tokens) == "_hello__ wo_"
    assert pairs.decode(np.array([TOKENS]), mask="·") == "·"


def test_parts_of_a_character_are_shown(pairs: text.BytePairs) -> None:
    assert "\ufffd" in pairs.decode(pairs.encode("é")[:1])


def test_one_file_is_as_good_as_two(tmp_path: Path, folder: Path, pairs: text.BytePairs) -> None:
    pairs._tokenizer.save(str(tmp_path / "tokenizer.json"))
    one = text.BytePairs((tmp_path / "tokenizer.json",), TOKENS)
    assert one.encode(CORPUS).tolist() == pairs.encode(CORPUS).tolist()
    assert one.decode(one.encode(CORPUS)) == CORPUS


def test_tokens_that_a_model_does_not_have(folder: Path) -> None:
    small = text.BytePairs((folder / "vocab.json", folder / "merges.txt"), 256)
    with pytest.raises(ValueError, match="allowed: 0 to 255"):
        small.encode("hello")


def test_half_a_surrogate_pair_is_no_text(pairs: text.BytePairs) -> None:
    with pytest.raises(ValueError, match="position 2") as caught:
        pairs.encode("ab\ud800")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"model": null}', "\0", "[" * 5000])
def test_files_that_are_no_tokenizer(tmp_path: Path, content: str) -> None:
    for names in (("tokenizer.json",), ("vocab.json", "merges.txt")):
        for name in names:
            (tmp_path / name).write_text(content)
        if (len(names), content) == (2, "{}"):
            continue  # a vocabulary of nothing
        with pytest.raises(CheckpointError, match="is no tokenizer") as caught:
            text.BytePairs(tuple(tmp_path / name for name in names), 5)
        assert str(caught.value).isprintable()


def test_files_that_are_too_large(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastsedd.text.byte_pairs.MOST_BYTES", 100)
    with pytest.raises(CheckpointError, match="allowed: at most 100"):
        text.BytePairs((folder / "vocab.json", folder / "merges.txt"), 5)


def test_without_the_library(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UnavailableError, match=r"pip install 'fastsedd\[hub\]'"):
        text.BytePairs((folder / "vocab.json", folder / "merges.txt"), 5)


@pytest.fixture
def model_folder(write_checkpoint, make_config) -> Path:
    return write_checkpoint(make_config(tokens=TOKENS, characters=None))


@pytest.mark.parametrize("given", ["beside", "a folder", "a file"])
def test_a_model_writes_with_it(model_folder: Path, folder: Path, pairs: text.BytePairs, given: str) -> None:
    source = None
    if given == "a folder":
        source = folder
    elif given == "a file":
        source = model_folder / "other.json"
        pairs._tokenizer.save(str(source))
    else:
        for name in ("vocab.json", "merges.txt"):
            (model_folder / name).write_bytes((folder / name).read_bytes())
    result = fastsedd.load(model_folder, tokenizer=source).generate(prefix="hello wo", steps=2, seed=1)
    assert result.texts[0].startswith("hello wo") and result.tokens[0, :2].tolist() == [259, 261]


def test_without_it_texts_are_token_ids_and_it_is_said(
    model_folder: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("vocab.json", "merges.txt"):
        (model_folder / name).write_bytes((folder / name).read_bytes())
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    notes: list[str] = []
    result = fastsedd.load(model_folder, note=notes.append).generate(prefix="259 261", steps=2, seed=1)
    assert len(notes) == 1 and "pip install" in notes[0] and notes[0].isprintable()
    assert result.texts[0].split() == [str(token) for token in result.tokens[0]]
    with pytest.raises(UnavailableError):
        fastsedd.load(model_folder, tokenizer=folder)


def test_a_broken_tokenizer_is_an_error_not_token_ids(model_folder: Path) -> None:
    (model_folder / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="is no tokenizer"):
        fastsedd.load(model_folder)


def test_a_folder_without_a_tokenizer(model_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no tokenizer"):
        fastsedd.load(model_folder, tokenizer=tmp_path)
