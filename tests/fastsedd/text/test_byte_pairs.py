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


@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "byte-order mark"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"], ids=["lf", "crlf"])
def test_files_as_editors_on_windows_write_them(
    tmp_path: Path, folder: Path, pairs: text.BytePairs, mark: str, newline: str
) -> None:
    for name in ("vocab.json", "merges.txt"):
        content = (folder / name).read_text(encoding="utf-8").replace("\n", newline)
        (tmp_path / name).write_bytes((mark + content).encode())
    saved = pairs._tokenizer.to_str(pretty=True).replace("\n", newline)
    (tmp_path / "tokenizer.json").write_bytes((mark + saved).encode())
    for files in ((tmp_path / "vocab.json", tmp_path / "merges.txt"), (tmp_path / "tokenizer.json",)):
        assert text.BytePairs(files, TOKENS).encode(CORPUS).tolist() == pairs.encode(CORPUS).tolist()


def changed(pairs: text.BytePairs, folder: Path, **changes: object) -> text.BytePairs:
    """The same tokenizer, its tokenizer.json with other values at the top or, as model__KEY, in the model."""
    document = json.loads(pairs._tokenizer.to_str())
    for key, value in changes.items():
        (document["model"] if key.startswith("model__") else document)[key.removeprefix("model__")] = value
    (folder / "changed.json").write_text(json.dumps(document))
    return text.BytePairs((folder / "changed.json",), TOKENS)


CUT = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
PADDED = {
    "strategy": {"Fixed": 64}, "direction": "Left", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
    "pad_token": "!",
}  # fmt: skip
FRAMED = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "E", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
    "special_tokens": {"E": {"id": "E", "ids": [TOKENS - 1], "tokens": ["<|endoftext|>"]}},
}


@pytest.mark.parametrize(
    "changes",
    [
        {"truncation": CUT},
        {"truncation": CUT | {"direction": "Left", "max_length": 1}},
        {"padding": PADDED},
        {"truncation": CUT, "padding": PADDED | {"strategy": "BatchLongest", "pad_to_multiple_of": 8}},
        {"post_processor": FRAMED},
        {"truncation": CUT, "padding": PADDED, "post_processor": FRAMED},
        {"model__dropout": 0.9},
    ],
)
def test_settings_for_training_do_not_touch_the_text(
    tmp_path: Path, pairs: text.BytePairs, changes: dict[str, object]
) -> None:
    """Truncation, padding, framing tokens and merges that are left out at random."""
    other = changed(pairs, tmp_path, **changes)
    for given_text in (CORPUS, "", "hello", "x" * 5000):
        assert other.encode(given_text).tolist() == pairs.encode(given_text).tolist()


@pytest.mark.parametrize(
    ("changes", "given_text", "words"),
    [
        ({"normalizer": {"type": "Lowercase"}}, "hello World", "'World' at position 6 would become 'world'"),
        ({"normalizer": {"type": "NFC"}}, "cafe\u0301", "at position 3"),
        ({"normalizer": {"type": "Strip", "strip_left": False, "strip_right": True}}, "hello ", "' ' at position 5"),
        ({"normalizer": {"type": "Replace", "pattern": {"String": "\n"}, "content": " "}}, "a\nb", "position 1"),
        ({"normalizer": {"type": "Prepend", "prepend": "x"}}, "hello", "would become 'xhello'"),
        (
            {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}},
            "hello", "would become ' hello'",
        ),
        ({"pre_tokenizer": {"type": "Whitespace"}, "decoder": None}, "hello wo", "rewrites the text"),
        ({"pre_tokenizer": None}, "a\tb", "'\\tb' at position 1 would become 'b'"),
        ({"decoder": None}, "hello wo", "rewrites the text"),
    ],
)  # fmt: skip
def test_text_that_would_be_rewritten_is_refused(
    tmp_path: Path, pairs: text.BytePairs, changes: dict[str, object], given_text: str, words: str
) -> None:
    other = changed(pairs, tmp_path, **changes)
    with pytest.raises(ValueError, match="the tokenizer rewrites the text") as caught:
        other.encode(given_text)
    assert words in str(caught.value) and str(caught.value).isprintable()


