"""The mask is the id that the config or the tokenizer's files state, in that order, and else the last one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastsedd import checkpoint
from fastsedd.errors import CheckpointError

SIZE = 110  # tokens of the vocabulary, the mask among them
BERT = ["[PAD]", *(f"[unused{i}]" for i in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdef"]

Folder = Callable[..., Path]


@pytest.fixture
def mdlm(write_checkpoint: Any, make_config: Any, make_document: Any) -> Folder:
    """mdlm(files, **keys) -> an MDLM checkpoint with files beside it, and other keys in its config.json."""

    def make(files: dict[str, str] | None = None, **keys: Any) -> Path:
        config = make_config("mdlm", "absorb", tokens=SIZE - 1, characters=None)
        folder: Path = write_checkpoint(config)
        (folder / "config.json").write_text(json.dumps(make_document(config) | keys))
        for name, content in (files or {}).items():
            (folder / name).write_text(content)
        return folder

    return make


def tokenizer_json(mask: str | None, token: int, in_vocabulary: bool = False) -> str:
    vocabulary: dict[str, int] = {"a": 0, "b": 1}
    added = [{"id": 2, "content": "[CLS]", "special": True}]
    if mask is not None and in_vocabulary:
        vocabulary[mask] = token
    elif mask is not None:
        added.append({"id": token, "content": mask, "special": True})
    return json.dumps({"added_tokens": added, "model": {"type": "WordPiece", "vocab": vocabulary, "unk_token": "a"}})


def named(mask: str) -> str:
    return json.dumps({"mask_token": mask})


STATED: dict[str, dict[str, str]] = {
    "tokenizer.json": {"tokenizer.json": tokenizer_json("[MASK]", 103)},
    "tokenizer.json, vocabulary": {"tokenizer.json": tokenizer_json("[MASK]", 103, in_vocabulary=True)},
    "tokenizer.json, RoBERTa's": {"tokenizer.json": tokenizer_json("<mask>", 103)},
    "tokenizer.json, pieces": {
        "tokenizer.json": json.dumps({"model": {"type": "Unigram", "vocab": [[piece, -1.0] for piece in BERT]}})
    },
    "a name of its own": {"tokenizer.json": tokenizer_json("<blank>", 103), "tokenizer_config.json": named("<blank>")},
    "a name of its own, as an object": {
        "tokenizer.json": tokenizer_json("<blank>", 103),
        "special_tokens_map.json": json.dumps({"mask_token": {"content": "<blank>", "lstrip": False}}),
    },
    "tokenizer_config.json": {
        "tokenizer_config.json": json.dumps(
            {"mask_token": "[MASK]", "added_tokens_decoder": {"103": {"content": "[MASK]", "special": True}}}
        )
    },
    "vocab.txt": {"vocab.txt": "\n".join(BERT)},
    "vocab.txt, of Windows": {"vocab.txt": "\r\n".join(BERT)},
}


@pytest.mark.parametrize("case", STATED)
def test_a_mask_in_the_midst_of_the_tokens_is_read(mdlm: Folder, case: str) -> None:
    assert checkpoint.read(mdlm(STATED[case])).config.mask_id == 103


@pytest.mark.parametrize("key", ["mask_token_id", "mask_index", "mask_id"])
def test_a_config_that_states_it(mdlm: Folder, key: str) -> None:
    for token in (0, 103, 109):
        assert checkpoint.read(mdlm(**{key: token})).config.mask_id == token
    assert checkpoint.read(mdlm(**{key: None})).config.mask_id == 109
    for token in (-1, 110):
        with pytest.raises(CheckpointError, match=rf"config\.json: mask_id is {token}, allowed: 0 to 109"):
            checkpoint.read(mdlm(**{key: token}))


def test_a_config_that_states_two(mdlm: Folder) -> None:
    assert checkpoint.read(mdlm(mask_id=5, mask_index=5)).config.mask_id == 5
    with pytest.raises(CheckpointError, match=r"config\.json: states mask_index 5 and mask_id 6: they must be equal"):
        checkpoint.read(mdlm(mask_id=6, mask_index=5))


def test_the_config_comes_before_the_tokenizer(mdlm: Folder) -> None:
    assert checkpoint.read(mdlm(STATED["tokenizer.json"], mask_token_id=7)).config.mask_id == 7


@pytest.mark.parametrize("key", ["tokenizer", "tokenizer_name_or_path"])
def test_a_config_that_names_berts_tokenizer(mdlm: Folder, key: str) -> None:
    for name in ("bert-base-uncased", "google-bert/bert-base-cased"):
        assert checkpoint.read(mdlm(**{key: name})).config.mask_id == 103
    assert checkpoint.read(mdlm(**{key: "gpt2"})).config.mask_id == 109


@pytest.mark.parametrize("size", [30522, 28996])
def test_a_vocabulary_of_berts_size_is_berts_unless_a_tokenizer_says_otherwise(
    write_checkpoint: Any, make_config: Any, size: int
) -> None:
    config = make_config("mdlm", "absorb", tokens=size - 1, width=4, blocks=1, characters=None)
    folder = write_checkpoint(config)
    assert checkpoint.read(folder).config.mask_id == 103
    (folder / "tokenizer.json").write_text(tokenizer_json(None, 0))
    assert checkpoint.read(folder).config.mask_id == size - 1


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"tokenizer.json": tokenizer_json(None, 0)},
        {"tokenizer.json": tokenizer_json("[MASK]", SIZE - 1)},
        {"tokenizer.json": tokenizer_json("<mask>", SIZE - 1), "tokenizer_config.json": named("<mask>")},
        {"tokenizer_config.json": json.dumps({"mask_token": None})},
        {"vocab.txt": "a\nb\n"},
    ],
)
def test_a_mask_at_the_end_is_read(mdlm: Folder, files: dict[str, str]) -> None:
    assert checkpoint.read(mdlm(files)).config.mask_id == SIZE - 1


def test_another_tokenizer_that_is_requested(mdlm: Folder, tmp_path: Path) -> None:
    found = checkpoint.read(mdlm())
    (tmp_path / "tokenizer.json").write_text(tokenizer_json("[MASK]", 103))
    for source in (tmp_path, tmp_path / "tokenizer.json"):
        with pytest.raises(CheckpointError, match="its mask is token 103, but the model's is 109"):
            checkpoint.find_tokenizer(found, source)


@pytest.mark.parametrize("architecture", ["ddit", "radd"])
def test_a_mask_that_is_added_behind_the_tokens_is_not_the_tokenizers(
    write_checkpoint: Any, make_config: Any, architecture: str
) -> None:
    """SEDD and RADD never ask the tokenizer for it; what a config states holds for them too."""
    config = make_config(architecture, "absorb", tokens=SIZE, characters=None)
    folder = write_checkpoint(config)
    (folder / "tokenizer.json").write_text(tokenizer_json("[MASK]", 103))
    assert checkpoint.read(folder).config.mask_id == SIZE
    document = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(document | {"mask_token_id": 103}))
    assert checkpoint.read(folder).config.mask_id == 103


@pytest.mark.parametrize("key", ["9" * 5000, "-1", "1.0", "", "\u0663"])
def test_keys_that_are_not_ids_state_no_mask(mdlm: Folder, key: str) -> None:
    content = json.dumps({"mask_token": "[MASK]", "added_tokens_decoder": {key: {"content": "[MASK]"}}})
    assert checkpoint.read(mdlm({"tokenizer_config.json": content})).config.mask_id == SIZE - 1


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"content": "[MASK]"}, "added_tokens[1], '[MASK]', has no id, allowed: 0 or more"),
        ({"content": "[MASK]", "id": -5}, "added_tokens[1], '[MASK]', has the id -5, allowed: 0 or more"),
        ({"content": "\n", "id": None}, r"added_tokens[1], '\n', has no id, allowed: 0 or more"),
    ],
)
def test_an_added_token_without_an_id_is_named(mdlm: Folder, entry: dict[str, Any], words: str) -> None:
    folder = mdlm({"tokenizer.json": json.dumps({"added_tokens": [{"id": 2, "content": "[CLS]"}, entry]})})
    with pytest.raises(CheckpointError) as caught:
        checkpoint.read(folder)
    assert str(caught.value) == f"{folder / 'tokenizer.json'}: {words}"


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize("content", ["", "{", "[]", "[" * 5000, '{"mask_token": 7, "added_tokens": 7}'])
def test_files_that_are_broken(mdlm: Folder, name: str, content: str) -> None:
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")) as caught:
        checkpoint.read(mdlm({name: content}))
    assert str(caught.value).isprintable()
