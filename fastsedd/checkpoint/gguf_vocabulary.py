"""The tokenizer beside a model's weights -> what a GGUF file holds of it, where it is one that GGUF has a name for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from fastsedd.architectures.base import ModelConfig
from fastsedd.checkpoint import chat_json, small_file
from fastsedd.checkpoint.gguf_tokenizer import (
    CONTROL,
    IGNORE_MERGES,
    NORMAL,
    PATTERNS,
    UNUSED,
    USER_DEFINED,
    Embedded,
    cutting,
)
from fastsedd.errors import CheckpointError

BYTE_PAIRS = "gpt2"  # GGUF's name of byte pairs

_MAX_BYTES = 1 << 26
_END_OF_TEXT = "<|endoftext|>"  # a special token of vocab.json, which does not say so


class UnnamedError(ValueError):
    """A tokenizer that GGUF has no name for; in words, what of it."""


class _Added(msgspec.Struct):
    id: int
    content: str
    special: bool = False


class _Model(msgspec.Struct):
    type: str | None = None
    vocab: Any = None
    merges: Any = None
    ignore_merges: bool = False
    byte_fallback: bool = False
    fuse_unk: bool = False
    unk_token: str | None = None
    continuing_subword_prefix: str | None = None
    end_of_word_suffix: str | None = None


class _Document(msgspec.Struct):
    """The keys that matter of tokenizer.json."""

    model: _Model
    added_tokens: list[_Added] = msgspec.field(default_factory=list)
    normalizer: dict[str, Any] | None = None
    pre_tokenizer: dict[str, Any] | None = None
    decoder: dict[str, Any] | None = None


def read(files: tuple[Path, ...], config: ModelConfig) -> Embedded:
    """The tokenizer of a tokenizer.json, or of vocab.json and merges.txt, with a token for each id of the model.

    Tokens that it does not have are unused ones. Of normalizers NFC is left out, which llama.cpp does not know.
    Raises UnnamedError for one that is not byte pairs, or cuts text otherwise than any that has a name in GGUF;
    CheckpointError for broken files.
    """
    document = small_file.decode(files[0], _Document, _MAX_BYTES) if len(files) == 1 else _of_pairs(*files)
    _check_kind(document)
    vocabulary = _converted(files[0], document.model.vocab or {}, dict[str, int])
    merges = _converted(files[0], document.model.merges or [], list[str | tuple[str, str]])
    tokens = [f"[PAD{i}]" for i in range(config.vocab_size)]
    types = [UNUSED] * len(tokens)
    added = {token.content: CONTROL if token.special else USER_DEFINED for token in document.added_tokens}
    for token, i in (vocabulary | {token.content: token.id for token in document.added_tokens}).items():
        if not 0 <= i < len(tokens):
            raise CheckpointError(f"{files[0]}: token {token!r} has the id {i}, allowed: 0 to {len(tokens) - 1}")
        tokens[i], types[i] = token, added.get(token, NORMAL)
    template, special = _conversations(files[0].parent, {token: i for i, token in enumerate(tokens)})
    return Embedded(
        files[0], BYTE_PAIRS, _name(document), tokens, types,
        [merge if isinstance(merge, str) else " ".join(merge) for merge in merges], template, special,
    )  # fmt: skip


def _of_pairs(vocabulary: Path, merges: Path) -> _Document:
    """GPT-2's two files as the one that they stand for."""
    ids = small_file.decode(vocabulary, dict[str, int], _MAX_BYTES)
    lines = small_file.content(merges, _MAX_BYTES).decode(errors="replace").splitlines()
    return _Document(
        _Model("BPE", ids, [line for line in lines if line and not line.startswith("#version")]),
        [_Added(ids[_END_OF_TEXT], _END_OF_TEXT, True)] if _END_OF_TEXT in ids else [],
        pre_tokenizer=cutting(None),
        decoder=cutting(None),
    )


def _check_kind(document: _Document) -> None:
    """Raise UnnamedError for what GGUF's byte pairs do not have."""
    model = document.model
    if model.type not in ("BPE", None) or (document.decoder or {}).get("type") != "ByteLevel":
        raise UnnamedError(f"its model is of type {model.type!r}, allowed: byte pairs")
    if model.byte_fallback or model.fuse_unk or model.unk_token:
        raise UnnamedError("its model has an unknown token, allowed: none")
    if model.continuing_subword_prefix or model.end_of_word_suffix:
        raise UnnamedError("its pieces have a prefix or a suffix, allowed: none")
    if document.normalizer not in (None, {"type": "NFC"}):
        raise UnnamedError(f"its normalizer is {document.normalizer.get('type')!r}, allowed: none, 'NFC'")


def _name(document: _Document) -> str:
    """The name that GGUF has for how a tokenizer cuts text. Raises UnnamedError where there is none."""
    for name, pattern in PATTERNS.items():
        if document.model.ignore_merges == (name in IGNORE_MERGES):
            found, known = _cuts(document.pre_tokenizer or {}), _cuts(cutting(pattern))
            if found == known:
                return name
    raise UnnamedError(f"its pre_tokenizer is none of those that have a name in GGUF: {', '.join(PATTERNS)}")


def _cuts(stated: dict[str, Any]) -> list[dict[str, Any]]:
    """The steps of a pre_tokenizer, of which offsets, which no id depends on, are left out."""
    steps = stated.get("pretokenizers", [stated])
    defaults = {"ByteLevel": {"add_prefix_space": True, "use_regex": True}, "Split": {"invert": False}}
    return [
        {
            **defaults.get(step.get("type", ""), {}),
            **{key: value for key, value in step.items() if key != "trim_offsets"},
        }
        for step in steps
    ]


def _conversations(folder: Path, ids: dict[str, int]) -> tuple[str | None, dict[str, int]]:
    """The chat template, and the ids of the tokens that it may name."""
    template, named = chat_json.read(folder) or (None, {})
    special = {name: ids[token] for name in ("bos", "eos") if (token := named.get(f"{name}_token")) in ids}
    return template, special


def _converted(path: Path, value: Any, kind: Any) -> Any:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise CheckpointError(f"{path}: {' '.join(str(error).split())}") from None