def test_text_that_a_rewriting_tokenizer_keeps_is_taken(tmp_path: Path, pairs: text.BytePairs) -> None:
    lower = changed(pairs, tmp_path, normalizer={"type": "Lowercase"})
    assert lower.encode("hello wo").tolist() == pairs.encode("hello wo").tolist()
    spaced = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    assert changed(pairs, tmp_path, pre_tokenizer=spaced).encode(" wo").tolist() == pairs.encode(" wo").tolist()


def test_unknown_characters_and_bytes(tmp_path: Path) -> None:
    """Without a token for what is unknown it would be left out; with one for each byte it is kept."""
    vocabulary = {"a": 0, "b": 1, "<unk>": 2}
    for unknown in (None, "<unk>"):
        tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, [], unk_token=unknown)).save(str(tmp_path / "t.json"))
        with pytest.raises(ValueError, match="rewrites the text: 'cb' at position 1"):
            text.BytePairs((tmp_path / "t.json",), 3).encode("acb")
    octets = {f"<0x{i:02X}>": i for i in range(256)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(octets | {"a": 256}, [], byte_fallback=True))
    tokenizer.decoder = tokenizers.decoders.Sequence([tokenizers.decoders.ByteFallback(), tokenizers.decoders.Fuse()])
    tokenizer.save(str(tmp_path / "t.json"))
    assert text.BytePairs((tmp_path / "t.json",), 257).encode("aé").tolist() == [256, 0xC3, 0xA9]


def test_an_added_token_that_takes_the_space_beside_it(tmp_path: Path, pairs: text.BytePairs) -> None:
    other = json.loads(pairs._tokenizer.to_str())
    other["added_tokens"][0] |= {"lstrip": True}
    (tmp_path / "t.json").write_text(json.dumps(other))
    stripping = text.BytePairs((tmp_path / "t.json",), TOKENS)
    assert stripping.encode("wo<|endoftext|>").tolist()[-1] == TOKENS - 1
    with pytest.raises(ValueError, match="rewrites the text"):
        stripping.encode("wo <|endoftext|>")


def test_tokens_that_a_model_does_not_have(folder: Path) -> None:
    small = text.BytePairs((folder / "vocab.json", folder / "merges.txt"), 256)
    with pytest.raises(ValueError, match="allowed: 0 to 255"):
        small.encode("hello")


def test_half_a_surrogate_pair_is_refused(pairs: text.BytePairs) -> None:
    with pytest.raises(ValueError, match="position 2") as caught:
        pairs.encode("ab\ud800")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"model": null}', "\0", "[" * 5000])
def test_files_that_are_not_tokenizers(tmp_path: Path, content: str) -> None:
    for names in (("tokenizer.json",), ("vocab.json", "merges.txt")):
        for name in names:
            (tmp_path / name).write_text(content)
        if (len(names), content) == (2, "{}"):
            continue  # a vocabulary of nothing
        with pytest.raises(CheckpointError, match="is not a tokenizer") as caught:
            text.BytePairs(tuple(tmp_path / name for name in names), 5)
        assert str(caught.value).isprintable()


def test_files_that_are_too_large(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastsedd.text.byte_pairs.MAX_BYTES", 100)
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
    with pytest.raises(CheckpointError, match="is not a tokenizer"):
        fastsedd.load(model_folder)


def test_a_folder_without_a_tokenizer(model_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no tokenizer"):
        fastsedd.load(model_folder, tokenizer=tmp_path)


@pytest.mark.parametrize("source", ["", "/nowhere/x", "./x", "owner/name/folder", "a b", "x" * 5000])
def test_a_tokenizer_that_is_nowhere(model_folder: Path, source: str) -> None:
    with pytest.raises(CheckpointError, match="no such file or folder"):
        fastsedd.load(model_folder, tokenizer=source)


def test_the_last_token_is_allowed_where_the_mask_is_another(folder: Path) -> None:
    files = (folder / "vocab.json", folder / "merges.txt")
    assert text.BytePairs(files, TOKENS - 1, mask=3).encode("<|endoftext|>").tolist() == [TOKENS - 1]
    with pytest.raises(ValueError, match=rf"has the token {TOKENS - 1}, allowed: 0 to {TOKENS - 2}$"):
        text.BytePairs(files, TOKENS - 2, mask=3).encode("<|endoftext|>")
